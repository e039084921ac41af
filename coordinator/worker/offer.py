"""An offer: the right to adopt an orphan until its lease ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, Protocol, cast

from coordinator import clock
from coordinator.bounds import check_reason
from coordinator.errors import DrainingError, FencedError, KeyUnknownError, SealBrokenError, TenantError
from coordinator.ids import new_request_id
from coordinator.printable import printable
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.entries import OfferEntry
from coordinator.store.keys import Keys
from coordinator.store.lookups import Kept
from coordinator.store.replies import Reply
from coordinator.store.scripts import R, ScriptCall
from coordinator.worker.data import Data, decode
from coordinator.worker.ledger import Ledger
from coordinator.worker.sealer import Place, Sealer
from coordinator.worker.session import Session
from coordinator.worker.wait import Wait

__all__ = ["Offer", "OfferActions"]


class OfferActions(Protocol):
    """What an offer needs of the instance that read it.

    Attributes:
        settings, sealer, keys: of the worker, and of the partition.
        ledger: what the instance is and owns.
    """

    settings: Settings
    sealer: Sealer
    keys: Keys
    ledger: Ledger[Session]

    async def request(self, make: Callable[[], ScriptCall[R]]) -> R:
        """Runs a call until its answer counts; see ``Writes.request``."""

    def dead(self, instance: str, reason: str) -> None:
        """An answer said that ``instance`` is dead."""

    async def kept(self, session_id: str) -> Kept:
        """The recovery data of a session as it is stored."""

    async def adopt(self, session_id: str, epoch: int | None, request: str) -> Session | None:
        """See ``Adoption.adopt``."""

    async def take_over(self, session_id: str, request: str, wait: Wait) -> Session | None:
        """See ``Adoption.take_over``."""

    def others_wait(self) -> bool:
        """Whether other offers wait behind the one that the program works on now."""

    def adopted(self, offer: Offer, session: Session, *tasks: asyncio.Task[Any] | None) -> None:
        """These tasks adopted the offer."""

    def answered(self, offer: Offer) -> None:
        """The offer takes up no room any more. Safe to repeat."""

    def declined(self, session_id: str) -> None:
        """The program declined the session."""

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks something that the session needs."""


