"""How much of a conversation goes into the recovery data: its newest turns, and what the system was told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FittedContext", "SizedMessage", "fit_context"]

KEPT_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class SizedMessage:
    """A message of a context, and the bytes that it takes in the recovery data."""

    message: Any
    size_bytes: int

    @property
    def role(self) -> str:
        """Who said it; '' for a message in a service's own form."""
        role = self.message.get("role") if isinstance(self.message, dict) else ""
        return role if isinstance(role, str) else ""


@dataclass(frozen=True, slots=True)
class FittedContext:
    """What fits.

    Attributes:
        messages: in their order.
        dropped_turns: how many turns were left out, the oldest first.
        is_lost: nothing fits, not even what the system was told; ``messages`` is empty.
    """

    messages: list[Any]
    dropped_turns: int = 0
    is_lost: bool = False


def fit_context(messages: Sequence[SizedMessage], most_bytes: int) -> FittedContext:
    """Leaves out the oldest turns until the rest fits. What the system was told stays.

    A turn begins with what a user says. It is kept or left out whole, as a model refuses the result of a tool without its call.

    Args:
        messages: of the whole conversation.
        most_bytes: for all of them together, the commas between them included.
    """
    turn, turns = 0, []
    for one in messages:
        turn += one.role == "user"
        turns.append(-1 if one.role in KEPT_ROLES else turn)
    left = sum(one.size_bytes for one in messages)
    present = sorted({number for number in turns if number >= 0})
    dropped = 0
    while left > most_bytes and dropped < len(present):
        left -= sum(one.size_bytes for one, number in zip(messages, turns, strict=True) if number == present[dropped])
        dropped += 1
    if left > most_bytes:
        return FittedContext([], dropped, is_lost=True)
    gone = set(present[:dropped])
    return FittedContext(
        [one.message for one, number in zip(messages, turns, strict=True) if number not in gone], dropped
    )
