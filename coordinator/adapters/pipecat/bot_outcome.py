"""What becomes of a call when its bot has ended here. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["BotEnd", "BotOutcome", "outcome_of"]


class BotOutcome(Enum):
    """NOTHING: another bot has the call. CLOSE: the call is over. RELEASE: other workers get it. AWAIT: its caller may come again."""

    NOTHING = "nothing"
    CLOSE = "close"
    RELEASE = "release"
    AWAIT = "await"


@dataclass(frozen=True, slots=True)
class BotEnd:
    """How a bot ended.

    Attributes:
        lost: another worker has the session.
        superseded: its caller came to this worker once more, on another connection.
        sent_on: this worker drains, and has sent the caller to another one.
        hung_up: the provider said that the stream is over.
        disconnected: the connection ended without a word.
        failed: the bot raised, or an error ended its pipeline.
    """

    lost: bool = False
    superseded: bool = False
    sent_on: bool = False
    hung_up: bool = False
    disconnected: bool = False
    failed: bool = False


def outcome_of(end: BotEnd) -> BotOutcome:
    """A provider whose connection broke has not hung up: it may connect again. A bot that then fails says nothing of the call."""
    if end.lost or end.superseded:
        return BotOutcome.NOTHING
    if end.sent_on:  # being sent on ends the stream, too
        return BotOutcome.AWAIT
    if end.hung_up:
        return BotOutcome.CLOSE
    if end.disconnected:
        return BotOutcome.AWAIT
    return BotOutcome.RELEASE if end.failed else BotOutcome.CLOSE
