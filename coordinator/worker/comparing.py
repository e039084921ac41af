"""Compares what an instance and its store say of one session, and decides what follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator.states import SERVED

__all__ = ["Difference", "Stored", "compare"]

Difference = Literal["", "state_again", "renew", "give_up"]
"""What to do: nothing; state again what is held; take over the epoch of its renewal; give it up under the stored epoch."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session's record, as far as it names the owner.

    Attributes:
        epoch: 0 without a record.
    """

    state: str = ""
    owner: str = ""
    epoch: int = 0
    pool: str = ""

    def is_of(self, instance: str) -> bool:
        """Whether that instance owns it."""
        return self.owner == instance and self.state in SERVED


def compare(instance: str, held: int | None, stored: Stored) -> Difference:
    """Decides what an instance does about one session.

    Args:
        instance: its id.
        held: the epoch under which it believes to own the session; None when it does not.
        stored: what the record says.
    """
    if held is None:
        return "give_up" if stored.is_of(instance) else ""
    if not stored.is_of(instance):
        return "state_again"  # after lost writes another worker may have it: the store tells
    if stored.epoch == held:
        return ""
    return "renew" if stored.epoch > held else "state_again"
