"""The one rule that decides by its class whether an answer counts. Pure."""

from __future__ import annotations

from enum import Enum

from coordinator.store import calls
from coordinator.store.replies import Reply

__all__ = ["ReplyVerdict", "verdict_on"]


class ReplyVerdict(Enum):
    """What an answer means for the asking worker."""

    COUNTS = "it says what became of the request"
    HELD = "a hold is on: ask again"
    STATE_AGAIN = "the store lost writes: what is owned is stated again first"
    JOIN_AGAIN = "the store does not know this instance: it registers again first"
    NOT_THE_OWNER = "this session is not the writer's"
    DEAD = "this instance was declared dead"


def verdict_on(reply: Reply) -> ReplyVerdict:
    """What the reply of any script means; every word but these counts."""
    match reply:
        case calls.Held():
            return ReplyVerdict.HELD
        case calls.Resync():
            return ReplyVerdict.STATE_AGAIN
        case calls.Unknown():
            return ReplyVerdict.JOIN_AGAIN
        case calls.FencedWrite() if reply.scope == "session":
            return ReplyVerdict.NOT_THE_OWNER
        case calls.Fenced():
            return ReplyVerdict.DEAD
        case _:
            return ReplyVerdict.COUNTS
