"""A session of another instance on this machine, written by a child process of its owner."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable

import anyio

from coordinator import clock
from coordinator.bounds import check_epoch
from coordinator.errors import FencedError, SessionGoneError, StoreUnavailableError, TenantError
from coordinator.forked import in_a_child
from coordinator.ids import new_request_id
from coordinator.settings import Settings
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition
from coordinator.store.fence import Fence, FenceRunner
from coordinator.store.replies import Reply
from coordinator.store.scripts import R, ScriptCall
from coordinator.worker.bell import Bell
from coordinator.worker.data import RecoveryData, encode
from coordinator.worker.reply_verdict import ReplyVerdict, verdict_on
from coordinator.worker.sealer import Place, Sealer

__all__ = ["AttachedSession", "Attachments"]

MOST_BELIEF_SECONDS = 2.0
"""The longest trust, however rare heartbeats are; ``lua/lib/children.lua`` waits no longer either."""
BELIEF_INTERVALS = 2
"""Heartbeat intervals for which one look counts. The owner waits as long for a child that does not say that it stopped."""


class AttachedSession:
    """Writes under the owner's epoch; ``held`` follows the owner's heartbeat as the store saw it.

    It never believes longer than the owner. Before the owner gives the session away, and before the session of a dead owner
    is offered, the child is told to stop. It then says that it did, or its last trust is waited out.

    Attributes:
        id, epoch: as the parent stated them.
        tenant: of the session.
        lost: set when the store said that the owner no longer has it.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        sealer: Sealer,
        session_id: str,
        epoch: int,
        owner: str,
        child: Callable[[], str],
    ) -> None:
        self.id, self.epoch, self.owner, self.tenant = session_id, epoch, owner, ""
        self.lost = anyio.Event()
        self._part, self._settings, self._sealer, self._child = part, settings, sealer, child
        self._writer = new_request_id()
        self._trusted_until = float("-inf")
        self._stops = 0
        self._look_soon = Bell()
        self._sequence = self._attempt = 0
        self._unanswered = False
        self._writing = anyio.Lock()
        in_a_child(self, AttachedSession._forked)

    def _forked(self) -> None:
        """A child that this process forks writes nothing here, and cannot be told to stop."""
        self._stops += 1
        self._trusted_until = float("-inf")
        with contextlib.suppress(RuntimeError):  # a task that waits for it waits on an event loop that is gone
            self.lost.set()

    @classmethod
    async def attach(
        cls,
        part: StorePartition,
        settings: Settings,
        sealer: Sealer,
        session_id: str,
        epoch: int,
        child: Callable[[], str],
        made: Callable[[AttachedSession], None],
    ) -> AttachedSession:
        """Looks up the owner of a session.

        Args:
            child: returns the instance id under which this process can be told something.
            made: is called with the handle before it believes anything, so that it can be told to stop from then on.

        Raises:
            InvalidIdError: invalid epoch.
            SessionGoneError: the session does not exist.
            FencedError: the session has another epoch by now.
            KeyUnknownError: its recovery data is sealed with a key that this process lacks.
            TenantError: the session belongs to another tenant than this process.
            StoreUnavailableError: the store did not answer.
        """
        check_epoch(epoch)
        stored = await lookups.to_write(part, session_id)
        if stored.epoch is None:
            raise SessionGoneError(session_id)
        if stored.epoch != epoch or not stored.owner:
            raise FencedError(session_id, epoch, f"the store has epoch {stored.epoch}")
        if settings.tenant and stored.tenant != settings.tenant:
            raise TenantError(session_id)
        sealer.check(session_id, stored.encoding)  # else it would write what its parent cannot read, or in clear
        session = cls(part, settings, sealer, session_id, epoch, stored.owner, child)
        session._sequence = stored.checkpoint
        session.tenant = stored.tenant
        made(session)
        await session.look()
        return session

    @property
    def held(self) -> bool:
        """True while no other worker can have adopted the session."""
        return not self.lost.is_set() and clock.now() < self._trusted_until

    async def look(self) -> None:
        """Asks how long the owner can be relied on.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        belief = min(BELIEF_INTERVALS * self._settings.heartbeat_interval, MOST_BELIEF_SECONDS)
        sent, stops = clock.now(), self._stops
        answer = await self._part.executor.run(
            calls.trust(
                self._part.keys, session=self.id, instance=self.owner, epoch=self.epoch, child=self._child(),
                belief=belief,
            )
        )  # fmt: skip
        if isinstance(answer, calls.Fenced):
            self.lost.set()
        elif (
            isinstance(answer, calls.Stop) or stops != self._stops
        ):  # the owner told it to stop while this answer was under way
            self._trusted_until = float("-inf")
        else:
            beat_age = answer.dead_after - answer.remaining
            self._trusted_until = sent + min(belief, self._settings.trust_window - beat_age)

    def stop(self) -> None:
        """The owner gives the session away, or is dead: nothing is believed until the store says that it came to nothing."""
        self._stops += 1
        self._trusted_until = float("-inf")
        self._look_soon.ring()

    async def watch(self) -> None:
        """Looks once a heartbeat interval until the session is lost. When it is told to stop, it says at once that it stopped."""
        told = 0
        try:
            while not self.lost.is_set():
                with contextlib.suppress(StoreUnavailableError):  # in doubt when the trust is over
                    if told != self._stops:
                        told = self._stops
                        await self._say_stopped()
                    await self.look()
                with anyio.move_on_after(self._settings.heartbeat_interval):
                    await self._look_soon.rung()
        finally:
            self._trusted_until = float("-inf")

    async def _say_stopped(self) -> None:
        call = calls.stopped(self._part.keys, session=self.id, epoch=self.epoch, child=self._child())
        await self._part.executor.run(call)

    @property
    def fence(self) -> Fence:
        """As ``Session.fence``, for the owner."""
        return Fence(self._part.keys, self.id, self.owner, self.epoch)

    async def fenced(self, make: Callable[[Fence], ScriptCall[R]], runner: FenceRunner) -> R:
        """As ``Session.fenced``; the owner states again what has to be stated again after lost writes.

        Raises:
            FencedError: the owner no longer has it, or has it under a new epoch that needs a new handle; final.
            StoreUnavailableError: the store did not answer, or is in a hold; it may have been written.
        """
        if self.lost.is_set():
            raise FencedError(self.id, self.epoch, "its owner no longer has it")
        answer = await runner.run(make(self.fence))
        self._check(answer)
        return answer

    async def checkpoint(self, data: RecoveryData) -> None:
        """Writes newer recovery data as the owner. An adopter would get it from then on, unless the owner writes again.

        Raises:
            FencedError: the owner no longer has it; final.
            StoreUnavailableError: the store did not answer, or is in a hold; it may have been written.
            DataTooLargeError, InvalidDataError: nothing was sent.

        Safe to repeat.
        """
        raw, encoding = encode(data, self._settings.max_data_bytes)
        place = Place(self.id, self.tenant, self.epoch)
        async with self._writing:
            if self._unanswered:  # counting on would put data without an answer above what others wrote since
                self._attempt += 1
            else:
                self._sequence, self._attempt = self._sequence + 1, 0
            self._unanswered = True
            while True:
                answer = await self._part.executor.run(
                    calls.checkpoint(
                        self._part.keys, session=self.id, instance=self.owner, epoch=self.epoch, sequence=self._sequence,
                        **self._sealer.seal(place, raw, encoding), writer=self._writer, attempt=self._attempt,
                    )
                )  # fmt: skip
                self._check(answer)
                if not isinstance(answer, calls.Old):
                    self._unanswered = False
                    return
                # the owner or another child has written meanwhile, and this data is newer
                self._sequence, self._attempt = answer.checkpoint + 1, 0

    def _check(self, answer: Reply) -> None:
        """Checks whether the answer to a write counts; the owner states again what has to be stated again after lost writes."""
        match verdict_on(answer):
            case ReplyVerdict.NOT_THE_OWNER | ReplyVerdict.DEAD:
                self.lost.set()
                raise FencedError(self.id, self.epoch, "its owner no longer has it")
            case ReplyVerdict.HELD | ReplyVerdict.STATE_AGAIN | ReplyVerdict.JOIN_AGAIN:
                raise StoreUnavailableError("try_again", f"the store answers {answer.word}")


class Attachments:
    """One per membership: what this process has attached to, so that it can be told to stop."""

    def __init__(self) -> None:
        self._attached: weakref.WeakSet[AttachedSession] = weakref.WeakSet()

    def add(self, session: AttachedSession) -> None:
        """The handle is told from now on."""
        self._attached.add(session)

    def stop(self, session_id: str) -> None:
        """The owner of a session gives it away: everything that is attached to it here stops."""
        for session in list(self._attached):
            if session.id == session_id:
                session.stop()
