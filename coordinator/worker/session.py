"""A session in the hands of its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError
from coordinator.ids import new_request_id
from coordinator.store import calls
from coordinator.store.fence import Fence, Runner
from coordinator.store.scripts import Answer, Call
from coordinator.worker.data import RecoveryData, decode, encode
from coordinator.worker.fenced import fenced_write

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Session"]

log = structlog.get_logger()

RENEWAL_SECONDS = 2.0
RETRY_SECONDS = 0.01


class Session:
    """One call that this worker owns; got from ``Worker.open``, ``Offer.adopt`` or ``Worker.adopt``.

    Attributes:
        id: the session's id.
        epoch: its fencing token, to be passed to whatever can compare it; rises when it is renewed after lost writes.
        first_epoch: with which this worker got it.
        pool, tenant, requires: as it was opened.
        lost: set when the store said that somebody else has it; final. ``lost_reason`` says why.
        recovered: whether it was adopted from somebody.
        planned: whether its previous owner handed it over on purpose.
        gap: seconds from the previous owner's last acknowledged heartbeat to the adoption; 0 when opened here.
        data_age: seconds since the data was written, at adoption.
        heir, silence: to whom it was handed over, and seconds from letting go to the store's answer.
        previous_owner, cause, attempt: from whom, why, and with which offer it came.
    """

    def __init__(
        self,
        member: Membership,
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
        self.closed = anyio.Event()
        self.recovered = self.planned = False
        self.gap = self.data_age = 0.0
        self.previous_owner = self.cause = ""
        self.attempt = 0
        self.unsure = False
        self.undecided: object | None = None
        self.heir = ""
        self.silence = 0.0
        self._leaving = False
        self._unanswered = False
        self._busy = 0
        self._idle = anyio.Event()
        self._member = member
        self._instance = member.instance
        self._pulse = member.pulse
        self._writing = anyio.Lock()
        self._staged: tuple[bytes, str] | None = None

    @property
    def recovery_data(self) -> dict[str, Any] | bytes:
        """The newest recovery data that this worker has given or got, in the form in which it was given."""
        return decode(self.raw_data, self.encoding)

    @property
    def _ours(self) -> bool:
        return not self.lost.is_set() and not self.closed.is_set() and self._pulse is self._member.pulse

    @property
    def _given_away(self) -> bool:
        return self._leaving or self.undecided is not None

    @property
    def held(self) -> bool:
        """True while nobody else can have adopted it. Ask before what cannot be undone."""
        return self._ours and not self.unsure and not self._given_away and self._pulse.held(clock.now())

    @property
    def may_speak(self) -> bool:
        """True when held, and in doubt as long as it is only the store that does not answer."""
        return self._ours and not self._given_away and self._pulse.may_speak(clock.now())

    async def checkpoint(self, data: RecoveryData) -> None:
        """Writes newer recovery data; when it returns, an adopter would get it.

        Args:
            data: a JSON-able mapping or bytes, at most ``max_data_bytes``.

        Raises:
            FencedError: this worker is no longer the owner; final.
            StoreUnavailableError: no answer within about two seconds; the data may have been written.
            DataTooLargeError, InvalidDataError: nothing was sent.

        Safe to repeat.
        """
        await self.checkpoint_numbered(data, None)

    async def checkpoint_numbered(self, data: RecoveryData, sequence: int | None) -> bool:
        """The same with the caller's own numbers, from 1 within an epoch.

        Returns:
            False when it is not newer than what was written: nothing changes then.

        Raises:
            As `checkpoint`.
        """
        raw, encoding = encode(data, self._member.settings.max_data_bytes)
        if sequence is not None and self._is_old(sequence):
            self.check()
            return False
        self._staged = None
        await self._write(raw, encoding, sequence)
        return True

    def stage(self, data: RecoveryData) -> None:
        """The same, later and coalesced: returns at once, and only the newest is written.

        Raises:
            FencedError: this worker is no longer the owner.
            DataTooLargeError, InvalidDataError: nothing is kept.
        """
        raw, encoding = encode(data, self._member.settings.max_data_bytes)
        self.check()
        self._staged = (raw, encoding)
        self._member.stager.wake(self)

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
        await self._final(
            "resumed", lambda e: calls.resumed(self._keys, session=self.id, instance=self._instance, epoch=e)
        )

    async def close(self) -> None:
        """The call ended: nobody will be offered it. Safe to repeat.

        Raises:
            FencedError: somebody else has it; their call goes on.
            StoreUnavailableError: no answer within about two seconds.
        """
        if self.closed.is_set():
            return
        ttl = round(self._member.settings.closed_ttl * 1000)
        async with self._writing:
            self._member.closes(self.id)
            await self._final(
                "close",
                lambda e: calls.close(
                    self._keys, session=self.id, instance=self._instance, epoch=e, pool=self.pool, closed_ttl_ms=ttl
                ),
            )
            self._end()

    async def release(self, reason: str = "") -> None:
        """Gives the call up, with its newest data, to be offered to others; this worker lives on.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        await self._release(reason, "released")

    async def cannot_serve(self, reason: str = "") -> None:
        """Gives it back as though it had not been adopted: this worker lacks something that another may have, such as a key.

        No attempt and no recovery is counted, its age goes on, and this worker leaves it to others for a while.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        self._member.reader.cannot_serve(self.id)
        await self._release(reason, "returned")

    async def _release(self, reason: str, cause: str) -> None:
        s, request = self._member.settings, new_request_id()
        async with self._writing:
            raw, encoding = self._staged or (self.raw_data, self.encoding)
            await self._give_away(
                "release",
                lambda e: calls.release(
                    self._keys, session=self.id, instance=self._instance, epoch=e, request=request, pool=self.pool,
                    reason=reason, cause=cause, lease_ms=round(s.lease * 1000), max_recoveries=s.max_recoveries,
                    recovery_window_ms=round(s.recovery_window * 1000), data=raw, encoding=encoding,
                    sequence=self.sequence + 1, dead_letter_ttl_ms=round(s.dead_letter_ttl * 1000),
                ),
            )  # fmt: skip
            self._end()

    @property
    def lease(self) -> float:
        """Seconds for which an offer of it stands."""
        return self._member.settings.lease

    async def offer_handover(self) -> None:
        """Looks for an heir while this worker goes on serving; whoever accepts is let go to. For the library.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        await self._final(
            "hand_over",
            lambda e: calls.hand_over(
                self._keys, session=self.id, instance=self._instance, epoch=e, pool=self.pool,
                lease_ms=round(self._member.settings.lease * 1000),
            ),
        )  # fmt: skip

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Not now: inside this block a planned handover waits for a better moment, as long as its deadline allows."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()
                self._idle = anyio.Event()

    async def quiet(self, most: float) -> None:
        """Waits until the program is not busy with it, for ``most`` seconds at the longest. For the library."""
        with anyio.move_on_after(most):
            while self._busy:
                await self._idle.wait()

    async def let_go(self, heir: str) -> bool:
        """Hands the call, with its newest data, to an heir that accepted it. For the library.

        Returns:
            Whether it went; False when the handover is over.
        """
        async with self._writing:
            raw, encoding = self._staged or (self.raw_data, self.encoding)
            self.raw_data, self.encoding = raw, encoding
            began = clock.now()
            answer = await self._give_away(
                "let_go",
                lambda e: calls.let_go(
                    self._keys, session=self.id, instance=self._instance, heir=heir, epoch=e, pool=self.pool, data=raw,
                    encoding=encoding, sequence=self.sequence + 1,
                ),
            )  # fmt: skip
            if answer.word != "OK":
                return False
            self.heir, self.silence = heir, clock.now() - began
            self.lose(f"handed over to {heir}")
            return True

    @property
    def _keys(self) -> Any:
        return self._member.part.keys

    def check(self) -> None:
        """Raises `FencedError` when it was lost, closed or given up here. For the library."""
        if self.lost.is_set() or self.closed.is_set():
            raise FencedError(self.id, self.epoch, self.lost_reason or "it was closed or given up here")

    async def _write(self, raw: bytes, encoding: str, sequence: int | None = None) -> None:
        async with self._writing:
            self.check()
            if sequence is not None and self._is_old(sequence):
                return  # a newer one came first
            self.raw_data, self.encoding = raw, encoding
            self.sequence = sequence or self.sequence + 1

            def numbered(epoch: int) -> Call:
                self.sequence = max(1, self.sequence)  # a renewal began to count anew, and 0 would not be stored
                return calls.checkpoint(
                    self._keys, session=self.id, instance=self._instance, epoch=epoch, sequence=self.sequence, data=raw,
                    encoding=encoding,
                )  # fmt: skip

            self._unanswered = True  # until there is an answer, the same number may come again
            await self._final("checkpoint", numbered)
            self._unanswered = False

    def _is_old(self, sequence: int) -> bool:
        return sequence < self.sequence or (sequence == self.sequence and not self._unanswered)

    async def _final(self, operation: str, make: Any) -> Answer:
        """Runs a write of the owner until it has an answer that counts."""
        self.check()
        with self._member.changing(operation != "checkpoint"):
            answer = await self._member.request(lambda: make(self.epoch), self)
            began = clock.now()
            while self.is_renewed(answer) and clock.now() - began < RENEWAL_SECONDS:
                await anyio.sleep(RETRY_SECONDS)
                answer = await self._member.request(lambda: make(self.epoch), self)
        if answer.word == "FENCED":
            self.refused(answer)
        return answer

    def refused(self, answer: Answer) -> NoReturn:
        """The store refused a write for good. For the library.

        Raises:
            FencedError: always.
        """
        detail = answer.text("state") and f"it is {answer.text('state')} under epoch {answer.text('epoch')}"
        if answer.text("scope") == "instance":
            self._member.fenced(self._instance, "a write was refused")
        self.lose(detail or "its owner is dead")
        raise FencedError(self.id, self.epoch, detail or "this instance was declared dead")

    @property
    def fence(self) -> Fence:
        """Who writes, under which epoch, and where that is recorded: what a write of another program can ask for."""
        return Fence(self._member.part.keys, self.id, self._instance, self.epoch)

    async def fenced(self, make: Callable[[Fence], Call], runner: Runner) -> Answer:
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
        return await fenced_write(self, self._member, make, runner)

    async def _give_away(self, operation: str, make: Any) -> Answer:
        """A write after which somebody else may speak: from before it is sent this worker holds the session no more.

        When its outcome is unknown (no answer, or cancelled) that lasts until a re-assertion has told.
        """
        self.check()
        self._leaving = True
        try:
            answer = await self._final(operation, make)
        except FencedError:
            raise
        except BaseException:
            self.undecided, self._leaving = object(), False
            self._member.resync.want("outcome_unknown", f"no answer to {operation}")
            raise
        self._leaving = answer.word == "OK"
        return answer

    def is_renewed(self, answer: Answer) -> bool:
        """Refused only because our own resync had it renewed while the request was under way. For the library."""
        ours = answer.word == "FENCED" and answer.text("owner") == self._instance
        return ours and answer.int("epoch") >= self.epoch and self._member.sessions.get(self.id) is self

    def _end(self) -> None:
        self.closed.set()
        self._staged = None
        self._member.forget(self)

    def lose(self, reason: str) -> None:
        """The store said that this worker no longer has it; final. For the library."""
        if self.lost.is_set() or self.closed.is_set():
            return
        self.lost_reason = reason
        self._staged = None
        self.lost.set()
        self._member.forget(self)
        if self._member.host is not None:
            self._member.host.session_lost(self)
        tell = log.info if self.heir else log.warning
        tell("session_lost", session=self.id, epoch=self.epoch, instance=self._instance, reason=reason)

    def __repr__(self) -> str:
        return f"<Session {self.id} epoch={self.epoch}>"
