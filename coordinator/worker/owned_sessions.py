"""What an instance does for the sessions that it owns: see `coordinator.worker.session.SessionOwner`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from coordinator import clock
from coordinator.settings import Settings
from coordinator.store.fence import FenceRunner
from coordinator.store.keys import Keys
from coordinator.store.scripts import R, ScriptCall
from coordinator.worker import loss_reasons
from coordinator.worker.ending import Endings
from coordinator.worker.ledger import Ledger
from coordinator.worker.observer import WorkerObserver
from coordinator.worker.reluctance import Reluctance
from coordinator.worker.sealer import Sealer
from coordinator.worker.session import Session
from coordinator.worker.stager import Stager
from coordinator.worker.writes import Doubts, Writes

__all__ = ["OwnedSessions"]


class OwnedSessions:
    """One per membership.

    Args:
        writes: run an owner's writes.
        stager, endings: work in the background.
        reluctance: the sessions that this worker does not take again at once.
        doubts: is told when the outcome of a request is unknown.
        observer: is told what happens to sessions, where the program is another process.
        changing: is entered while sessions change hands.
        room_changed: is called when there may be room for another session.
        arrived: is called when a session has become ours.
    """

    def __init__(
        self,
        settings: Settings,
        sealer: Sealer,
        keys: Keys,
        ledger: Ledger[Session],
        writes: Writes[Session],
        *,
        stager: Stager,
        endings: Endings,
        reluctance: Reluctance,
        doubts: Doubts,
        observer: WorkerObserver | None,
        changing: Callable[[], contextlib.AbstractContextManager[None]],
        room_changed: Callable[[], None],
        arrived: Callable[[], None],
    ) -> None:
        self.settings, self.sealer, self.keys, self.ledger = settings, sealer, keys, ledger
        self._writes, self._doubts, self._observer = writes, doubts, observer
        self._stager, self._endings, self._reluctance = stager, endings, reluctance
        self._changing, self._room_changed, self._arrived = changing, room_changed, arrived

    def own(self, session_id: str, epoch: int, raw: bytes, encoding: str, **about: Any) -> Session:
        """Makes a session ours from now on; ``about`` as `Session` takes it."""
        session = Session(self, session_id, epoch, raw, encoding, **about)
        if session.opened_at_ms:  # by the store's clock, whose time of the last beat is known here
            session.began -= max(0.0, clock.in_seconds(self.ledger.past.now_ms - session.opened_at_ms))
        before = self.ledger.keep(session)
        if before is not None:
            before.lose(loss_reasons.ADOPTED_ANEW)
        self.ledger.past.saw(epoch)
        if self.ledger.has_left:  # it was opened or adopted as this instance said that it ends
            session.lose(loss_reasons.instance_ended(self.ledger.instance))
        self._arrived()
        return session

    async def write(self, session: Session, operation: str, make: Callable[[int], ScriptCall[R]]) -> R:
        """See `coordinator.worker.session.SessionOwner`; while it changes hands the beats carry no roll call."""
        with contextlib.nullcontext() if operation == "checkpoint" or session.is_over else self._changing():
            return await self._writes.write(session, make)

    async def guarded(self, session: Session, make: Callable[[], ScriptCall[R]], runner: FenceRunner) -> R:
        """See `coordinator.worker.session.SessionOwner`."""
        return await self._writes.guarded(session, make, runner)

    def staged(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._stager.wake(session)

    def renewed(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self.ledger.renewed(session)
        if self._observer is not None:
            self._observer.session_renewed(session)

    def over(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self.ledger.forget(session)
        self._room_changed()

    def lost(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        if self._observer is not None:
            self._observer.session_lost(session)

    def outcome_unknown(self, reason: str) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._doubts.want("outcome_unknown", reason)

    def served_in_vain(self, session_id: str) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._reluctance.failed(session_id)

    def cannot_serve(self, session_id: str) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._reluctance.cannot_serve(session_id)

    def carry_on(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._endings.carry_on(session)

    def give_up_unless_used(self, session: Session) -> None:
        """See `coordinator.worker.session.SessionOwner`."""
        self._endings.give_up_unless_used(session)
