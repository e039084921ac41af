"""What an instance owns, what it is taking, and which calls ended here; the roll call is made of it. No I/O."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from coordinator import clock

if TYPE_CHECKING:
    from coordinator.worker.session import Session

__all__ = ["Ledger", "mark"]

ENDED_REMEMBERED = 10_000
"""Calls that ended here and are closed again where the store lost that; more would only take memory."""


def mark(session_id: str, epoch: int) -> int:
    """What a session under an epoch adds to a roll; as ``lua/lib/roll.lua`` computes it."""
    return int(hashlib.sha1(f"{session_id} {epoch}".encode(), usedforsecurity=False).hexdigest()[:10], 16)


class Ledger:
    """One a membership.

    Args:
        closed_ttl: seconds for which a call that ended is remembered.
        changed: is called when something was written into it.

    Attributes:
        sessions: what is owned here, by id; changed by `keep`, `forget` and `renewed` only.
        taking: how many are opening or adopting a session just now, by id.
        roll: digest of `sessions`, each under its epoch; a scripted one of the store is equal when both mean the same.
        version: rises whenever what is owned changes or begins to; two that are equal mean that nothing did in between.
    """

    def __init__(self, closed_ttl: float, changed: Callable[[], None]) -> None:
        self._closed_ttl, self._changed = closed_ttl, changed
        self.sessions: dict[str, Session] = {}
        self.taking: Counter[str] = Counter()
        self.roll = self.version = 0
        self._marks: dict[str, int] = {}
        self._ended: dict[str, tuple[int, float]] = {}

    @property
    def called(self) -> str:
        """The roll call, as a beat says it: how many are owned, and their digest."""
        return f"{len(self.sessions)} {self.roll}"

    def keep(self, session: Session) -> Session | None:
        """A session is ours; the handle of its id that stood here before, if it was another one."""
        before = self.sessions.get(session.id)
        self._ended.pop(session.id, None)
        self.sessions[session.id] = session
        self._mark(session)
        return before if before is not session else None

    def renewed(self, session: Session) -> None:
        """A session has another epoch."""
        if self.sessions.get(session.id) is session:
            self._mark(session)

    def _mark(self, session: Session) -> None:
        new = mark(session.id, session.epoch)
        self.roll += new - self._marks.get(session.id, 0)
        self._marks[session.id] = new
        self._touch()

    def forget(self, session: Session) -> None:
        """A session is not ours any more. Safe to repeat."""
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            self.roll -= self._marks.pop(session.id)
        self._touch()

    def _touch(self) -> None:
        self.version += 1
        self._changed()

    def takes(self, session_id: str, more: int) -> None:
        """One more, or with -1 one less, is opening or adopting it."""
        self.taking[session_id] += more
        if not self.taking[session_id]:
            del self.taking[session_id]

    def ends(self, session: Session) -> None:
        """Its call ended: should the store lose that write it is closed again, not given to others, for ``closed_ttl``."""
        now = clock.now()
        self._ended.pop(session.id, None)
        self._ended[session.id] = session.epoch, now
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= ENDED_REMEMBERED and now - self._ended[oldest][1] < self._closed_ttl:
                break
            del self._ended[oldest]

    def ended_here(self, session_id: str, epoch: int) -> bool:
        """Whether that call, under that epoch or a later one, ended at this instance."""
        known, _ = self._ended.get(session_id, (-1, 0.0))
        return epoch <= known

    def start_over(self) -> None:
        """A new life: what ended in the old one is nobody's any more."""
        self._ended.clear()
