"""One instance's life in one partition: its id, its beats, what it owns there, and what it does when refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.errors import FencedError, NameInUseError, StoreUnavailableError
from coordinator.ids import new_instance_id
from coordinator.settings import Settings
from coordinator.store import calls, reads
from coordinator.store.deployment import check_server, prepare
from coordinator.store.scripts import Answer, Call
from coordinator.worker.adoption import Adoption
from coordinator.worker.heart import Beat, Beating, Roll
from coordinator.worker.hub import Hub
from coordinator.worker.mailbox import Mailbox
from coordinator.worker.reader import Reader
from coordinator.worker.resync import Resync
from coordinator.worker.session import Session
from coordinator.worker.stager import Stager
from coordinator.worker.trust import Pulse

if TYPE_CHECKING:
    from coordinator.worker.host import Host
    from coordinator.worker.offer import Offer

__all__ = ["Membership"]

log = structlog.get_logger()
T = TypeVar("T")

PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 0.05


class Membership:
    """A worker in one partition; partitions are independent worlds.

    Attributes:
        instance: the id under which it is registered now; another one after it was fenced.
        sessions: what it owns here, by id.
        closing: calls that ended here, and when.
    """

    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        *,
        room: Callable[[], int],
        deliver: Callable[[Offer], None],
        told_to_drain: Callable[[], None],
        host: Host | None = None,
        token_hash: str = "",
        instance: str = "",
    ) -> None:
        self.settings, self.hub, self.part = settings, hub, hub.part
        self.told_to_drain = told_to_drain
        self.host, self._token_hash = host, token_hash
        self.instance = instance or new_instance_id(settings.name)
        self.pulse = self._new_pulse()
        self.sessions: dict[str, Session] = {}
        self.adopting: set[str] = set()
        self.closing: dict[str, float] = {}
        self.highest_epoch = 0
        self.server = self.lineage = ""
        self.draining = False
        self.started_at_ms = 0
        self.joining = True
        self.stager = Stager(self)
        self.mailbox = Mailbox(self)
        self.resync = Resync(self)
        self.adoption = Adoption(self)
        self.reader = Reader(self, lambda: hub.offers(settings.pool), room, deliver)
        self.roll = Roll(self.instance, self.pulse)
        self._changing = 0
        self._asked = 0
        self._mismatches = 0
        self._left = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._beating = Beating(lambda: self.roll, self._hear)

    def _new_pulse(self) -> Pulse:
        s = self.settings
        return Pulse(s.trust_window, s.store_timeout + s.safety_margin)

    # -- joining -------------------------------------------------------------------------------------------------------

    async def join(self, patience: float | None = None) -> None:
        """Registers under the present id, and makes the partition when nobody did.

        Args:
            patience: seconds for which a name in use is asked for again; default long enough for a predecessor's
                trust window and a hold to end.

        Raises:
            NameInUseError: another live process beats under the same name.
            FencedError: this id is dead.
            ConfigurationError: the store was made for another program.
            StoreUnavailableError: the store did not answer.
        """
        s = self.settings
        deadline = clock.now() + (2 * s.dead_after + 1 if patience is None else patience)
        predecessor = ""
        self.joining = True
        while True:
            sent = clock.now()
            call = calls.join(
                self.part.keys, instance=self.instance, name=s.name, pool=s.pool, capacity=s.capacity,
                labels=json.dumps(s.labels), address=s.address, dead_after_ms=round(s.dead_after * 1000),
                trust_ms=round(s.trust_window * 1000), predecessor=predecessor, token_hash=self._token_hash,
            )  # fmt: skip
            answer = await self._patiently(partial(self.part.executor.run, call))
            match answer.word:
                case "UNKNOWN":
                    await self._init()
                case "AGAIN":
                    predecessor = answer.text("predecessor")
                case "FENCED":
                    raise FencedError(detail=f"{self.instance} is dead ({answer.text('cause')})")
                case "NAME_IN_USE":
                    if clock.now() > deadline:
                        raise NameInUseError(s.name, answer.text("instance"))
                    await anyio.sleep(min(answer.int("retry_ms") / 1000, s.heartbeat_interval))
                case _:
                    break
        self.server, self.lineage = self.part.executor.server, answer.text("lineage")
        self.started_at_ms = self.started_at_ms or answer.int("now_ms")
        self.pulse.tick(clock.now())
        self.pulse.renew(sent)
        self.joining = False
        self._call_roll()
        self.room_changed()

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer; a store that refuses us is not asked twice.

        Raises:
            StoreUnavailableError: none within `PATIENCE_SECONDS`.
        """
        began = clock.now()
        while True:
            try:
                return await ask()
            except StoreUnavailableError as error:
                if clock.now() - began > PATIENCE_SECONDS or error.kind in ("auth", "permission", "unsupported"):
                    raise
                await anyio.sleep(RETRY_SECONDS)

    async def _init(self) -> None:
        s = self.settings
        hold_ms = round(s.dead_after * 1000)
        await prepare(self.part, partitions=s.partitions, hold_ms=hold_ms, previous=self.lineage)

    async def check_store(self) -> None:
        """Looks whether the server will do, and compares the number of partitions with the stored one.

        Raises:
            ConfigurationError: it will not, or they differ.
            StoreUnavailableError: the store did not answer.
        """
        await self._patiently(lambda: check_server(self.part.executor))
        await self._patiently(self._init)

    async def start_over(self, reason: str) -> None:
        """This id is dead: what it owned is lost, and a new life begins under a new id.

        Raises:
            NameInUseError: another live process has the name by now.
        """
        log.warning("instance_fenced", instance=self.instance, reason=reason, partition=self.part.keys.partition)
        self.pulse.over = True
        for session in list(self.sessions.values()):
            session.lose(f"{self.instance} is dead: {reason}")
        self.closing.clear()
        self.instance = new_instance_id(self.settings.name)
        self.pulse = self._new_pulse()
        self.joining = True
        self._call_roll()
        self.mailbox.open()
        while True:
            try:
                await self.join()
                break
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS * 4)
        self.reader.restart()
        log.info("instance_joined_again", instance=self.instance, partition=self.part.keys.partition)
        if self.host is not None:
            self.host.joined_again(self.instance)

    async def take_up(self) -> None:
        """What the store says that this instance owns becomes ours: another process stood for it before.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        keys, run = self.part.keys, self.part.executor
        for raw in await self._patiently(partial(run.command, "SMEMBERS", keys.owned(self.instance))):
            session_id = raw.decode()
            record = await self._patiently(partial(reads.record, self.part, session_id))
            if record is not None and record["owner"].decode() == self.instance:
                self.keep(
                    Session(
                        self, session_id, int(record["epoch"]), record.get("data", b""), record.get("encoding", b"").decode(),
                        pool=record["pool"].decode(), tenant=record.get("tenant", b"").decode(),
                        requires=record.get("requires", b"").decode(), opened_at_ms=int(record.get("opened_at") or 0),
                        sequence=int(record.get("checkpoint") or 0),
                    )
                )  # fmt: skip

    def fenced(self, instance: str, reason: str) -> None:
        """An answer said that ``instance`` is dead."""
        if instance == self.instance and not self._left:
            self.pulse.over = True
            self.resync.want("fenced", reason)

    # -- beats ---------------------------------------------------------------------------------------------------------

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Beats and listens from now on; what has to be done meanwhile is done in ``tasks``."""
        self._tasks = tasks
        self.mailbox.open()
        self.hub.heart.add(self._beating)

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Does something as a task of this worker's; nothing once it has ended."""
        if self._tasks is not None:
            self._tasks.start_soon(what, *arguments)

    def beat_soon(self) -> None:
        """Beats at once instead of at the next interval."""
        self.hub.heart.soon(self._beating)

    def stop_beating(self) -> None:
        """No more beats, and nobody listens. Safe to repeat."""
        self.hub.heart.remove(self._beating)

    def end(self) -> None:
        """It needs nothing of what it shares with others any more. Safe to repeat."""
        self.stop_beating()
        self.mailbox.close()
        self.reader.end()
        self._tasks = None

    def _hear(self, beat: Beat) -> None:
        if self._tasks is None:
            return
        if beat.error is not None and not isinstance(beat.error, StoreUnavailableError):
            self.start(_fail, beat.error)
            return
        if beat.answer is None or beat.roll.instance != self.instance:
            return
        answer = beat.answer
        if answer.word == "OK":
            self._mismatches = 0
            if answer.text("state") == "draining":
                self.told_to_drain()
            if answer.int("asked") != self._asked:
                self._asked = answer.int("asked")
                self.mailbox.look_for_handovers()
        elif answer.word == "FENCED":
            self.fenced(beat.roll.instance, f"declared dead ({answer.text('cause')})")
        elif answer.word == "WEDGED":
            self.fenced(beat.roll.instance, "its event loop stood still")
        elif answer.word == "UNKNOWN":
            self.resync.want("unknown", "the store does not know this instance")
        elif (
            answer.text("server") != beat.roll.server
            or answer.text("lineage") != beat.roll.lineage
            or answer.int("held")
        ):
            self.resync.want("lost_writes", "the server or its data changed")
        else:  # only the roll call differs: once may be a session that is changing hands
            self._mismatches += 1
            if self._mismatches > 1:
                self._mismatches = 0
                self.resync.want("roll_call", f"the store counts {answer.int('owned')} sessions")

    def agree(self, server: str, lineage: str) -> None:
        """This instance and the store agree again on what it owns."""
        self.server, self.lineage = server, lineage
        self._call_roll()
        self.beat_soon()

    def _call_roll(self) -> None:
        count = None if self._changing else len(self.sessions)
        presence = self.mailbox.subscribed and self.settings.lost_connection_after > 0
        self.roll = Roll(self.instance, self.pulse, self.server, self.lineage, count, presence)

    def presence_changed(self) -> None:
        """The presence connection came or went: a beat says so at once."""
        self._call_roll()
        self.beat_soon()

    # -- requests ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, really: bool = True) -> Iterator[None]:
        """While sessions change hands the roll call stays away from the beats."""
        self._changing += really
        self._call_roll()
        try:
            yield
        finally:
            self._changing -= really
            self._call_roll()

    async def request(self, make: Callable[[], Call], session: Session | None = None) -> Answer:
        """Runs a call that is safe to repeat until it has an answer that counts.

        Waits out holds, joins again where the store forgot the instance, and tries again where it did not answer.

        Raises:
            StoreUnavailableError: not within `PATIENCE_SECONDS`, or a hold and its aftermath.
        """
        began = clock.now()
        while True:
            try:
                answer = await self.part.executor.run(make())
            except StoreUnavailableError:
                if clock.now() - began > PATIENCE_SECONDS:
                    raise
                await anyio.sleep(RETRY_SECONDS)
                continue
            if answer.word not in ("HELD", "UNKNOWN", "RESYNC"):
                self.highest_epoch = max(self.highest_epoch, answer.int("epoch"))
                return answer
            if answer.word != "HELD":
                kind = "unknown" if answer.word == "UNKNOWN" else "lost_writes"
                self.resync.want(kind, "a write was answered " + answer.word)
            if clock.now() - began > PATIENCE_SECONDS + 2 * self.settings.dead_after:
                raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
            await anyio.sleep(RETRY_SECONDS)
            if session is not None and session.lost.is_set():
                raise FencedError(session.id, session.epoch, session.lost_reason)

    def keep(self, session: Session) -> None:
        """A session is ours."""
        before = self.sessions.get(session.id)
        if before is not None and before is not session:
            before.lose("this worker adopted it anew")
        self.closing.pop(session.id, None)
        self.sessions[session.id] = session
        self._call_roll()

    def closes(self, session_id: str) -> None:
        """Its call ended: should the store lose that write it is closed again, not given to others, for ``closed_ttl``."""
        now = clock.now()
        for known, at in list(self.closing.items()):  # the oldest first
            if now - at < self.settings.closed_ttl:
                break
            del self.closing[known]
        self.closing[session_id] = now

    def forget(self, session: Session) -> None:
        """A session is not ours any more."""
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
        self._call_roll()
        self.room_changed()

    def room_changed(self) -> None:
        """There may be room for another offer."""
        self.reader.wake()

    async def leave(self, cause: str, reason: str) -> None:
        """States that this instance ends now; what it still owns is offered to others at once.

        Raises:
            StoreUnavailableError: the store did not answer: its silence will tell.
        """
        self._left = True
        self.stop_beating()
        await self.reader.stop()  # else it would be the first to be given what it leaves
        await self.part.executor.run(
            calls.leave(self.part.keys, instance=self.instance, by=self.instance, reason=reason, cause=cause)
        )


async def _fail(error: Exception) -> None:
    """Ends the worker loudly."""
    raise error
