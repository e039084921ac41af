"""How a session becomes this worker's: an orphan is adopted, a living owner is asked to hand over."""

from __future__ import annotations

from typing import Protocol

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, KeyUnknownError, SealBrokenError, StoreUnavailableError, TenantError
from coordinator.ids import new_request_id
from coordinator.policy import LACKS_KEY
from coordinator.settings import Settings
from coordinator.states import SERVED, SessionState
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition
from coordinator.store.setting_aside import set_aside
from coordinator.worker.acquisition import Acquisition
from coordinator.worker.ledger import Ledger
from coordinator.worker.owned_sessions import OwnedSessions
from coordinator.worker.sealer import Place, Sealer
from coordinator.worker.session import Session
from coordinator.worker.wait import Wait
from coordinator.worker.writes import Doubts, Writes

__all__ = ["Adoption", "Awaited"]

log = structlog.get_logger()

ASKS_A_LEASE = 3
"""How often an heir asks within one lease: the lease says that the heir still waits."""
WITHDRAW_SECONDS = 1.0


class Awaited(Protocol):
    """Tells an heir at once when a session has become its own."""

    def wait_for(self, session_id: str) -> anyio.Event:
        """Returns an event that is set when the session has become this instance's, from now on."""

    def done_waiting(self, session_id: str) -> None:
        """Nothing here waits for the session any more."""