class Offer(Generic[Data]):
    """What ``Worker.offers`` yields.

    Attributes:
        session_id, epoch: the orphan's; the adoption raises the epoch once more.
        previous_owner, cause: the owner before, and why the session has no owner now.
        attempt: number of this offer since the session became an orphan, from 1.
        planned: a handover: the owner serves the session until it is adopted.
        requires: labels (``name`` or ``name=value``) that the session asks for.
        tenant: the session's tenant; '' for none.
        apart: for a session suspected of killing its owner together with others: how many of those one worker takes within
            `probation` seconds; 0 when the session is not suspected.
        encoding: ``json`` or ``bytes``, as the recovery data was given.
        raw_data: the recovery data as it was given, opened where it was sealed; empty when it was too large to travel with the
            offer. An adopter gets it in any case, and `Worker.serve` reads it before it prepares.
    """

    def __init__(self, actions: OfferActions, entry: bytes, told: OfferEntry) -> None:
        self._actions, self.entry = actions, entry
        self._instance = actions.ledger.instance
        self._request = new_request_id()
        self._over = False
        self.answering = False
        self.read_at = clock.now()
        self.given_at = math.inf
        self._until = self.read_at + actions.settings.lease
        self.session_id, self.epoch, self.attempt = told.session, told.epoch, told.attempt
        self.previous_owner, self.cause = told.previous_owner, told.cause
        self.raw_data, self.encoding = told.data, told.encoding
        self.planned = self.cause == "handover"
        self.requires, self.tenant = told.requires, told.tenant or ""
        self.apart, self.probation = told.apart, told.probation
        self.room, self.died_with = told.room, told.died_with
        self._restarted_since = told.restarted_since

    @property
    def recovery_data(self) -> Data:
        """The recovery data in the form in which it was given.

        Raises:
            InvalidDataError: the data is not JSON, though the record says so.
        """
        return cast("Data", decode(self.raw_data, self.encoding if self.raw_data else "bytes"))

    def open_data(self) -> None:
        """Opens the recovery data that came with the offer, and checks that it can be read. For the library.

        Raises:
            KeyUnknownError: the session's data is sealed with a key that this worker lacks, whether it came along or not.
            InvalidDataError: no worker can read the data.
        """
        sealer = self._actions.sealer
        if self.raw_data:
            place = Place(self.session_id, self.tenant, self.epoch)
            self.raw_data, self.encoding = sealer.open(place, self.raw_data, self.encoding)
        else:
            sealer.check(self.session_id, self.encoding)
        _ = self.recovery_data

    async def fetch_data(self) -> None:
        """Reads recovery data that was too large to travel with the offer. For the library. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer.
            KeyUnknownError, InvalidDataError: as `open_data`.
        """
        if self.raw_data:
            return
        kept = await self._actions.kept(self.session_id)
        if kept.epoch == self.epoch:  # else the offer is over
            self.raw_data, self.encoding = kept.data, kept.encoding
            self.open_data()

    @property
    def in_hand(self) -> bool:
        """Whether the offer still takes up room: it is not answered, and its lease is not over."""
        return not self._over and clock.now() < self._until

    @property
    def lease(self) -> float:
        """Seconds for which an offer stands. For the library."""
        return self._actions.settings.lease

    def given(self) -> None:
        """The program has the offer from now on. For the library."""
        self.given_at = clock.now()

    def kept_until(self, until: float) -> None:
        """The lease was begun anew, and stands until then. For the library."""
        self._until = until

    def adopt(self) -> Coroutine[Any, Any, Session[Data] | None]:
        """Makes this worker the session's owner; in a handover, once its owner has let go. Await it as any coroutine.

        An owner that drains and is busy with the call lets go when it is no longer busy, at the latest when its drain ends. This
        waits as long, or for one lease if other offers wait for the program.

        If the task that adopts the session fails, or a later task that serves it, the session is offered to other workers, unless
        another task that has used it goes on. If that task is cancelled, the session is offered after one lease without any use.

        Returns:
            The session, or None when another worker won, the offer is over, or its data does not open here; then it was given back.

        Raises:
            FencedError: this instance was declared dead since it read the offer.
            DrainingError: this instance takes nothing new.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; safe to call again.
        """
        caller = None
        with contextlib.suppress(RuntimeError):  # a thread, for `asyncio.run_coroutine_threadsafe`
            caller = asyncio.current_task()  # it may await this in a task of its own, as `asyncio.wait_for` did
        return self._adopt(caller)

    async def _adopt(self, caller: asyncio.Task[Any] | None) -> Session[Data] | None:
        self._check()
        actions = self._actions
        if actions.ledger.draining:
            raise DrainingError("this instance is draining and takes nothing new")
        with (
            self.being_answered(),
            contextlib.suppress(KeyUnknownError, SealBrokenError, TenantError),
        ):  # told, and dealt with
            session = None
            if self.planned:  # this accepts; the owner lets go when it is told
                wait = Wait(actions.settings.lease, planned=True, gives_way=actions.others_wait, accepted=self._done)
                session = await actions.take_over(self.session_id, self._request, wait)
            else:
                session = await actions.adopt(self.session_id, self.epoch, self._request)
        self._done()
        if session is not None:
            actions.adopted(self, session, caller, asyncio.current_task())
        return session

    @contextlib.contextmanager
    def being_answered(self) -> Iterator[None]:
        """While the program works on an answer, the time of the offer does not run out here. For the library."""
        before, self.answering = self.answering, True
        try:
            yield
        finally:
            self.answering = before

    @property
    def restarted_since_ms(self) -> int:
        """In a handover of a rollout: the time since which a started worker is not restarted again; 0 otherwise."""
        return self._restarted_since if self.planned else 0

    async def decline(self, reason: str = "", *, counts: bool = True) -> None:
        """Gives the offer back, so that other workers get it at once; safe to repeat.

        Args:
            reason: why, for people, as for `Session.release`; kept in the events.
            counts: False for want of room: no attempt is counted.

        Raises:
            InvalidValueError: invalid reason; the offer is not given back.
            FencedError, StoreUnavailableError: as `adopt`.
        """
        reason = check_reason(reason)
        self._check()
        s = self._actions.settings
        if counts:
            self._actions.declined(self.session_id)
        with self.being_answered():
            answer = await self._actions.request(
                lambda: calls.decline(
                    self._actions.keys, session=self.session_id, instance=self._instance, epoch=self.epoch,
                    pool=self._actions.settings.pool, reason=reason, counts=counts, max_offers=s.max_offers,
                    lease=s.lease, dead_letter_ttl=s.dead_letter_ttl,
                    give_up_after=s.give_up_after, restarted_since=str(self._restarted_since or ""),
                )
            )  # fmt: skip
            self._done()
        self._refused(answer)

    async def cannot_serve(self, reason: str = "") -> None:
        """Gives the offer back because this worker lacks something that another may have, such as a key; safe to repeat.

        No attempt is counted, and this worker leaves the session to other workers for a while.

        Raises:
            FencedError, StoreUnavailableError: as `adopt`.
        """
        reason = check_reason(reason)
        self._actions.cannot_serve(self.session_id)
        await self.decline(reason, counts=False)

    async def delegate(self) -> None:
        """Withdraws the offer for one lease, so that the worker to which the caller returns can adopt the session by its id.

        After that lease the session is offered again.

        Raises:
            FencedError, StoreUnavailableError: as `adopt`.
        """
        self._check()
        with self.being_answered():
            answer = await self._actions.request(
                lambda: calls.delegate(
                    self._actions.keys, session=self.session_id, instance=self._instance, epoch=self.epoch,
                    pool=self._actions.settings.pool, lease=self._actions.settings.lease,
                )
            )  # fmt: skip
            self._done()
        self._refused(answer)

    def _check(self) -> None:
        ledger = self._actions.ledger
        if ledger.instance != self._instance or ledger.trust_window.over:
            raise FencedError(self.session_id, self.epoch, "this instance was declared dead since it read the offer")

    def _refused(self, answer: Reply) -> None:
        if isinstance(answer, calls.FencedInstance):
            self._actions.dead(self._instance, "an answer to an offer was refused")
            raise FencedError(self.session_id, self.epoch, "this instance was declared dead")

    def _done(self) -> None:
        if self._over:
            return
        self._over = True
        self._actions.answered(self)

    def __repr__(self) -> str:
        return f"<Offer {printable(self.session_id)} epoch={self.epoch} attempt={self.attempt}>"
