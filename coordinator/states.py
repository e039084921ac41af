"""Every state of a session and of an instance, and every transition between them.

This table is the one home of the rule (h11 keeps its state machine the same way): the picture in
``docs/protocol.md`` is made from it, and the property tests refuse a transition that is not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ENDED", "LIVING", "SERVED", "TRANSITIONS", "InstanceState", "SessionState", "Transition", "allowed", "transitions_table",
]  # fmt: skip


class SessionState(StrEnum):
    """What a session record says in its field ``state``."""

    ACTIVE = "active"
    """An owner serves it."""
    OFFERED = "offered"
    """Its owner is dead or gave it up; a lease runs, and a worker that reads the offer may adopt it."""
    HANDING_OVER = "handing_over"
    """Its owner still serves and writes it; an heir may have accepted it."""
    DEAD_LETTERED = "dead_lettered"
    """Given up on, kept with its data and a reason, replayable."""
    CLOSED = "closed"
    """The call ended; the record stays for a while."""


class InstanceState(StrEnum):
    """What an instance record says in its field ``state``."""

    ALIVE = "alive"
    DRAINING = "draining"
    DEAD = "dead"


SERVED = (SessionState.ACTIVE, SessionState.HANDING_OVER)
"""States of a session that an owner serves."""
ENDED = (SessionState.CLOSED, SessionState.DEAD_LETTERED)
"""States of a session that no worker is offered."""
LIVING = (InstanceState.ALIVE, InstanceState.DRAINING)
"""States of an instance that beats."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One arrow: from a state (None: no record) to a state, by a script, and why."""

    before: SessionState | None
    after: SessionState
    script: str
    why: str


_S = SessionState

TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, _S.ACTIVE, "open", "an instance opens the call"),
    Transition(
        _S.DEAD_LETTERED,
        _S.ACTIVE,
        "open",
        "the same id is opened again; the dead letter is kept apart, under its epoch",
    ),
    Transition(_S.CLOSED, _S.ACTIVE, "open", "the same id is opened again, under a higher epoch"),
    Transition(_S.ACTIVE, _S.OFFERED, "claim", "its owner is dead"),
    Transition(_S.HANDING_OVER, _S.OFFERED, "claim", "its owner died in the middle of a handover"),
    Transition(_S.ACTIVE, _S.OFFERED, "release", "its owner gave it up"),
    Transition(_S.HANDING_OVER, _S.OFFERED, "release", "its owner gave it up in the middle of a handover"),
    Transition(_S.OFFERED, _S.ACTIVE, "adopt", "a worker adopted it"),
    Transition(_S.OFFERED, _S.OFFERED, "expire", "the lease ended: extended, written anew or offered again"),
    Transition(_S.OFFERED, _S.OFFERED, "decline", "a worker gave the offer back"),
    Transition(_S.OFFERED, _S.OFFERED, "extend_leases", "a reader goes on working through what it has in hand"),
    Transition(_S.OFFERED, _S.OFFERED, "delegate", "a worker left it to be adopted by id"),
    Transition(_S.OFFERED, _S.DEAD_LETTERED, "expire", "too many offers, or too old"),
    Transition(_S.OFFERED, _S.DEAD_LETTERED, "decline", "too many offers, or too old"),
    Transition(_S.ACTIVE, _S.DEAD_LETTERED, "claim", "orphaned too often: it kills its owners"),
    Transition(_S.HANDING_OVER, _S.DEAD_LETTERED, "claim", "orphaned too often: it kills its owners"),
    Transition(_S.ACTIVE, _S.DEAD_LETTERED, "release", "orphaned too often: it kills its owners"),
    *(
        Transition(
            before, _S.DEAD_LETTERED, "set_aside", "its record does not parse, and no living owner can state it again"
        )
        for before in (_S.ACTIVE, _S.HANDING_OVER, _S.OFFERED)
    ),
    Transition(_S.HANDING_OVER, _S.DEAD_LETTERED, "release", "orphaned too often: it kills its owners"),
    Transition(_S.ACTIVE, _S.HANDING_OVER, "ask", "an heir asks the living owner"),
    Transition(_S.HANDING_OVER, _S.HANDING_OVER, "ask", "an heir accepts, or asks again"),
    Transition(_S.ACTIVE, _S.HANDING_OVER, "hand_over", "an owner that drains looks for an heir"),
    Transition(_S.HANDING_OVER, _S.HANDING_OVER, "decline", "a worker passes the offer of a handover on"),
    Transition(_S.HANDING_OVER, _S.ACTIVE, "let_go", "the owner let go, the heir owns it"),
    Transition(_S.HANDING_OVER, _S.ACTIVE, "withdraw", "the heir waits no longer, the owner goes on"),
    Transition(_S.HANDING_OVER, _S.ACTIVE, "expire", "the handover timed out, the owner goes on"),
    Transition(_S.DEAD_LETTERED, _S.OFFERED, "replay", "a person offers it again; attempts and age start anew"),
    Transition(_S.DEAD_LETTERED, _S.CLOSED, "purge", "a person closes it"),
    Transition(_S.ACTIVE, _S.CLOSED, "close", "the call ended"),
    Transition(_S.HANDING_OVER, _S.CLOSED, "close", "the call ended in the middle of a handover"),
    # After lost writes the store may say anything older; the owner states again what it held.
    *(
        Transition(before, _S.ACTIVE, "reassert", "after lost writes its owner states again that it holds it")
        for before in (None, *_S)
    ),
)

_PAIRS = frozenset((t.script, t.before, t.after) for t in TRANSITIONS)


def allowed(script: str, before: SessionState | None, after: SessionState | None) -> bool:
    """Whether ``script`` may take a record from ``before`` to ``after``; staying as it is is always allowed."""
    return before == after or (after is not None and (script, before, after) in _PAIRS)


def transitions_table() -> str:
    """The table as Markdown, as it stands in ``docs/protocol.md``."""
    rows = ["| from | to | script | why |", "|---|---|---|---|"]
    rows += [f"| {t.before or 'none'} | {t.after} | `{t.script}` | {t.why} |" for t in TRANSITIONS]
    return "\n".join(rows)