class Adoption:
    """One per membership.

    Args:
        writes: runs the requests.
        owned: makes sessions this instance's.
        taking: the turns at a session's id.
        awaited: tells at once that a session has come.
        doubts: is told when the store and this instance may differ.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        sealer: Sealer,
        ledger: Ledger[Session],
        *,
        writes: Writes[Session],
        owned: OwnedSessions,
        taking: Acquisition,
        awaited: Awaited,
        doubts: Doubts,
    ) -> None:
        self._part, self._settings, self._sealer, self._ledger = part, settings, sealer, ledger
        self._writes, self._own, self._taking = writes, owned.own, taking
        self._awaited, self._doubts = awaited, doubts

    async def adopt(self, session_id: str, epoch: int | None, request: str) -> Session | None:
        """Adopts an offered session; None when there is nothing to adopt (any more).

        Raises:
            FencedError, StoreUnavailableError: as `Offer.adopt`.
            KeyUnknownError, SealBrokenError, TenantError: as `Worker.adopt`.
        """
        instance = self._ledger.instance
        async with self._taking.turn(session_id):
            known = self._ledger.sessions.get(session_id)
            answer = await self._writes.request(
                lambda: calls.adopt(
                    self._part.keys, session=session_id, instance=instance, request=request, epoch=epoch,
                    pool=self._settings.pool, floor=self._ledger.past.epoch,
                    holds=None if known is None else known.epoch,
                )
            )  # fmt: skip
            match answer:
                case calls.FencedInstance():
                    self._writes.dead(instance, "an adoption was refused")
                    raise FencedError(session_id, epoch, "this instance was declared dead")
                case calls.Foreign():
                    raise TenantError(session_id)
            if not isinstance(answer, calls.AdoptOk) or instance != self._ledger.instance:
                return None
            try:
                return self._adopted(session_id, answer)
            except SealBrokenError as error:
                await self._set_aside(session_id, answer.data, error)
                raise
            except KeyUnknownError as error:
                unreadable = self._take(session_id, answer, answer.data, answer.encoding)
                self.lacks_key(error)
                unknown = error
        await unreadable.cannot_serve(LACKS_KEY)
        raise unknown

    def lacks_key(self, error: KeyUnknownError) -> None:
        """Logs once for each key that a session here is sealed with it and cannot be opened."""
        if self._sealer.misses(error.key_id):
            log.warning(
                "session_cannot_be_served",
                session=error.session_id,
                key=error.key_id,
                has_another_of_that_id=error.has_another,
            )

    async def _set_aside(self, session_id: str, data: bytes, error: SealBrokenError) -> None:
        """No worker can read the session: it becomes a dead letter as it is stored, and is no longer ours."""
        log.error("data_not_opened", session=session_id, reason=str(error))
        aside = set_aside(
            self._part.keys, kind="session", name=session_id, wanted="hash", fault=error.detail, broken={"data": data}
        )
        await self._writes.request(lambda: aside)
        self._doubts.want("outcome_unknown", "a session whose seal is broken was given up")  # compares, and agrees

    async def take_over(self, session_id: str, request: str, wait: Wait) -> Session | None:
        """Takes a session: adopts an orphan, awaits the verdict on a silent owner, asks a living owner to hand over.

        Returns None when the time is over. When it returns None or raises, the owner has been told that nothing here waits for
        the session any more, if the store can be reached.

        Raises:
            FencedError, StoreUnavailableError, KeyUnknownError, SealBrokenError, TenantError: as `Worker.adopt`.
        """
        with self._ledger.takes(session_id):
            asked = False
            try:
                asks_next = clock.now()
                while True:
                    told = self._awaited.wait_for(session_id)
                    session = await self.adopt(session_id, None, request)
                    if session is not None:
                        asked = False
                        return session
                    if not wait.left:
                        break
                    if clock.now() >= asks_next:
                        lease = self._settings.lease
                        lease = lease if wait.planned else min(lease, wait.left)
                        asks_next = clock.now() + lease / ASKS_A_LEASE
                        answer = await self._ask(session_id, request, lease)
                        if answer is None:
                            return None
                        if isinstance(answer, calls.AskOk):
                            asked = True
                            wait.owner_lets_go_within(answer.left)
                            wait.accepted()
                    with anyio.move_on_after(wait.pause):
                        await told.wait()
                if asked and await self._withdraw(session_id, request):  # in the last moment
                    session = await self.adopt(session_id, None, request)
                asked = False
                return session
            finally:
                self._awaited.done_waiting(session_id)
                if asked:  # cancelled, or the store does not answer
                    with anyio.move_on_after(WITHDRAW_SECONDS, shield=True):
                        await self._withdraw(session_id, request)

    async def _withdraw(self, session_id: str, request: str) -> bool:
        """Tells the owner that it need not let go any more. Returns whether it has; without an answer the lease will tell."""
        call = calls.withdraw(
            self._part.keys,
            session=session_id,
            instance=self._ledger.instance,
            request=request,
            pool=self._settings.pool,
        )
        try:
            return isinstance(await self._part.executor.run(call), calls.Yours)
        except StoreUnavailableError:
            return False

    async def pass_on(self, session_id: str) -> None:
        """The owner let go to us when nothing here waited any more: the session is offered to others at once. Safe to repeat."""
        if session_id in self._ledger.sessions or session_id in self._ledger.taking:
            return
        try:
            session = await self.adopt(session_id, None, new_request_id())
            if session is not None:
                await session.hand_back("nothing here waits for it any more")
        except (FencedError, KeyUnknownError, SealBrokenError, StoreUnavailableError) as error:
            log.warning("session_not_passed_on", session=session_id, error=str(error))

    async def _ask(self, session_id: str, request: str, lease: float) -> calls.AskReply | None:
        """Asks the owner to hand over; None when there is nothing to wait for."""
        keys = self._part.keys
        where = await lookups.owner_of(self._part, session_id)
        if where.state == SessionState.OFFERED:
            return calls.Orphan()
        if where.state not in SERVED:
            return None
        self._sealer.check(session_id, where.encoding)  # the owner serves it, and this worker could not
        instance = self._ledger.instance
        answer = await self._writes.request(
            lambda: calls.ask(
                keys, session=session_id, instance=instance, owner=where.owner, request=request,
                lease=max(0.001, lease),
            )
        )  # fmt: skip
        match answer:
            case calls.FencedInstance():
                self._writes.dead(instance, "asking for a handover was refused")
                raise FencedError(session_id, None, "this instance was declared dead")
            case calls.Foreign():
                raise TenantError(session_id)
            case calls.AskOk() | calls.Orphan() | calls.Owned():
                return answer
            case calls.AskGone(state=SessionState.OFFERED):  # its owner was buried between our look and our question
                return answer
            case _:
                return None

    def _adopted(self, session_id: str, answer: calls.AdoptOk) -> Session:
        known = self._ledger.sessions.get(session_id)
        if known is not None and known.epoch == answer.epoch:
            return known
        if known is not None and answer.existing and answer.renewed_from == known.epoch:
            known.renewed(answer.epoch, answer.checkpoint)  # after lost writes; the answer to that is under way
            return known
        place = Place(session_id, answer.tenant, answer.epoch)
        return self._take(session_id, answer, *self._sealer.open(place, answer.data, answer.encoding))

    def _take(self, session_id: str, answer: calls.AdoptOk, raw: bytes, encoding: str) -> Session:
        session = self._own(
            session_id, answer.epoch, raw, encoding, pool=answer.pool, tenant=answer.tenant,
            requires=answer.requires, opened_at_ms=answer.opened_at_ms, sequence=answer.checkpoint,
        )  # fmt: skip
        session.recovered = bool(answer.previous_owner)
        session.planned = answer.planned
        if session.recovered:
            session.gap = _seconds_since(answer.served_until_ms, answer.now_ms)
            session.data_age = _seconds_since(answer.data_at_ms, answer.now_ms)
        session.previous_owner, session.cause = answer.previous_owner, answer.cause
        session.attempt = answer.attempt
        return session


def _seconds_since(then_ms: int | None, now_ms: int) -> float:
    return 0.0 if then_ms is None else max(0.0, clock.in_seconds(now_ms - then_ms))
