"""The inside of a worker, which `coordinator.Worker` and the sidecar share."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.bounds import (
    check_callable,
    check_count,
    check_reason,
    check_requires,
    check_seconds,
    check_signals,
    check_text,
    fitted,
)
from coordinator.errors import (
    CoordinatorError,
    DrainingError,
    FencedError,
    SessionHeldError,
    StoreUnavailableError,
    TenantError,
)
from coordinator.eventloop import check_event_loop
from coordinator.ids import check_pool, check_session_id, new_request_id, partition_of
from coordinator.policy import backoff
from coordinator.printable import told, trace
from coordinator.settings import Settings
from coordinator.signals import heard
from coordinator.states import InstanceState
from coordinator.store import calls, lookups, reads
from coordinator.store.scripts import ScriptCall
from coordinator.worker import liveness
from coordinator.worker.announcer import Announcer
from coordinator.worker.attached import AttachedSession
from coordinator.worker.certificate import certify_everywhere
from coordinator.worker.channel import Channel
from coordinator.worker.data import RecoveryData, encode
from coordinator.worker.drain import DrainReport, drain
from coordinator.worker.exit_watcher import ExitWatcher
from coordinator.worker.last_words import LAST_WORDS_SECONDS, last_words
from coordinator.worker.membership import PATIENCE_SECONDS, Membership
from coordinator.worker.observer import WorkerObserver
from coordinator.worker.offer import Offer
from coordinator.worker.offers_in_hand import OffersInHand
from coordinator.worker.preparing import Prepare
from coordinator.worker.runtime import WorkerRuntime
from coordinator.worker.sealer import OPENING, Place, Sealer
from coordinator.worker.serving import Handler, Serving
from coordinator.worker.session import Session
from coordinator.worker.wait import Wait
from coordinator.worker.worker_task import FAREWELL_SECONDS, WorkerTask

__all__ = ["Instance"]

log = structlog.get_logger()

READY_SECONDS = 0.05
"""Pause between two looks at how many calls the program can start now."""


class Instance:
    """The inside of a worker. `coordinator.Worker` uses it, and a sidecar that stands for a program in another process.

    Args:
        settings: complete.
        observer: is told what happens, where the program is another process. Then no offers are taken until `take_offers`.
        runtime: shared with the other workers of this process, which runs and closes them; default its own.
        token_hash: kept with the instance, so that the program that serves the calls can be recognised again.
        instances: ids by partition under which the worker lives already. Their sessions are taken up when it is entered.
        hosting: kept with the instance too, for the process that stands for it after this one.

    Attributes:
        members: its part in each partition.
        offers_in_hand: the offers that wait for the program.
        serving: what hands calls to a handler, while `serve` runs.
        task: the task in which everything runs, once the worker was entered.
        patience: seconds for which a store that does not answer is asked again; changed before it is entered only.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: WorkerObserver | None = None,
        runtime: WorkerRuntime | None = None,
        token_hash: str = "",
        instances: Mapping[int, str] | None = None,
        hosting: str = "",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.settings, self._sealer, self.patience = settings, Sealer.of(settings), patience
        self._runtime, self._observer = runtime, observer
        self._own_runtime: WorkerRuntime | None = None
        self.offers_in_hand: OffersInHand[Offer]
        self.members: list[Membership] = []
        self._announcer: Announcer | None = None
        self._exit_watcher: ExitWatcher | None = None
        self._channel: Channel | None = None
        self._reading = self._started = False
        self.serving: Serving | None = None
        self._ready: Callable[[], int] | None = None
        self._ready_failed = False
        self.task: WorkerTask | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._token_hash, self._hosting = token_hash, hosting
        self.instances = dict(instances or {})
        self._most_in_hand = math.inf if observer is None else 0.0
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

    @cached_property
    def _channels(self) -> anyio.Lock:
        return anyio.Lock()

    @property
    def name(self) -> str:
        """The worker's stable name."""
        return self.settings.name

    @property
    def id(self) -> str:
        """The instance id (in partition 0)."""
        return self.members[0].instance

    @property
    def is_draining(self) -> bool:
        """Whether the worker has stopped taking sessions."""
        return self._draining

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions that this worker owns now."""
        return tuple(s for member in self.members for s in member.sessions.values())

    def _free(self) -> int:
        """How many more sessions the worker could own."""
        return self.settings.capacity - sum(len(m.sessions.keys() | m.ledger.taking.keys()) for m in self.members)

    def _room(self) -> int:
        """How many more offers the worker takes now."""
        in_hand = sum(m.reader.in_hand() for m in self.members)
        return min(self._can_begin() - in_hand, self._free() - in_hand, self.offers_in_hand.room(in_hand))

    def _can_begin(self) -> int:
        """How many calls the program can begin with now, as it says itself, beside those that it will hear of soon."""
        if self._ready is None:
            return self._free()
        try:
            count = int(min(self._ready(), self.settings.capacity))  # it may say that there is no limit
        except Exception as error:  # noqa: BLE001 - the program's own code; the calls that it serves go on
            if not self._ready_failed:
                log.error("ready_failed", error=told(error), exception=trace(error), consequence="no offers are taken")
            self._ready_failed = True
            return 0
        self._ready_failed = False
        return count - (self.serving.coming if self.serving is not None else 0)

    def take_offers(self, most: float) -> None:
        """From now on the worker reads at most so many offers before they are answered; 0 for none."""
        self._most_in_hand = self.offers_in_hand.window.most = most
        self.offers_in_hand.asked()
        self.begin_reading()
        for member in self.members:
            member.room_changed()

    def asks_again(self) -> None:
        """The program answers again. If it did not get to its offers before, it is given offers again."""
        self.offers_in_hand.asked()

    def begin_reading(self) -> None:
        """Takes offers from now on. Safe to repeat."""
        if not self._reading:
            self._reading = True
            for member in self.members:
                member.reader.begin()

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Runs a function as a task that ends with this worker."""
        assert self._tasks is not None  # noqa: S101 - inside the context manager
        self._tasks.start_soon(what, *arguments)

    @property
    def trust_left(self) -> float:
        """Seconds for which this worker may still rely on what it owns, in every partition."""
        return self._left(self.settings.trust_window)

    @property
    def alone_left(self) -> float:
        """The seconds of `trust_left` if no beat comes any more and the process that beats cannot judge either."""
        return self._left(self.settings.own_trust_window)

    def _left(self, window: float) -> float:
        now = clock.now()
        return max(
            0.0,
            min(
                m.ledger.trust_window.sent + window - now if not m.ledger.trust_window.over else 0.0
                for m in self.members
            ),
        )

    @property
    def may_speak(self) -> bool:
        """As `Session.may_speak`, for all that this worker owns."""
        return all(m.ledger.trust_window.may_speak(clock.now()) for m in self.members)

    def owned(self, session_id: str) -> Session | None:
        """The session of that id, if this worker owns it."""
        return self._member(session_id).sessions.get(session_id)

    def _member(self, session_id: str) -> Membership:
        return self.members[partition_of(check_session_id(session_id), self.settings.partitions)]

    async def __aenter__(self) -> Instance:
        check_event_loop("Worker")
        self.offers_in_hand = OffersInHand()
        self.offers_in_hand.window.most = self._most_in_hand
        if self._observer is None:
            self._announcer = Announcer.of(self.settings, lambda: [member.instance for member in self.members])
            self._token_hash = self._announcer.token_hash if self._announcer else ""
        runtime = self._runtime or WorkerRuntime(self.settings)
        self._own_runtime = None if self._runtime else runtime
        self.members = [
            Membership(
                partition,
                self.settings,
                sealer=self._sealer,
                room=self._room,
                free=self._free,
                deliver=self.offers_in_hand.take if self._observer is None else self._observer.offered,
                offers_in_hand=self.offers_in_hand,
                told_to_drain=self._told_to_drain,
                observer=self._observer,
                token_hash=self._token_hash,
                hosting=self._hosting,
                instance=self.instances.get(partition.part.keys.partition, ""),
                renamed=self._renamed,
                arrived=self._arrived,
                patience=self.patience,
            )
            for partition in runtime.partitions
        ]
        self.task = task = WorkerTask(self._say_farewell, self._close)
        try:
            self._tasks = tasks = await task.enter()
            if self._observer is None:
                await self._have_exit_watched(tasks)
                tasks.start_soon(liveness.watch, lambda: self.sessions, self.settings.wedged_after, self._too_silent)
            if self._own_runtime is not None:
                tasks.start_soon(self._own_runtime.run)
            for member in self.members:
                await member.registration.check_store()
                member.begin(tasks)  # beats begin before the registration, so that nothing stands between the two
                await member.registration.join()
                if self._exit_watcher is not None:
                    self._exit_watcher.changed()
                if self.instances:
                    await member.take_up()
                member.ledger.arrived()
            self._started = True
        except BaseException as error:
            await task.leave(error)
            raise
        return self

    async def _have_exit_watched(self, tasks: anyio.abc.TaskGroup) -> None:
        """By a supervisor or a sidecar where one agrees to, else by an exit watcher of its own."""
        if self._announcer is not None:
            tasks.start_soon(self._announcer.run)
            await self._announcer.announced()
            if self._announcer.accepted:
                return
        if self.settings.watch_exit:
            self._exit_watcher = ExitWatcher.where_it_works(lambda: [(m.part, m.instance) for m in self.members])
        if self._exit_watcher is not None:
            tasks.start_soon(self._exit_watcher.run)

    def _arrived(self) -> None:
        if self._channel is not None:
            self._channel.changed()

    async def channel(self) -> Channel:
        """See `coordinator.Worker.channel`."""
        if self._tasks is None or self.task is None or self.task.is_over:
            raise CoordinatorError("this worker was not entered yet, or has ended: it has no channel")
        async with self._channels:
            if self._channel is None:
                channel = Channel(self)
                await channel.open()
                self._channel = channel
            return self._channel

    def watch_beats(self, session_id: str, told: Callable[[], None]) -> Callable[[], None]:
        """See `coordinator.worker.channel.ChannelOwner`."""
        return self._member(session_id).watch_beats(told)

    def _too_silent(self, session: Any) -> None:
        if session.ending is None and not session.is_over:
            self.start(liveness.give_up, session, self.settings.wedged_after)

    def _renamed(self) -> None:
        """The instance has another id in a partition: what watches its process is to know."""
        for watcher in (self._announcer, self._exit_watcher):
            if watcher is not None:
                watcher.changed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self.task
        assert task is not None  # noqa: S101 - entered before
        if task.is_a_parents:
            return
        task.owned_by_this_task()
        fault = error
        try:
            if error is None and not self._ended and self.sessions and await self.others_live():
                await self._drain(self.settings.drain_timeout, "the worker ends", self.settings.lease)
        except BaseException as one:  # noqa: BLE001 - cancelled meanwhile: the rest must still be done
            fault = one
        await task.leave(fault)
        if fault is not None and fault is not error:
            raise fault

    async def _say_farewell(self, error: BaseException | None) -> None:
        """Ends a block that is left, or that could not be entered. Afterwards the worker needs nothing any more."""
        try:
            if self._started:
                await self._farewell(error)
            elif not self.instances:
                for member in self.members:
                    if member.registration.asked_to_join:  # the answer may be under way
                        await self._leave(member, "left", "the worker did not start")
        finally:
            for member in self.members:
                member.end()

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            self.offers_in_hand.close()
            if self._announcer is not None:
                await self._announcer.left()
            if self._exit_watcher is not None:
                self._exit_watcher.left()
            if self._own_runtime is not None:
                await self._own_runtime.aclose()

    async def end(self, cause: Literal["exited", "wedged"], reason: str) -> None:
        """Ends the worker because the program that it stands for has ended. Its sessions are offered to others at once.

        Safe to repeat. Nothing is handed over when the block is left. If the store cannot be reached, that is logged and the
        silence will tell of the end.
        """
        self._ended = True
        async with anyio.create_task_group() as tasks:
            for member in self.members:
                tasks.start_soon(self._leave, member, cause, reason)

    def abandon(self) -> None:
        """Leaves everything for the next process that stands for this worker: nothing is stated when the block is left."""
        self._ended = True

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
        else:  # what was said of a call before the error stands: a call that is over is not offered
            with anyio.move_on_after(FAREWELL_SECONDS / 2):
                await self._carry_out_endings()
        why = "the worker ended" if normal else fitted(type(error).__name__)
        for member in self.members:
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
        """See `coordinator.Worker.open`."""
        member = self._member(session_id)
        raw, encoding = encode(recovery_data, self.settings.max_data_bytes)
        pool = check_pool(pool or self.settings.pool)
        tenant, wanted = check_text("tenant", tenant), json.dumps(check_requires(requires))
        if (bound := self.settings.tenant) and (tenant := tenant or bound) != bound:
            raise TenantError(session_id)
        if (mine := member.sessions.get(session_id)) is not None and not mine.is_given_away:
            return mine
        async with member.acquisition.turn(session_id):
            if (mine := member.sessions.get(session_id)) is not None:  # the turn before opened or adopted it
                return mine
            if self._draining:
                raise DrainingError("this worker is draining and takes nothing new")
            instance, request = member.instance, new_request_id()

            def opening(letter_epoch: str = "") -> ScriptCall[calls.OpenReply]:
                return calls.open(
                    member.part.keys, session=session_id, instance=instance, request=request, floor=member.ledger.past.epoch,
                    pool=pool, tenant=tenant, requires=wanted, letter_epoch=letter_epoch,
                    **self._sealer.seal(Place(session_id, tenant, OPENING), raw, encoding),
                )  # fmt: skip

            answer = await member.writes.request(opening)
            while isinstance(answer, calls.OpenAgain):  # its id was given up on before: that one is kept apart
                answer = await member.writes.request(partial(opening, answer.letter_epoch))
            match answer:
                case calls.Owned():
                    raise SessionHeldError(session_id, answer.owner, answer.state)
                case calls.Draining():
                    raise DrainingError("this worker is draining and takes nothing new")
                case calls.FencedInstance():
                    member.writes.dead(instance, "an opening was refused")
                    raise FencedError(session_id, None, "this instance was declared dead")
            if instance != member.instance or not isinstance(answer, calls.OpenOk):
                raise FencedError(session_id, None, "this instance was declared dead")
            epoch, said = answer.epoch, lookups.Opening(pool, tenant, wanted, answer.now_ms)
            if answer.existing:  # it was opened before, by a request that has no handle here
                said = await member.registration.as_opened(session_id)
                stored = answer.data, answer.encoding
                raw, encoding = self._sealer.open_own(Place(session_id, said.tenant, epoch), *stored)
            session = member.owned.own(
                session_id, epoch, raw, encoding, pool=said.pool, tenant=said.tenant, requires=said.requires,
                opened_at_ms=said.opened_at_ms, sequence=answer.checkpoint,
            )  # fmt: skip
        if self.serving:
            self.serving.start(session)
        return session

    async def offers(self) -> AsyncIterator[Offer]:
        """See `coordinator.Worker.offers`."""
        self.begin_reading()
        while offer := await self.offers_in_hand.next():
            yield offer

    async def adopt(self, session_id: str, wait: float = 3.0) -> Session | None:
        """See `coordinator.Worker.adopt`."""
        member = self._member(session_id)
        before = member.sessions.get(session_id)
        session = await member.adoption.take_over(session_id, new_request_id(), Wait(check_seconds("wait", wait)))
        if session is not None and session is not before:
            if self.serving:
                self.serving.start(session)
            elif self._observer is None:
                session.watch_adopter(asyncio.current_task())
        return session

    async def receive(
        self, session_id: str, recovery_data: RecoveryData = b"", wait: float = 3.0, **opening: Any
    ) -> Session | None:
        """See `coordinator.Worker.receive`."""
        until, failures = clock.now() + check_seconds("wait", wait), 0
        while True:
            try:
                return await self.open(session_id, recovery_data, **opening)
            except SessionHeldError:
                pass
            session = await self.adopt(session_id, max(0.0, until - clock.now()))
            pause = backoff(failures, 1.0)
            if session is not None or clock.now() + pause > until:
                return session
            await anyio.sleep(pause)  # it was closed meanwhile, and is opened, or is another pool's
            failures += 1

    async def locate(self, session_id: str) -> str | None:
        """See `coordinator.Worker.locate`."""
        member = self._member(session_id)
        where = await lookups.owner_of(member.part, session_id)
        if not where.owner or self.settings.tenant not in ("", where.tenant):
            return None
        owner = await lookups.reachable(member.part, where.owner)
        return owner.address or None if owner.state != InstanceState.DEAD else None

    async def attach(self, session_id: str, epoch: int) -> AttachedSession:
        """See `coordinator.Worker.attach`."""
        member = self._member(session_id)
        session = await AttachedSession.attach(
            member.part, self.settings, self._sealer, session_id, epoch, lambda: member.instance, member.children.add
        )
        member.start(session.watch)
        return session

    async def certify(
        self, instance: str, reason: str = "", *, cause: Literal["exited", "operator"] = "exited"
    ) -> bool:
        """See `coordinator.Worker.certify`."""
        if not self.members:
            raise CoordinatorError("this worker was not entered yet: coordinator.certify needs no worker")
        parts = [member.part for member in self.members]
        return await certify_everywhere(parts, instance, reason, cause=cause, by=self.id)

    async def serve(
        self,
        handler: Handler,
        *,
        prepare: Prepare[Any] | None = None,
        prepare_timeout: float | None = None,
        ready: int | Callable[[], int] | None = None,
        drain_on: Sequence[signal.Signals] = (),
    ) -> None:
        """See `coordinator.Worker.serve`."""
        check_callable("handler", handler)
        if prepare is not None:
            check_callable("prepare", prepare)
        drain_on = check_signals("drain_on", drain_on)
        limit = check_seconds("prepare_timeout", self.settings.lease if prepare_timeout is None else prepare_timeout)
        can_begin = ready if ready is None or callable(ready) else _always(check_count("ready", ready))
        async with anyio.create_task_group() as tasks:
            self.serving = serving = Serving(handler, tasks, prepare, limit)
            self._ready = can_begin
            if can_begin is not None:
                tasks.start_soon(self._follow_readiness)
            if drain_on:
                tasks.start_soon(self._drain_on, drain_on)

            async def end_when_drained() -> None:
                await self.drained.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_when_drained)
            try:
                self.begin_reading()
                await serving.run(self.sessions, self.offers_in_hand)
            finally:
                if self.serving is serving:  # else another one serves meanwhile
                    self.serving = self._ready = None

    async def _follow_readiness(self) -> None:
        """Reads offers as soon as the program can start more calls; it cannot say so itself."""
        before = 0
        while self._ready is not None:
            now = self._room()
            if now > before:
                for member in self.members:
                    member.room_changed()
            before = now
            await anyio.sleep(READY_SECONDS)

    async def _drain_on(self, numbers: Sequence[signal.Signals]) -> None:
        async with anyio.create_task_group() as tasks:
            with heard(*numbers) as signals:
                async for name in signals:
                    if self._draining:
                        log.warning("drain_under_way", signal=name, sessions=len(self.sessions))
                    else:
                        tasks.start_soon(partial(self.drain, reason=name))

    async def drain(self, timeout: float | None = None, reason: str = "draining") -> DrainReport:
        """See `coordinator.Worker.drain`."""
        timeout, reason = None if timeout is None else check_seconds("timeout", timeout), check_reason(reason)
        return await self._drain(self.settings.drain_timeout if timeout is None else timeout, reason)

    async def _drain(self, timeout: float, reason: str, patience: float = float("inf")) -> DrainReport:
        self._draining = True
        if self._observer is not None:
            self._observer.draining(timeout)
        async with self._drains:
            if self._report is None or self.sessions or any(m.ledger.taking for m in self.members):
                self._report = await drain(self.members, self.settings, timeout, reason, patience=patience)
            self.drained.set()
            return self._report

    def _told_to_drain(self) -> None:
        """The store says that this instance drains: a program asked for it, or this worker drains already."""
        if self._started and not self._draining and self._tasks is not None:  # else the next beat tells it again
            self._tasks.start_soon(partial(self.drain, reason="told to"))

    async def others_live(self) -> bool:
        """Whether another worker is there that might take over."""
        for member in self.members:
            try:
                rows = await reads.instances(member.part)
            except StoreUnavailableError:
                continue
            mine, tenants = {m.instance for m in self.members}, {"", *(s.tenant for s in self.sessions)}
            others = [
                r for r in rows if r.state == InstanceState.ALIVE and r.id not in mine and r.pool == self.settings.pool
            ]
            if any(other.tenant in tenants for other in others):
                return True
        return False

    async def _carry_out_endings(self) -> None:
        async def carry_out(session: Session) -> None:
            try:
                await session.carry_out()
            except (FencedError, StoreUnavailableError) as error:
                log.warning("session_not_ended", session=session.id, error=str(error))

        async with anyio.create_task_group() as tasks:
            for session in self.sessions:
                if session.ending is not None:
                    tasks.start_soon(carry_out, session)

    async def _release_all(self, cause: str, reason: str) -> None:
        async def release(session: Session) -> None:
            try:
                await last_words(session, LAST_WORDS_SECONDS)
                if not session.is_over:  # else its program has ended it there
                    await session.hand_back(reason, cause)
            except (FencedError, StoreUnavailableError) as error:
                log.warning("session_not_ended", session=session.id, error=str(error))

        async with anyio.create_task_group() as tasks:
            for session in self.sessions:
                tasks.start_soon(release, session)


def _always(count: int) -> Callable[[], int]:
    return lambda: count
