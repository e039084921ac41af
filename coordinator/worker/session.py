"""A session in the hands of its owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, cast

import anyio
import structlog

from coordinator import clock
from coordinator.bounds import check_reason, fitted
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.printable import told, trace
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.fence import Fence, FenceRunner
from coordinator.store.keys import Keys
from coordinator.store.scripts import R, ScriptCall
from coordinator.worker.data import Data, decode, encode
from coordinator.worker.ending import Ending, is_of_the_store
from coordinator.worker.ledger import Ledger
from coordinator.worker.sealer import Place, Sealer, Written, is_sealed
from coordinator.worker.users import Users

__all__ = ["Session"]

log = structlog.get_logger()

LATE_BEATS = 1.5
"""Intervals after which a beat without an answer is overdue; ± 10 % of one are jitter."""
SETTLE_SECONDS = 1.0
"""After a pause of the whole process time-outs of the program itself end, which says nothing of the program."""
RETRY_SECONDS = 0.01
GIVEN_UP = "it was given up here"
QUIET_SECONDS = 0.25
"""Between two looks at whether a busy session may still be waited for."""


NEWEST = 2**53 - 1
"""Number of data that is newer than all that was written under an epoch."""


class SessionOwner(Protocol):
    """What a session needs of the instance that has it.

    Attributes:
        settings, sealer, keys: of the worker, and of the session's partition.
        ledger: what the instance is and owns.
    """

    settings: Settings
    sealer: Sealer
    keys: Keys
    ledger: Ledger[Session]

    async def write(self, session: Session, operation: str, make: Callable[[int], ScriptCall[R]]) -> R:
        """Runs the owner's write, made for the epoch that it is given, until the answer counts; see ``Writes.write``."""

    async def guarded(self, session: Session, make: Callable[[], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs another package's write; see ``Writes.guarded``."""

    def staged(self, session: Session) -> None:
        """It has a checkpoint to be written in the background; from any thread."""

    def renewed(self, session: Session) -> None:
        """It has a new epoch."""

    def over(self, session: Session) -> None:
        """It is not this worker's any more."""

    def lost(self, session: Session) -> None:
        """And that was not asked for here."""

    def outcome_unknown(self, reason: str) -> None:
        """A request that gives it away has no answer."""

    def served_in_vain(self, session_id: str) -> None:
        """This worker served it and gave it up: others come first."""

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks what it needs."""

    def carry_on(self, session: Session) -> None:
        """Its ending had no answer: it is carried out later. Safe to repeat."""

    def give_up_unless_used(self, session: Session) -> None:
        """It is given up unless a task uses it within a lease. Safe to repeat."""


class Session(Generic[Data]):
    """One call that this worker owns; got from ``Worker.open``, ``Offer.adopt`` or ``Worker.adopt``.

    Attributes:
        id: the session's id.
        epoch: its fencing token, to be passed to whatever can compare it; rises when it is renewed after lost writes.
        first_epoch: with which this worker got it.
        instance: the life of this worker that got it.
        pool, tenant, requires: as it was opened.
        lost: set when this worker has it no more: the store said that somebody else has it, or it is released here, before the
            store is told. Final. ``lost_reason`` says why.
        recovered: whether it was adopted from somebody.
        planned: whether its previous owner handed it over on purpose.
        gap: seconds for which nobody served the call before its handler began: at an adoption since the previous owner's last
            acknowledged heartbeat, or since its handler stopped; where `Worker.serve` starts a handler again since it stopped.
            0 when opened here.
        starts: how often `Worker.serve` has started a handler for it here.
        data_age: seconds since the data was written, at adoption.
        heir, silence: to whom it was handed over, and the seconds for which nobody served it until the store's answer.
        ended_by: the task that closed or released it here, if any.
        ended: set when it was closed or released here, and that has an answer, or will have it later.
        ending: what is to become of it, once it was closed or released here; None as long as it is to go on.
        previous_owner, cause, attempt: from whom, why, and with which offer it came.
    """

    def __init__(
        self,
        owner: SessionOwner,
        session_id: str,
        epoch: int,
        raw: bytes,
        encoding: str,
        *,
        pool: str,
        tenant: str = "",
        requires: str = "",
        opened_at_ms: int = 0,
        sequence: int = 0,
    ) -> None:
        self.id, self.epoch, self.first_epoch = session_id, epoch, epoch
        self.pool, self.tenant, self.requires = pool, tenant, requires
        self.opened_at_ms = opened_at_ms
        self.raw_data, self.encoding, self.sequence = raw, encoding, sequence
        self.lost = anyio.Event()
        self.lost_reason = ""
        self.closed, self.ended = anyio.Event(), anyio.Event()
        self.recovered = self.planned = False
        self.gap = self.data_age = 0.0
        self.previous_owner = self.cause = ""
        self.attempt = 0
        self.unsure = False
        self.undecided: object | None = None
        self.heir = ""
        self.silence = 0.0
        self.starts = 0
        self.ending: Ending | None = None
        self.unserved_since: float | None = None
        self.asked_at = float("-inf")
        self.served_by_handler = False
        self._users = Users(owner.settings.lease, self._unused)
        self._leaving = self._over = self._was_closed = False
        self.ended_by: asyncio.Task[Any] | None = None
        self._unanswered, self._attempt = False, 0
        self._busy = 0
        self._idle = anyio.Event()
        self._owner = owner
        self.instance, self._pulse = owner.ledger.instance, owner.ledger.trust_window
        self._writing = anyio.Lock()
        self._staged: tuple[bytes, str] | None = None

    @property
    def recovery_data(self) -> Data:
        """The newest recovery data that this worker has given or got, in the form in which it was given.

        Raises:
            KeyUnknownError, SealBrokenError: of a session that this instance owned before its process: it does not open here.
        """
        self._used()
        raw, encoding = self.raw_data, self.encoding
        if is_sealed(encoding):
            raw, encoding = self._owner.sealer.open(self._place(self.epoch), raw, encoding)
        return cast("Data", decode(raw, encoding))

    def _place(self, epoch: int) -> Place:
        return Place(self.id, self.tenant, epoch)

    def written(self, epoch: int, raw: bytes, encoding: str) -> Written:
        """Recovery data as it is stored under an epoch of this session. For the library."""
        return self._owner.sealer.seal(self._place(epoch), raw, encoding)

    @property
    def _ours(self) -> bool:
        return not self.lost.is_set() and not self.closed.is_set() and self._pulse is self._owner.ledger.trust_window

    @property
    def is_over(self) -> bool:
        """Whether this worker has nothing more to do with it: lost, closed or given up. For the library."""
        return self._over

    @property
    def is_given_away(self) -> bool:
        """Whether somebody else may have it, or it may be over, as soon as the store says so. For the library."""
        return self._leaving or self.undecided is not None or self.ending is not None

    async def settled(self, patience: float) -> None:
        """Waits until it is over, or nobody gives it away any more. For the library.

        Raises:
            StoreUnavailableError: not within ``patience`` seconds.
        """
        until = clock.now() + patience
        while self.is_given_away and not self.is_over:
            if clock.now() > until:
                raise StoreUnavailableError(
                    "try_again", f"what becomes of session {self.id!r} here has no answer yet", sent=False
                )
            await anyio.sleep(RETRY_SECONDS)

    def renewed(self, epoch: int, sequence: int) -> None:
        """It has a new epoch, and its checkpoints count anew. For the library."""
        if epoch == self.epoch:
            return
        self.epoch, self.sequence = epoch, sequence
        self._owner.renewed(self)

    @property
    def held(self) -> bool:
        """True while nobody else can have adopted it. Ask before what cannot be undone."""
        return self._ours and not self.unsure and not self.is_given_away and self._pulse.held(clock.now())

    @property
    def store_is_late(self) -> bool:
        """Whether the answer to a beat is overdue, long before that is a doubt: what fails now may fail for that. For the library."""
        return clock.now() - self._pulse.sent > LATE_BEATS * self._owner.settings.heartbeat_interval

    @property
    def stood_still_lately(self) -> bool:
        """Whether this process stood still a moment ago: what fails now may fail for that. For the library."""
        now = clock.now()
        return now - self._pulse.continued(now) < SETTLE_SECONDS

    @property
    def may_speak(self) -> bool:
        """True when held, and in doubt as long as it is only the store that does not answer."""
        self._used()
        return self._ours and not self.is_given_away and self._pulse.may_speak(clock.now())

    def begins_to_be_served(self) -> None:
        """A handler begins: for how long nobody served it is told by `gap`. For the library."""
        if self.starts:
            self.gap = self.unserved
        self.starts += 1
        self.unserved_since = None

    def watch_adopter(self, *tasks: asyncio.Task[Any] | None) -> None:
        """From now on the session is offered to others should its code fail, unless `Worker.serve` runs a handler for it.

        Its code are its `Users`; these tasks adopted it. For the library.
        """
        self._users.watch(*tasks)

    def _used(self) -> None:
        if not self.served_by_handler:
            self._users.used()

    def _unused(self, failed_adopting: bool) -> None:
        """Starts nothing, as it is called by the event loop outside of any task."""
        if self.served_by_handler or self.ending is not None or self.is_over:
            return
        if failed_adopting:
            self.nobody_serves()
        else:  # it may be one of many short tasks that use it in turn, or whoever cancelled it is about to end the call
            self._owner.give_up_unless_used(self)

    @property
    def uses(self) -> int:
        """How often tasks have used it. For the library."""
        return self._users.uses

    @property
    def has_user(self) -> bool:
        """Whether a task goes on that adopted or used it. For the library."""
        return self._users.goes_on

    def nobody_serves(self) -> None:
        """Its code failed and nothing of it goes on: it is offered to others. For the library."""
        failure = self._users.failure
        if failure is None or self.served_by_handler or self.ending is not None or self.is_over:
            return
        cancelled = isinstance(failure, asyncio.CancelledError)
        said = "was cancelled" if cancelled else f"raised {type(failure).__name__}"
        tell = log.warning if cancelled else log.error
        about = {} if cancelled else {"exception": trace(failure)}
        tell("adopter_failed", session=self.id, error=told(failure), **about)
        counts = not cancelled and not is_of_the_store(failure)
        self.ending = Ending("release", fitted(f"the code that adopted it {said}"), "released", counts=counts)
        self.unserved_since = clock.now()
        self._owner.served_in_vain(self.id)
        self._owner.carry_on(self)

    async def checkpoint(self, data: Data) -> None:
        """Writes newer recovery data; when it returns, an adopter would get it.

        Args:
            data: a JSON-able mapping or bytes, at most ``max_data_bytes``.

        Raises:
            FencedError: this worker is no longer the owner; final.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; the data may have been written.
            DataTooLargeError, InvalidDataError: nothing was sent.
            KeyUnknownError: nothing was sent: what is stored is sealed, and this program has no keys.

        Safe to repeat.
        """
        await self.checkpoint_numbered(data, None)

    async def checkpoint_numbered(self, data: Data, sequence: int | None) -> bool:
        """The same with the caller's own numbers, from 1 within an epoch.

        Returns:
            False when it is not newer than what was written: nothing changes then.

        Raises:
            As `checkpoint`.
        """
        self._used()
        raw, encoding = self._encoded(data)
        if sequence is not None and self._is_old(sequence):
            self.check()
            return False
        self._staged = None
        return await self._write(raw, encoding, sequence)

    def stage(self, data: Data) -> None:
        """The same, later and coalesced: returns at once, and only the newest is written.

        Raises:
            FencedError: this worker is no longer the owner.
            DataTooLargeError, InvalidDataError, KeyUnknownError: as `checkpoint`; nothing is kept.
        """
        self._used()
        raw, encoding = self._encoded(data)
        self.check()
        self._staged = (raw, encoding)
        self._owner.staged(self)

    def _encoded(self, data: Data) -> tuple[bytes, str]:
        self._owner.sealer.may_overwrite(self.id, self.encoding)
        return encode(data, self._owner.settings.max_data_bytes)

    @property
    def has_staged(self) -> bool:
        """Whether something staged was not written yet. For the library."""
        return self._staged is not None

    async def flush(self) -> None:
        """Writes what is staged, if anything is.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`; what could not be written stays staged.
        """
        staged = self._staged
        if staged is None:
            return
        await self._write(*staged)
        if self._staged is staged:
            self._staged = None

    async def resumed(self) -> None:
        """Media is up again: ends the takeover's clock. Counted once an epoch; safe to repeat.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        self._used()
        await self._owner.write(
            self, "resumed", lambda e: calls.resumed(self._keys, session=self.id, instance=self.instance, epoch=e)
        )

    async def close(self) -> None:
        """The call ended: nobody will be offered it. Safe to repeat.

        From the call on this worker holds it no more, also when this raises: then the library closes it when the store is back.

        Raises:
            FencedError: somebody else has it; their call goes on.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; it is closed later.
        """
        if not self.closed.is_set():
            await self._end_as(Ending("close"))

    async def release(self, reason: str = "") -> None:
        """Gives the call up, with its newest data, to be offered to others; this worker lives on.

        From the call on this worker holds it no more, also when this raises: then the library gives it up when the store is
        back. Counts as a recovery: a call that is released again and again becomes a dead letter.

        Args:
            reason: why, for people: at most 1,024 characters. What cannot be seen in it becomes visible.

        Raises:
            FencedError: as `checkpoint`.
            InvalidValueError: it is not given up.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; it is given up later.
        """
        await self._end_as(Ending("release", check_reason(reason), "released", counts=True))

    async def cannot_serve(self, reason: str = "") -> None:
        """Gives it back as though it had not been adopted: this worker lacks something that another may have, such as a key.

        No attempt and no recovery is counted, its age goes on, and this worker leaves it to others for a while.

        Raises:
            FencedError, InvalidValueError, StoreUnavailableError: as `release`.
        """
        reason = check_reason(reason)
        self._owner.cannot_serve(self.id)
        await self._end_as(Ending("release", reason, "returned"))

    async def hand_back(self, reason: str, cause: str = "released") -> None:
        """Gives it to others through nobody's fault: no recovery is counted. For the library.

        Raises:
            FencedError, StoreUnavailableError: as `release`.
        """
        await self._end_as(Ending("release", reason, cause))

    async def _end_as(self, ending: Ending) -> None:
        if self.is_over:
            self.check()
        if self.ending is None or ending.kind == "close":  # that a call is over is not taken back
            self.ending = ending
            self.ended_by = asyncio.current_task()
            if ending.counts:
                self._owner.served_in_vain(self.id)
        if ending.kind == "release" and not self.is_over:  # belief ends before the right does
            self.lost_reason = self.lost_reason or GIVEN_UP
            self.lost.set()
        try:
            await self.carry_out()
        except FencedError:
            raise
        except BaseException:
            self._owner.carry_on(self)
            raise
        finally:
            self.ended.set()

    async def carry_out(self, *, late: bool = False) -> None:
        """Does what `ending` says; nothing once it is over. For the library.

        Args:
            late: whoever asked for it is not there any more: of a session that went to others `lost` tells.

        Raises:
            FencedError, StoreUnavailableError: as `close` and `release`.
        """
        async with self._writing:
            ending = self.ending
            if ending is None:
                return
            if self.is_over:
                if ending.kind == "close" and not self._was_closed:  # what was under way before gave it to others
                    raise FencedError(self.id, self.epoch, self.lost_reason or GIVEN_UP)
                return
            if ending.kind == "close":
                await self._carry_out_close()
                self._was_closed = True
            else:
                await self._carry_out_release(ending)
                if late:
                    self.lose(GIVEN_UP)
            self._end()

    async def _carry_out_close(self) -> None:
        ttl = self._owner.settings.closed_ttl
        self._owner.ledger.ends(self)
        await self._owner.write(
            self,
            "close",
            lambda e: calls.close(
                self._keys, session=self.id, instance=self.instance, epoch=e, pool=self.pool, closed_ttl=ttl
            ),
        )

    async def _carry_out_release(self, ending: Ending) -> None:
        s = self._owner.settings
        raw, encoding, sequence = self._unwritten()
        await self._owner.write(self, "release",
            lambda e: calls.release(
                self._keys, session=self.id, instance=self.instance, epoch=e, request=ending.request, pool=self.pool,
                reason=ending.reason, cause=ending.cause, counts=ending.counts, unserved=self.unserved,
                lease=s.lease, max_recoveries=s.max_recoveries,
                recovery_window=s.recovery_window, **self.written(e, raw, encoding),
                sequence=sequence, dead_letter_ttl=s.dead_letter_ttl,
            ),
        )  # fmt: skip

    def _unwritten(self) -> tuple[bytes, str, int]:
        """What goes along when it is given away, with its number; nothing, and 0, when the store has acknowledged all.

        What a child wrote meanwhile is newer than a checkpoint of ours that has no answer, and older than what is staged.
        """
        if self._staged is not None:
            self.raw_data, self.encoding = self._staged
            return self.raw_data, self.encoding, NEWEST  # a child may have counted on
        if self._unanswered:
            return self.raw_data, self.encoding, self.sequence
        return b"", "", 0

    @property
    def unserved(self) -> float:
        """Seconds since its handler stopped; 0 while it runs, and where the program says nothing of it. For the library."""
        return 0.0 if self.unserved_since is None else max(0.0, clock.now() - self.unserved_since)

    @property
    def lease(self) -> float:
        """Seconds for which an offer of it stands."""
        return self._owner.settings.lease

    async def offer_handover(self) -> None:
        """Looks for an heir while this worker goes on serving; whoever accepts is let go to. For the library.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        await self._owner.write(self, "hand_over",
            lambda e: calls.hand_over(
                self._keys, session=self.id, instance=self.instance, epoch=e, pool=self.pool,
                lease=self._owner.settings.lease,
            ),
        )  # fmt: skip

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Not now: inside this block a planned handover waits for a better moment, as long as its deadline allows."""
        self._used()
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()
                self._idle = anyio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether the program is inside `busy`. For the library."""
        return self._busy > 0

    async def quiet(self, until: Callable[[], float]) -> None:
        """Waits until the program is not busy with it, or it is over. For the library.

        Args:
            until: returns when waiting ends in any case, in seconds of `coordinator.clock`; asked again and again.
        """
        while self._busy and not self.is_over and (left := until() - clock.now()) > 0:
            with anyio.move_on_after(min(left, QUIET_SECONDS)):
                await self._idle.wait()

    async def let_go(self, heir: str) -> bool:
        """Hands the call, with its newest data, to an heir that accepted it. For the library.

        Returns:
            Whether it went; False when the handover is over.
        """
        async with self._writing:
            raw, encoding, sequence = self._unwritten()
            began = clock.now() - self.unserved
            answer = await self._give_away(
                "let_go",
                lambda e: calls.let_go(
                    self._keys, session=self.id, instance=self.instance, heir=heir, epoch=e, pool=self.pool,
                    **self.written(e, raw, encoding), sequence=sequence, unserved=self.unserved,
                ),
            )  # fmt: skip
            if not isinstance(answer, calls.LetGoOk):
                return False
            self.heir, self.silence = heir, clock.now() - began
            self.lose(f"handed over to {heir}")
            return True

    @property
    def _keys(self) -> Keys:
        return self._owner.keys

    def check(self) -> None:
        """Raises `FencedError` when it was lost, or is closed or given up here, carried out or not. For the library."""
        if self.is_over or self.ending is not None:
            raise FencedError(self.id, self.epoch, self.lost_reason or "it was closed or given up here")

    async def _write(self, raw: bytes, encoding: str, sequence: int | None = None) -> bool:
        """Whether it was written: one with its caller's own number may be older than what the store has."""
        async with self._writing:
            self.check()
            if sequence is not None and self._is_old(sequence):
                return False  # a newer one came first
            self.raw_data, self.encoding = raw, encoding
            again = (
                self._unanswered and sequence is None
            )  # counting on would put what has no answer above what others wrote since
            self._attempt = self._attempt + 1 if again else 0
            self.sequence = sequence or (self.sequence if again else self.sequence + 1)

            def numbered(epoch: int) -> ScriptCall[calls.CheckpointReply]:
                self.sequence = max(1, self.sequence)  # a renewal began to count anew, and 0 would not be stored
                return calls.checkpoint(
                    self._keys, session=self.id, instance=self.instance, epoch=epoch, sequence=self.sequence,
                    **self.written(epoch, raw, encoding), attempt=self._attempt,
                )  # fmt: skip

            self._unanswered = True  # until there is an answer, the same number may come again
            answer = await self._owner.write(self, "checkpoint", numbered)
            while (
                isinstance(answer, calls.Old) and sequence is None
            ):  # an attached child has written meanwhile: this is newer
                self.sequence, self._attempt = answer.checkpoint + 1, 0
                answer = await self._owner.write(self, "checkpoint", numbered)
            if isinstance(answer, calls.Old):
                self.sequence = max(self.sequence, answer.checkpoint)
            self._unanswered = False
            return isinstance(answer, calls.Ok)

    def _is_old(self, sequence: int) -> bool:
        return sequence < self.sequence or (sequence == self.sequence and not self._unanswered)

    @property
    def fence(self) -> Fence:
        """Who writes, under which epoch, and where that is recorded: what a write of another program can ask for."""
        self._used()
        return Fence(self._owner.keys, self.id, self.instance, self.epoch)

    async def fenced(self, make: Callable[[Fence], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs a write that asks in its own script whether this worker still owns the session; for session stores.

        After lost writes it waits until the session was stated again, and goes on under the new epoch.

        Args:
            make: the write for an owner; made anew for each attempt. Safe to run twice.
            runner: the connection on which it runs, to the same Redis.

        Raises:
            FencedError: this worker is no longer the owner, or closed it or gave it up; final.
            StoreUnavailableError: no answer, or none that counts until a hold and its aftermath should be over; it may have been
                written.
            ConfigurationError: that connection leads to another Redis than the worker's.
        """
        return await self._owner.guarded(self, lambda: make(self.fence), runner)

    async def _give_away(self, operation: str, make: Callable[[int], ScriptCall[R]]) -> R:
        """A write after which somebody else may speak: from before it is sent this worker holds the session no more.

        When its outcome is unknown (no answer, or cancelled) that lasts until a re-assertion has told.
        """
        self.check()
        self._leaving = True
        try:
            answer = await self._owner.write(self, operation, make)
        except FencedError:
            raise
        except BaseException:
            self.undecided, self._leaving = object(), False
            self._owner.outcome_unknown(f"no answer to {operation}")
            raise
        self._leaving = isinstance(answer, calls.Ok)
        return answer

    def _end(self) -> None:
        self._over = True
        self.closed.set()
        self._staged = None
        self._users.follow_no_more()
        self._owner.over(self)

    def lose(self, reason: str) -> None:
        """The store said that this worker no longer has it; final. For the library."""
        if self.is_over:
            return
        self._over = True
        self.lost_reason = reason
        self._staged = None
        self.lost.set()
        self._users.follow_no_more()
        self._owner.over(self)
        self._owner.lost(self)
        tell = log.info if self.heir or self._owner.ledger.has_left else log.warning
        tell("session_lost", session=self.id, epoch=self.epoch, instance=self.instance, reason=reason)

    def out_of_hand(self, reason: str) -> None:
        """There is no event loop here for it any more: it is lost without a word. From any thread. For the library."""
        self._over, self.lost_reason = True, reason
        with contextlib.suppress(RuntimeError):  # who waits for it waits on an event loop that is no more
            self.lost.set()

    def __repr__(self) -> str:
        return f"<Session {self.id} epoch={self.epoch}>"
