"""The worker's library: `Worker`."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal

import anyio
import anyio.abc
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from coordinator import clock
from coordinator.errors import (
    CoordinatorError,
    DrainingError,
    FencedError,
    SessionHeldError,
    StoreUnavailableError,
    first_error,
)
from coordinator.ids import check_pool, check_session_id, new_request_id, partition_of
from coordinator.settings import Settings
from coordinator.store import calls, reads
from coordinator.worker.attached import AttachedSession
from coordinator.worker.data import RecoveryData, encode
from coordinator.worker.drain import DrainReport, drain
from coordinator.worker.host import Host
from coordinator.worker.hub import Hubs
from coordinator.worker.membership import Membership
from coordinator.worker.offer import Offer
from coordinator.worker.serving import Handler, Serving
from coordinator.worker.session import Session

__all__ = ["DrainReport", "Worker"]

log = structlog.get_logger()

FAREWELL_SECONDS = 5.0


class Worker:
    """One voice worker: an asynchronous context manager. On leaving it normally what it owns is handed over to others.

    That lasts as long as calls find heirs, at most ``drain_timeout``; without anybody else alive they are offered at once.

    Args:
        url: the store; default the setting ``REDIS_URL``.
        settings: any setting by its name in lower case: ``name``, ``pool``, ``capacity``, ``dead_after``, ...

    Raises:
        ConfigurationError: one line a fault.
    """

    def __init__(self, url: str | None = None, **settings: Any) -> None:
        self._begin(Settings.for_worker(url, **settings))

    @classmethod
    def hosted(
        cls, settings: Settings, host: Host, hubs: Hubs, *, token_hash: str, instances: Mapping[int, str] | None = None
    ) -> Worker:
        """A worker that a process stands for which is not the one that serves the calls; it takes no offers at first.

        For the sidecar.

        Args:
            settings: complete.
            host: is told what happens.
            hubs: shared with the other workers of that process, which runs and closes them.
            token_hash: kept with the instance, so that the program that serves the calls can be known again.
            instances: ids by partition under which it lives already; what these own is taken up when it is entered.
        """
        worker = cls.__new__(cls)
        worker._begin(settings)
        worker._hubs, worker._host, worker._token_hash, worker._instances = (
            hubs,
            host,
            token_hash,
            dict(instances or {}),
        )
        worker._most_in_hand = 0
        return worker

    def _begin(self, settings: Settings) -> None:
        if not structlog.is_configured():  # its default would write into the standard output of somebody's program
            structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        self.settings = settings
        self._hubs: Hubs | None = None
        self._own_hubs: Hubs | None = None
        self._send: MemoryObjectSendStream[Offer]
        self._receive: MemoryObjectReceiveStream[Offer]
        self._members: list[Membership] = []
        self._reading = False
        self._serving: Serving | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._host: Host | None = None
        self._token_hash = ""
        self._instances: dict[int, str] = {}
        self._most_in_hand = math.inf
        self._ended = False
        self._draining = False
        self._report: DrainReport | None = None

    @cached_property
    def drained(self) -> anyio.Event:
        """Is set when everything was handed over or offered."""
        return anyio.Event()

    @cached_property
    def _drains(self) -> anyio.Lock:
        return anyio.Lock()

    @property
    def name(self) -> str:
        """The stable name."""
        return self.settings.name

    @property
    def id(self) -> str:
        """The instance id (in partition 0)."""
        return self._members[0].instance

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more. For the sidecar."""
        return self._draining

    @property
    def sessions(self) -> tuple[Session, ...]:
        """What this worker owns now."""
        return tuple(s for member in self._members for s in member.sessions.values())

    def _room(self) -> int:
        owned = sum(len(m.sessions) + len(m.adopting) for m in self._members)
        in_hand = sum(m.reader.in_hand() for m in self._members)
        return int(min(self.settings.capacity - owned, self._most_in_hand) - in_hand)

    def take_offers(self, most: float) -> None:
        """From now on at most so many offers are read before they are answered; 0 for none. For the sidecar."""
        self._most_in_hand = most
        self._begin_reading()
        for member in self._members:
            member.room_changed()

    def _begin_reading(self) -> None:
        if not self._reading:
            self._reading = True
            for member in self._members:
                member.reader.begin()

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Does something as a task that ends with this worker. For the sidecar."""
        assert self._tasks is not None  # noqa: S101 - inside the context manager
        self._tasks.start_soon(what, *arguments)

    @property
    def trust_left(self) -> float:
        """Seconds for which this worker may still rely on what it owns, in every partition. For the sidecar."""
        now = clock.now()
        return max(
            0.0, min(m.pulse.sent + m.pulse.trust_window - now if not m.pulse.over else 0.0 for m in self._members)
        )

    @property
    def may_speak(self) -> bool:
        """As `Session.may_speak`, for all that this worker owns. For the sidecar."""
        return all(m.pulse.may_speak(clock.now()) for m in self._members)

    def owned(self, session_id: str) -> Session | None:
        """The session of that id, if this worker owns it. For the sidecar."""
        return self._member(session_id).sessions.get(session_id)

    def _member(self, session_id: str) -> Membership:
        return self._members[partition_of(check_session_id(session_id), self.settings.partitions)]

    async def __aenter__(self) -> Worker:
        if self._host is None:
            self._send, self._receive = anyio.create_memory_object_stream[Offer](float("inf"))
        hubs = self._hubs or Hubs(self.settings)
        self._own_hubs = None if self._hubs else hubs
        self._members = [
            Membership(
                hub,
                self.settings,
                room=self._room,
                deliver=self._send.send_nowait if self._host is None else self._host.offered,
                told_to_drain=self._told_to_drain,
                host=self._host,
                token_hash=self._token_hash,
                instance=self._instances.get(hub.part.keys.partition, ""),
            )
            for hub in hubs.hubs
        ]
        try:
            for member in self._members:
                await member.check_store()
                await member.join()
                if self._instances:
                    await member.take_up()
        except BaseException:
            await self._close()
            raise
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        if self._own_hubs is not None:
            self._tasks.start_soon(self._own_hubs.run)
        for member in self._members:
            member.begin(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None  # noqa: S101 - entered before
        cancelled: BaseException | None = None
        try:
            if error is None and not self._ended and self.sessions and await self.others_live():
                await self._drain(self.settings.drain_timeout, "the worker ends", self.settings.lease)
        except BaseException as fault:  # noqa: BLE001 - cancelled meanwhile: what follows must still be done
            cancelled = fault
            kind, error, traceback = type(fault), fault, fault.__traceback__
        with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
            await self._farewell(error)
        for member in self._members:
            member.end()
        self._tasks.cancel_scope.cancel()
        try:
            swallowed = await self._tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            await self._close()
        if cancelled is not None:
            raise cancelled
        return swallowed

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._host is None:
                self._send.close()
                self._receive.close()
            if self._own_hubs is not None:
                await self._own_hubs.aclose()

    async def end(self, cause: Literal["exited", "wedged"], reason: str) -> None:
        """What this worker stands for has ended: all that it owns is offered to others at once. Safe to repeat.

        Nothing is handed over when the block is left. An unreachable store is logged: the silence will tell it. For the
        sidecar.
        """
        self._ended = True
        async with anyio.create_task_group() as tasks:
            for member in self._members:
                tasks.start_soon(self._leave, member, cause, reason)

    @staticmethod
    async def _leave(member: Membership, cause: str, reason: str) -> None:
        try:
            await member.leave(cause, reason)
        except CoordinatorError as fault:
            log.warning("leave_failed", instance=member.instance, error=str(fault))

    async def _farewell(self, error: BaseException | None) -> None:
        if self._ended:
            return
        normal = error is None or isinstance(error, asyncio.CancelledError)
        if normal:
            await self._release_all("left", "the worker ended")
        why = "the worker ended" if normal else f"{type(error).__name__}"
        for member in self._members:
            await self._leave(member, "left" if normal else "exited", why)

    async def open(
        self,
        session_id: str,
        recovery_data: RecoveryData = b"",
        *,
        pool: str | None = None,
        tenant: str = "",
        requires: Sequence[str] = (),
    ) -> Session:
        """Becomes the first owner of a call; an own session is returned as it is. Safe to repeat.

        Args:
            session_id: 1-256 printable ASCII characters without white space and braces.
            recovery_data: what a worker needs to take the call over: a JSON-able mapping or bytes.
            pool: whose instances may adopt it; default this worker's.
            tenant: kept with the record.
            requires: labels that an adopter should have.

        Raises:
            SessionHeldError: another instance owns it, or it waits to be adopted.
            DrainingError: this worker takes nothing new.
            FencedError: this instance was declared dead just now; it starts over by itself.
            InvalidIdError, InvalidDataError, DataTooLargeError: nothing was sent.
            StoreUnavailableError: no answer within about two seconds; it may have been opened.
        """
        member = self._member(session_id)
        raw, encoding = encode(recovery_data, self.settings.max_data_bytes)
        pool = check_pool(pool or self.settings.pool)
        if session_id in member.sessions:
            return member.sessions[session_id]
        if self._draining:
            raise DrainingError("this worker is draining and takes nothing new")
        instance, request, wanted = member.instance, new_request_id(), json.dumps(list(requires))
        with member.changing():
            member.adopting.add(session_id)
            try:
                answer = await member.request(
                    lambda: calls.open(
                        member.part.keys, session=session_id, instance=instance, request=request,
                        floor=member.highest_epoch, pool=pool, tenant=tenant, requires=wanted, data=raw, encoding=encoding,
                    )
                )  # fmt: skip
            finally:
                member.adopting.discard(session_id)
            match answer.word:
                case "OWNED":
                    raise SessionHeldError(session_id, answer.text("owner"), answer.text("state"))
                case "DRAINING":
                    raise DrainingError("this worker is draining and takes nothing new")
                case "FENCED":
                    member.fenced(instance, "an opening was refused")
                    raise FencedError(session_id, None, "this instance was declared dead")
            if instance != member.instance:
                raise FencedError(session_id, None, "this instance was declared dead")
            session = Session(
                member, session_id, answer.int("epoch"), answer.bytes("data"), answer.text("encoding"), pool=pool,
                tenant=tenant, requires=wanted, opened_at_ms=answer.int("now_ms"), sequence=answer.int("checkpoint"),
            )  # fmt: skip
            member.keep(session)
        if self._serving:
            self._serving.start(session)
        return session

    async def offers(self) -> AsyncIterator[Offer]:
        """Offers to this worker's pool, at most ``capacity`` less what is owned and in hand at a time."""
        self._begin_reading()
        async for offer in self._receive:
            if offer.in_hand:
                yield offer

    async def adopt(self, session_id: str, wait: float = 3.0) -> Session | None:
        """Takes a call whose caller came back here.

        Takes an orphan; awaits the verdict on a silent owner; asks a living one to hand over. Where `serve` runs its handler gets it.

        Args:
            wait: seconds; 0 tries once, and asks nobody to hand over.

        Returns:
            The session, or None: unknown, closed, another pool's, or not to be had in time.

        Raises:
            FencedError: this instance was declared dead meanwhile.
            StoreUnavailableError: no answer within about two seconds.
        """
        member = self._member(session_id)
        before = member.sessions.get(session_id)
        session = await member.adoption.take_over(session_id, new_request_id(), wait)
        if session is not None and session is not before and self._serving:
            self._serving.start(session)
        return session

    async def locate(self, session_id: str) -> str | None:
        """The registered address of the session's owner; None when nobody owns it or the owner gave none.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        member = self._member(session_id)
        owner = await member.part.executor.command("HGET", member.part.keys.session(session_id), "owner")
        if not owner:
            return None
        state, address = await member.part.executor.command(
            "HMGET", member.part.keys.instance(owner.decode()), "state", "address"
        )
        return address.decode() if address and state != b"dead" else None

    async def attach(self, session_id: str, epoch: int) -> AttachedSession:
        """A handle with which a child process writes a session that its parent owns.

        Raises:
            SessionGoneError, FencedError, StoreUnavailableError: as `AttachedSession.attach`.
        """
        member = self._member(session_id)
        session = await AttachedSession.attach(member.part, self.settings, session_id, epoch)
        assert self._tasks is not None  # noqa: S101 - inside the context manager
        self._tasks.start_soon(session.watch)
        return session

    async def certify(
        self, instance: str, reason: str = "", *, cause: Literal["exited", "operator"] = "exited"
    ) -> bool:
        """States that another instance ended, in every partition. Safe to repeat.

        Returns:
            Whether any partition knew it alive.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        answers = [
            await m.part.executor.run(
                calls.certify(m.part.keys, instance=instance, cause=cause, by=self.id, reason=reason)
            )
            for m in self._members
        ]
        return any(answer.word == "OK" for answer in answers)

    async def serve(self, handler: Handler, *, drain_on: Sequence[signal.Signals] = ()) -> None:
        """Runs ``handler`` as a task for each session, opened or adopted, until cancelled, or drained.

        Args:
            handler: serves one call.
            drain_on: signals on which everything is handed over, such as ``[signal.SIGTERM]``; then this returns. Further
                ones change nothing, and are logged with what is left.

        The task is cancelled when the session is lost; the session is closed when the handler returns, and released
        when it raises.
        """
        async with anyio.create_task_group() as tasks:
            self._serving = serving = Serving(handler, tasks)
            if drain_on:
                tasks.start_soon(self._drain_on, drain_on)

            async def end_when_drained() -> None:
                await self.drained.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_when_drained)
            try:
                for session in self.sessions:
                    serving.start(session)
                async for offer in self.offers():
                    serving.adopt(offer)
            finally:
                self._serving = None

    async def _drain_on(self, numbers: Sequence[signal.Signals]) -> None:
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(*numbers) as signals:
                async for number in signals:
                    name = signal.Signals(number).name
                    if self._draining:
                        log.warning("drain_under_way", signal=name, sessions=len(self.sessions))
                    else:
                        tasks.start_soon(partial(self.drain, reason=name))

    async def drain(self, timeout: float | None = None, reason: str = "draining") -> DrainReport:
        """Takes nothing new and hands over what it owns, each call while it goes on being served.

        What nobody takes before the time is over is offered to others as orphans. Safe to repeat: one that is under way is
        waited for, with its own time-out, and what it could not move is tried again.

        Args:
            timeout: seconds; default ``drain_timeout``.
            reason: for the events.

        Returns:
            What became of each call. `drained` is set then.
        """
        return await self._drain(self.settings.drain_timeout if timeout is None else timeout, reason)

    async def _drain(self, timeout: float, reason: str, patience: float = float("inf")) -> DrainReport:
        self._draining = True
        if self._host is not None:
            self._host.draining(timeout)
        async with self._drains:
            if self._report is None or self.sessions:
                self._report = await drain(self._members, self.settings, timeout, reason, patience=patience)
            self.drained.set()
            return self._report

    def _told_to_drain(self) -> None:
        """The store says that this instance drains: somebody asked for it, or it is what this worker does."""
        if not self._draining and self._tasks is not None:
            self._tasks.start_soon(partial(self.drain, reason="told to"))

    async def others_live(self) -> bool:
        """Whether anybody else is there who might take over. For the sidecar and the supervisor."""
        for member in self._members:
            try:
                rows = await reads.instances(member.part)
            except StoreUnavailableError:
                continue
            mine = {m.instance for m in self._members}
            if any(r.state == "alive" and r.id not in mine and r.pool == self.settings.pool for r in rows):
                return True
        return False

    async def _release_all(self, cause: str, reason: str) -> None:
        async def release(session: Session) -> None:
            try:
                await session._release(reason, cause)
            except (FencedError, StoreUnavailableError) as error:
                log.warning("session_not_ended", session=session.id, error=str(error))

        async with anyio.create_task_group() as tasks:
            for session in self.sessions:
                tasks.start_soon(release, session)
