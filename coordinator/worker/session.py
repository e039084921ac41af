"""A session in the hands of its owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
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
from coordinator.worker import loss_reasons
from coordinator.worker.busyness import Busyness
from coordinator.worker.data import Data, decode, encode
from coordinator.worker.ending import Ending, is_of_the_store
from coordinator.worker.ledger import Ledger
from coordinator.worker.sealer import Place, Sealer, Written, is_sealed
from coordinator.worker.standing import WatchedValue
from coordinator.worker.users import Users

__all__ = ["Session"]

log = structlog.get_logger()

LATE_BEATS = 1.5
"""Intervals after which a beat without an answer is overdue; jitter is ± 10 % of one."""
SETTLE_SECONDS = 1.0
"""After a pause of the whole process the program's own time-outs end; that is no fault of the program."""
RETRY_SECONDS = 0.01
NEWEST = 2**53 - 1
"""Sequence number of data that is newer than everything written under an epoch."""


class SessionOwner(Protocol):
    """What a session needs of the instance that owns it.

    Attributes:
        settings, sealer, keys: of the worker, and of the session's partition.
        ledger: what the instance is and owns.
    """

    settings: Settings
    sealer: Sealer
    keys: Keys
    ledger: Ledger[Session]

    async def write(self, session: Session, operation: str, make: Callable[[int], ScriptCall[R]]) -> R:
        """Runs the owner's write, made for the epoch that ``make`` is given, until the answer counts; see ``Writes.write``."""

    async def guarded(self, session: Session, make: Callable[[], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs another package's write; see ``Writes.guarded``."""

    def staged(self, session: Session) -> None:
        """The session has a checkpoint to be written in the background; from any thread."""

    def renewed(self, session: Session) -> None:
        """The session has a new epoch."""

    def over(self, session: Session) -> None:
        """The session is no longer this worker's."""

    def lost(self, session: Session) -> None:
        """The session is no longer this worker's, and this program did not ask for that."""

    def outcome_unknown(self, reason: str) -> None:
        """A request that gives the session away has no answer."""

    def served_in_vain(self, session_id: str) -> None:
        """This worker served the session and gave it up: other workers come first."""

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks something that the session needs."""

    def carry_on(self, session: Session) -> None:
        """The end of the session had no answer, and is carried out later. Safe to repeat."""

    def give_up_unless_used(self, session: Session) -> None:
        """Gives the session up unless a task uses it within one lease. Safe to repeat."""


class Session(Generic[Data]):
    """One call that this worker owns; returned by ``Worker.open``, ``Offer.adopt`` and ``Worker.adopt``.

    Attributes:
        id: the session's id.
        epoch: its fencing token, for every system that can compare it; rises when the session is renewed after lost writes.
        first_epoch: the epoch under which this worker got the session.
        instance: the id of the instance of this worker that got the session.
        pool, tenant, requires, began: as the session was first opened; `began` is the time, as `coordinator.clock.now` has it here.
        lost: set when this worker no longer has the session: the store said that another worker has it, or this worker releases
            it; then it is set before the store is told. Final. ``lost_reason`` says why.
        recovered: whether this worker adopted the session from another one.
        planned: whether its previous owner handed it over on purpose.
        gap: seconds without a handler before the present one began. At an adoption they count from the previous owner's last
            acknowledged heartbeat, or from the end of its handler. Where `Worker.serve` starts a handler again, they count
            from the end of the previous one. 0 for a session opened here.
        starts: how often `Worker.serve` has started a handler for the session here.
        data_age: seconds since the data was written, at adoption.
        heir, silence: the instance that it was handed over to, and the seconds without a serving worker until the store answered.
        ended_by: the task that closed or released it here, if any.
        ended: set when this worker closed or released it, and the store has answered or will be told later.
        ending: what happens to it once it is closed or released here; None while it goes on.
        previous_owner, cause, attempt: the owner before, why the session was offered, and the number of the offer.
        prepared: what `Worker.serve` had prepared for it before the adoption.
        letting_go: an async function without arguments that is awaited before the session is given to an heir, or up at the end of
            a drain or of the worker's block: for the last checkpoint. The session is still held. It has half a lease, or half a
            second where no heir waits. Should the heir be gone, the session stays.
        watchers: see `coordinator.worker.standing`.
        signs, speaker: how often the program has called `alive`, and for which process it did so last.
    """

    epoch, ending, undecided = WatchedValue[int](), WatchedValue["Ending | None"](), WatchedValue["object | None"]()
    unsure, _leaving, _over = WatchedValue[bool](), WatchedValue[bool](), WatchedValue[bool]()

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
        self.watchers: tuple[Callable[[], None], ...] = ()
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
        self.prepared: Any = None
        self.letting_go: Callable[[], Awaitable[object]] | None = None
        self.signs, self.speaker = 0, ""
        self.unsure = False
        self.undecided = None
        self.heir = ""
        self.silence, self.starts, self.began = 0.0, 0, clock.now()
        self.ending = None
        self.unserved_since: float | None = None
        self.asked_at = float("-inf")
        self.served_by_handler = False
        self._users = Users(owner.settings.lease, self._unused)
        self._leaving = self._over = self._was_closed = False
        self.ended_by: asyncio.Task[Any] | None = None
        self._unanswered, self._attempt = False, 0
        self._busyness, self._owner = Busyness(), owner
        self.instance, self._pulse = owner.ledger.instance, owner.ledger.trust_window
        self._writing = anyio.Lock()
        self._staged: tuple[bytes, str] | None = None

    @property
    def recovery_data(self) -> Data:
        """The newest recovery data that this worker has written or received, in the form in which it was given.

        Raises:
            KeyUnknownError, SealBrokenError: the data cannot be opened here. Only a session that this instance owned before
                the start of this process can raise them.
        """
        self._used()
        raw, encoding = self.raw_data, self.encoding
        if is_sealed(encoding):
            raw, encoding = self._owner.sealer.open(self._place(self.epoch), raw, encoding)
        return cast("Data", decode(raw, encoding))

    def _place(self, epoch: int) -> Place:
        return Place(self.id, self.tenant, epoch)

    def written(self, epoch: int, raw: bytes, encoding: str) -> Written:
        """Recovery data as it is stored under an epoch of the session. For the library."""
        return self._owner.sealer.seal(self._place(epoch), raw, encoding)

    @property
    def _ours(self) -> bool:
        return not self.lost.is_set() and not self.closed.is_set() and self._pulse is self._owner.ledger.trust_window

    @property
    def is_over(self) -> bool:
        """Whether this worker has nothing more to do with the session: lost, closed or given up. For the library."""
        return self._over

    @property
    def is_given_away(self) -> bool:
        """Whether another worker may have the session, or it may be over, as soon as the store says so. For the library."""
        return self._leaving or self.undecided is not None or self.ending is not None

    async def settled(self, patience: float) -> None:
        """Waits until the session is over, or no request gives it away any more. For the library.

        Raises:
            StoreUnavailableError: not within ``patience`` seconds.
        """
        until = clock.now() + patience
        while self.is_given_away and not self.is_over:
            if clock.now() > until:
                raise StoreUnavailableError(
                    "try_again", f"session {self.id!r} is being given away here, and that has no answer yet", sent=False
                )
            await anyio.sleep(RETRY_SECONDS)

    def renewed(self, epoch: int, sequence: int) -> None:
        """Takes a new epoch; its checkpoints count from the beginning. For the library."""
        if epoch == self.epoch:
            return
        self.epoch, self.sequence = epoch, sequence
        self._owner.renewed(self)

    @property
    def held(self) -> bool:
        """True while no other worker can have adopted the session. Ask before any step that cannot be undone."""
        return clock.now() < self.held_until

    @property
    def held_until(self) -> float:
        """When `held` ends unless another beat is answered, in seconds of `coordinator.clock`; -inf when it has. For the library."""
        pulse = self._pulse
        sure = self._ours and not self.unsure and not self.is_given_away and not pulse.over
        return pulse.sent + pulse.trust_window if sure else float("-inf")

    @property
    def store_is_late(self) -> bool:
        """Whether the answer to a beat is overdue, though not yet in doubt: a call may fail for that. For the library."""
        return clock.now() - self._pulse.sent > LATE_BEATS * self._owner.settings.heartbeat_interval

    @property
    def stood_still_lately(self) -> bool:
        """Whether this process stood still a moment ago: then that may be why a call fails. For the library."""
        now = clock.now()
        return now - self._pulse.continued(now) < SETTLE_SECONDS

    @property
    def may_speak(self) -> bool:
        """True when `held`, and also in doubt as long as the only reason is a store that does not answer."""
        self._used()
        return self._ours and not self.is_given_away and self._pulse.may_speak(clock.now())

    def begins_to_be_served(self) -> None:
        """A handler begins: `gap` becomes the time without one. For the library."""
        if self.starts:
            self.gap = self.unserved
        self.starts += 1
        self.unserved_since = None

    def watch_adopter(self, *tasks: asyncio.Task[Any] | None) -> None:
        """From now on the session is offered to other workers if its code fails, unless `Worker.serve` runs a handler for it.

        Its code is its `Users`; these tasks adopted it. For the library.
        """
        self._users.watch(*tasks)

    def _used(self) -> None:
        if not self.served_by_handler:
            self._users.used()

    def _unused(self, failed_adopting: bool) -> None:
        """Starts nothing, as the event loop calls this outside of any task."""
        if self.served_by_handler or self.ending is not None or self.is_over:
            return
        if failed_adopting:
            self.nobody_serves()
        else:  # it may be one of many short tasks, or the code that cancelled it is about to end the call
            self._owner.give_up_unless_used(self)

    @property
    def uses(self) -> int:
        """How often tasks have used it. For the library."""
        return self._users.uses

    @property
    def has_user(self) -> bool:
        """Whether a task that adopted or used the session goes on. For the library."""
        return self._users.goes_on

    def nobody_serves(self) -> None:
        """Its code failed, and no task of it goes on: the session is offered to other workers. For the library."""
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
        """Writes newer recovery data. When this returns, an adopter would get that data. Safe to repeat.

        Args:
            data: a JSON-able mapping or bytes, at most ``max_data_bytes``.

        Raises:
            FencedError: this worker no longer owns the session; final.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; the data may have been written.
            DataTooLargeError, InvalidDataError: nothing was sent.
            KeyUnknownError: nothing was sent: the stored data is sealed, and this program has no keys.
        """
        await self.checkpoint_numbered(data, None)

    async def checkpoint_numbered(self, data: Data, sequence: int | None) -> bool:
        """As `checkpoint`, with the caller's own sequence numbers, from 1 within an epoch.

        Returns:
            False when the stored data is as new or newer; nothing changes then.

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
        """As `checkpoint`, later and coalesced: returns at once, and only the newest data is written.

        Raises:
            FencedError: this worker no longer owns the session.
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
        """Whether staged data is not written yet. For the library."""
        return self._staged is not None

    async def flush(self) -> None:
        """Writes the staged data, if there is any.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`; data that could not be written stays staged.
        """
        staged = self._staged
        if staged is None:
            return
        await self._write(*staged)
        if self._staged is staged:
            self._staged = None

    async def resumed(self) -> None:
        """States that the media is up again, which ends the clock of the takeover. Counts once an epoch. Safe to repeat.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        self._used()
        await self._owner.write(self, "resumed", lambda e: calls.resumed(
            self._keys, session=self.id, instance=self.instance, epoch=e
        ))  # fmt: skip

    async def close(self) -> None:
        """Ends the call: it is offered to no worker. Safe to repeat.

        This worker stops holding the session as soon as this is called, also when it raises. Then the library closes the session
        when the store is back.

        Raises:
            FencedError: another worker has the session, and the call goes on there.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; the session is closed later.
        """
        if not self.closed.is_set():
            await self._end_as(Ending("close"))

    async def release(self, reason: str = "") -> None:
        """Gives the call up, with its newest data, to be offered to other workers. This worker lives on.

        This worker stops holding the session as soon as this is called, also when it raises. Then the library gives it up when
        the store is back. It counts as a recovery: a call that is released again and again becomes a dead letter.

        Args:
            reason: why, for people: at most 1,024 characters. Invisible characters in it become visible.

        Raises:
            FencedError: as `checkpoint`.
            InvalidValueError: invalid reason; the session is not given up.
            StoreUnavailableError: no answer for two seconds, four where each try hangs; the session is given up later.
        """
        await self._end_as(Ending("release", check_reason(reason), "released", counts=True))

    async def cannot_serve(self, reason: str = "") -> None:
        """Gives the session back because this worker lacks something that another may have, such as a key.

        No attempt and no recovery is counted, the session's age goes on, and this worker leaves the session to others for a while.

        Raises:
            FencedError, InvalidValueError, StoreUnavailableError: as `release`.
        """
        reason = check_reason(reason)
        self._owner.cannot_serve(self.id)
        await self._end_as(Ending("release", reason, "returned"))

    async def hand_back(self, reason: str, cause: str = "released") -> None:
        """Gives the session to other workers although no program failed: no recovery is counted. For the library.

        Raises:
            FencedError, StoreUnavailableError: as `release`.
        """
        await self._end_as(Ending("release", reason, cause))

    async def _end_as(self, ending: Ending) -> None:
        if self.is_over:
            self.check()
        if self.ending is None or ending.kind == "close":  # the end of a call is final
            self.ending = ending
            self.ended_by = asyncio.current_task()
            if ending.counts:
                self._owner.served_in_vain(self.id)
        if ending.kind == "release" and not self.is_over:  # belief ends before the right does
            self.lost_reason = self.lost_reason or loss_reasons.GIVEN_UP
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
        """Does what `ending` says; does nothing once the session is over. For the library.

        Args:
            late: the task that asked for it is gone: `lost` tells whether the session went to another worker.

        Raises:
            FencedError, StoreUnavailableError: as `close` and `release`.
        """
        async with self._writing:
            if (ending := self.ending) is None:
                return
            if self.is_over:
                if ending.kind == "close" and not self._was_closed:  # what was under way before gave it to others
                    raise FencedError(self.id, self.epoch, self.lost_reason or loss_reasons.GIVEN_UP)
                return
            if ending.kind == "close":
                await self._carry_out_close()
                self._was_closed = True
            else:
                await self._carry_out_release(ending)
                if late:
                    self.lose(loss_reasons.GIVEN_UP)
            self._end()

    async def _carry_out_close(self) -> None:
        self._owner.ledger.ends(self)
        await self._owner.write(self, "close", lambda e: calls.close(
            self._keys, session=self.id, instance=self.instance, epoch=e, pool=self.pool, closed_ttl=self._owner.settings.closed_ttl
        ))  # fmt: skip

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
        """The data that goes along when the session is given away, with its number; nothing and 0 when the store has acknowledged all.

        What a child wrote meanwhile is newer than a checkpoint of ours without an answer, and older than what is staged.
        """
        if self._staged is not None:
            self.raw_data, self.encoding = self._staged
            return self.raw_data, self.encoding, NEWEST  # a child may have counted on
        if self._unanswered:
            return self.raw_data, self.encoding, self.sequence
        return b"", "", 0

    @property
    def unserved(self) -> float:
        """Seconds since its handler stopped; 0 while it runs, and for a program that does not say. For the library."""
        return 0.0 if self.unserved_since is None else max(0.0, clock.now() - self.unserved_since)

    def alive(self, process: str = "") -> None:
        """Says that what serves this call is alive. From any thread; costs nothing.

        From the first time on the session is given to other workers, as `release` does it, when it was not said for
        ``wedged_after``: so a job that hangs is found although its worker lives.

        Args:
            process: what serves the call, for the reason; default this process.
        """
        self.speaker = process or f"process {os.getpid()}"
        self.signs += 1

    @property
    def lease(self) -> float:
        """Seconds for which an offer of the session stands."""
        return self._owner.settings.lease

    async def offer_handover(self) -> None:
        """Looks for an heir while this worker goes on serving; lets go to the heir that accepts. For the library.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        await self._owner.write(self, "hand_over",
            lambda e: calls.hand_over(
                self._keys, session=self.id, instance=self.instance, epoch=e, pool=self.pool,
                lease=self._owner.settings.lease,
            ),
        )  # fmt: skip

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Inside this block a planned handover waits for a better moment, as long as its deadline allows."""
        self._used()
        return self._busyness.busy()

    @property
    def is_busy(self) -> bool:
        """Whether the program is inside `busy`. For the library."""
        return bool(self._busyness)

    async def quiet(self, until: Callable[[], float]) -> None:
        """Waits until the program is not busy with the session, or the session is over. For the library.

        Args:
            until: as `Busyness.over`.
        """
        await self._busyness.over(lambda: float("-inf") if self.is_over else until())

    async def let_go(self, heir: str) -> bool:
        """Hands the call, with its newest data, to an heir that accepted it. For the library.

        Returns:
            Whether the heir has it; False when the handover is over.
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
            self.lose(loss_reasons.handed_over(heir))
            return True

    @property
    def _keys(self) -> Keys:
        return self._owner.keys

    def check(self) -> None:
        """Raises `FencedError` when the session was lost, or closed or given up here, carried out or not. For the library."""
        if self.is_over or self.ending is not None:
            raise FencedError(self.id, self.epoch, self.lost_reason or loss_reasons.CLOSED_OR_GIVEN_UP)

    async def _write(self, raw: bytes, encoding: str, sequence: int | None = None) -> bool:
        """Returns whether the data was written: data with the caller's own number may be older than the stored data."""
        async with self._writing:
            self.check()
            if sequence is not None and self._is_old(sequence):
                return False  # newer data came first
            self.raw_data, self.encoding = raw, encoding
            # Counting on would put data without an answer above what others wrote since.
            again = self._unanswered and sequence is None
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
            ):  # a child has written meanwhile, and this is newer
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
        """The owner, its epoch, and where they are recorded: what a write of another program can check."""
        self._used()
        return Fence(self._owner.keys, self.id, self.instance, self.epoch)

    async def fenced(self, make: Callable[[Fence], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs a write whose own script checks that this worker still owns the session; for session stores.

        After lost writes this waits until the session was stated again, and goes on under the new epoch.

        Args:
            make: makes the write for an owner; called again for each attempt. The write must be safe to run twice.
            runner: the connection on which the write runs, to the same Redis.

        Raises:
            FencedError: this worker no longer owns the session, or closed it or gave it up; final.
            StoreUnavailableError: no answer, or none that counts until a hold and its aftermath should be over; it may have been
                written.
            ConfigurationError: the connection leads to another Redis than the worker's.
        """
        return await self._owner.guarded(self, lambda: make(self.fence), runner)

    async def _give_away(self, operation: str, make: Callable[[int], ScriptCall[R]]) -> R:
        """Runs a write after which another worker may speak. This worker stops holding the session before the write is sent.

        When the outcome is unknown (no answer, or cancelled) that lasts until a re-assertion has told.
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
        """Takes note of the store's word that this worker no longer has the session; final. For the library."""
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
        """Loses the session without a word, as its event loop is gone. From any thread. For the library."""
        self._over, self.lost_reason = True, reason
        with contextlib.suppress(RuntimeError):  # a task that waits for it waits on an event loop that is gone
            self.lost.set()

    def __repr__(self) -> str:
        return f"<Session {self.id} epoch={self.epoch}>"
