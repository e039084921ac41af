"""One instance's life in one partition: its id, its beats, what it owns there, and what it does when refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.errors import ConfigurationError, FencedError, NameInUseError, StoreUnavailableError
from coordinator.forked import in_a_child
from coordinator.ids import new_instance_id
from coordinator.printable import trace
from coordinator.settings import Settings
from coordinator.states import InstanceState
from coordinator.steady import Steady, keep_on
from coordinator.store import calls, reads
from coordinator.store.deployment import check_partition, prepare
from coordinator.store.faults import ScriptError
from coordinator.store.past import Past
from coordinator.store.replies import epoch_in
from coordinator.store.scripts import Call, R
from coordinator.store.shapes import text, whole
from coordinator.worker.adoption import Adoption
from coordinator.worker.attached import Children
from coordinator.worker.ending import Endings
from coordinator.worker.hand import Hand
from coordinator.worker.heart import Beat, Beating, Roll
from coordinator.worker.hub import Hub
from coordinator.worker.ledger import Ledger
from coordinator.worker.mailbox import Mailbox
from coordinator.worker.reader import Reader
from coordinator.worker.resync import Resync
from coordinator.worker.sealer import Place, Sealer
from coordinator.worker.session import Session
from coordinator.worker.stager import Stager
from coordinator.worker.succession import NameWait
from coordinator.worker.trust import Pulse
from coordinator.worker.turns import Turns

if TYPE_CHECKING:
    from coordinator.worker.host import Host
    from coordinator.worker.offer import Offer

__all__ = ["Membership"]

log = structlog.get_logger()
T = TypeVar("T")

PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 0.05
UNSAID_BEATS = 4
"""So many beats without a roll call, as sessions were changing hands: then one goes out as soon as none is."""


class Membership:
    """A worker in one partition; partitions are independent worlds.

    Attributes:
        instance: the id under which it is registered now; another one after it was fenced.
        ledger: what it owns here, is taking, and has ended.
        has_left: it has said that it ends.
        asked_to_join: the store may know it.
        lets_go_by: until when a busy session is not let go, in seconds of `coordinator.clock`: the end of a drain.
        turns: one opens, adopts or gives up a session at a time.
        past: what is remembered of the partition, whatever became of its data.
        sealer: between recovery data and what is stored.
    """

    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        *,
        sealer: Sealer,
        room: Callable[[], int],
        free: Callable[[], int],
        deliver: Callable[[Offer], None],
        hand: Hand,
        told_to_drain: Callable[[], None],
        host: Host | None = None,
        token_hash: str = "",
        hosting: str = "",
        instance: str = "",
        renamed: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.hub, self.part, self.sealer = settings, hub, hub.part, sealer
        self.told_to_drain, self._renamed = told_to_drain, renamed
        self.host, self._token_hash, self._hosting = host, token_hash, hosting
        self.instance = instance or new_instance_id(settings.name)
        self.pulse = self._new_pulse()
        self.ledger = Ledger(settings.closed_ttl, lambda: self._call_roll())
        self.turns = Turns()
        self.lets_go_by = math.inf
        self.past = Past()
        self.server = ""
        self.draining = False
        self.started_at_ms = 0
        self.joining = True
        self.asked_to_join = self._arrived = False
        self.stager = Stager()
        self.endings = Endings(settings.lease)
        self.mailbox = Mailbox(self)
        self.resync = Resync(self)
        self._beats = Steady("beats")
        self._registered = ""
        self.children = Children()
        self.adoption = Adoption(self)
        self.reader = Reader(self, lambda: hub.offers(settings.pool), room, free, deliver, hand)
        self.roll = Roll(self.instance, self.pulse, joined=False)
        self._changing = 0
        self._asked = 0
        self._mismatches = self._unsaid = 0
        self._agreed_at = -math.inf
        self.has_left = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._beating = Beating(lambda: self.roll, self._hear, self._over)
        in_a_child(self, Membership._forked)

    @property
    def sessions(self) -> Mapping[str, Session]:
        """What it owns here, by id."""
        return self.ledger.sessions

    def _new_pulse(self) -> Pulse:
        s = self.settings
        return Pulse(s.trust_window, s.store_timeout + s.safety_margin)

    # -- joining -------------------------------------------------------------------------------------------------------

    async def join(self, patience: float | None = None) -> None:
        """Registers under the present id, and makes the partition when nobody did.

        Args:
            patience: seconds for which the name of a predecessor that beats is asked for again; default long enough for a
                hold to end. One that is silent is waited for until its trust window is over, however long that is.

        Raises:
            NameInUseError: another live process beats under the same name.
            FencedError: this id is dead.
            ConfigurationError: the store was made for another program.
            StoreUnavailableError: the store did not answer.
        """
        s = self.settings
        wait = NameWait(clock.now(), 2 * s.dead_after + 1 if patience is None else patience, s.dead_after)
        predecessor = ""
        self.joining = True
        while True:
            sent = clock.now()
            call = calls.join(
                self.part.keys, instance=self.instance, name=s.name, pool=s.pool, capacity=s.capacity,
                labels=json.dumps(s.labels), address=s.address, dead_after_ms=round(s.own_dead_after * 1000),
                trust_ms=round(s.own_trust_window * 1000), predecessor=predecessor, token_hash=self._token_hash,
                hosting=self._hosting, past=self.past, tenant=s.tenant, again=self._registered == self.instance,
            )  # fmt: skip
            self.asked_to_join = True
            answer = await self._patiently(partial(self.part.executor.run, call))
            match answer:
                case calls.Unknown():
                    await self._init()
                case calls.JoinAgain():
                    predecessor = answer.predecessor
                case calls.FencedInstance():
                    raise FencedError(detail=f"{self.instance} is dead ({answer.cause})")
                case calls.NameInUse():
                    if wait.is_over(clock.now(), answer.retry_ms / 1000):
                        raise NameInUseError(s.name, answer.instance)
                    await anyio.sleep(min(answer.retry_ms / 1000, s.heartbeat_interval))
                case calls.JoinOk():
                    break
        self._registered = self.instance
        self.server = self.part.executor.server
        self.past.agree(answer.lineage, answer.now_ms)
        self.started_at_ms = self.started_at_ms or answer.now_ms
        self.pulse.tick(clock.now())
        self.pulse.renew(sent)
        self.joining = False
        self._call_roll()
        self.room_changed()

    def arrived(self) -> None:
        """All that this instance owned before is ours again: from now on the answers of its beats are listened to."""
        self._arrived = True
        self._call_roll()

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
        await prepare(self.part, partitions=s.partitions, hold_ms=hold_ms, previous=self.past.lineage)

    async def check_store(self) -> None:
        """Looks whether the server and the rights will do, and compares the number of partitions with the stored one.

        Raises:
            ConfigurationError: they will not, or the numbers differ.
            StoreUnavailableError: the store did not answer.
        """
        without_info = self.settings.without_info
        await self._patiently(lambda: check_partition(self.part, "worker", without_info=without_info))
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
        self.ledger.start_over()
        self.instance = new_instance_id(self.settings.name)
        self._renamed()
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
            session_id = text(raw)
            record = await self._patiently(partial(reads.record, self.part, session_id))
            if record is not None and text(record.get("owner")) == self.instance and whole(record.get("epoch")):
                epoch, tenant = whole(record["epoch"]), text(record.get("tenant"))
                stored = record.get("data", b""), text(record.get("encoding"))
                self.keep(
                    Session(
                        self, session_id, epoch, *self.sealer.open_own(Place(session_id, tenant, epoch), *stored),
                        pool=text(record.get("pool")), tenant=tenant, requires=text(record.get("requires")),
                        opened_at_ms=whole(record.get("opened_at")), sequence=whole(record.get("checkpoint")),
                    )
                )  # fmt: skip

    def serves(self, tenant: str) -> bool:
        """Whether it may have sessions of that tenant."""
        return self.settings.tenant in ("", tenant)

    async def as_opened(self, session_id: str) -> tuple[str, str, str, int]:
        """Pool, tenant, requirements and time of opening (ms), as the record has them.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        command = "HMGET", self.part.keys.session(session_id), "pool", "tenant", "requires", "opened_at"
        pool, tenant, requires, opened_at = await self._patiently(partial(self.part.executor.command, *command))
        return text(pool), text(tenant), text(requires), whole(opened_at)

    def fenced(self, instance: str, reason: str) -> None:
        """An answer said that ``instance`` is dead."""
        if instance == self.instance and not self.has_left:
            self.pulse.over = True
            self.resync.want("fenced", reason)

    # -- beats ---------------------------------------------------------------------------------------------------------

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Beats and listens from now on; what has to be done meanwhile is done in ``tasks``."""
        self._tasks = tasks
        tasks.start_soon(keep_on, Steady("resync"), self.resync.run, NameInUseError, ConfigurationError)
        tasks.start_soon(keep_on, Steady("stage"), self.stager.run)
        tasks.start_soon(keep_on, Steady("endings"), self.endings.run)
        tasks.start_soon(keep_on, Steady("hand"), self.reader.keep)
        self.mailbox.open()
        self.hub.heart.add(self._beating)

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Does something as a task of this worker's, which no error of it ends; nothing once it has ended."""
        if self._tasks is not None:
            self._tasks.start_soon(self._do, what, *arguments)

    async def _do(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        try:
            await what(*arguments)
        except Exception as error:  # noqa: BLE001 - the others go on
            name = getattr(what, "__qualname__", repr(what))
            log.error("task_failed", task=name, instance=self.instance, exception=trace(error))

    def _fail(self, error: Exception) -> None:
        """Ends the worker loudly."""
        if self._tasks is not None:
            self._tasks.start_soon(_raise, error)

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
        if isinstance(beat.error, ScriptError):  # of something stored that is broken: the next beat may find it mended
            self._beats.failed(beat.error, instance=self.instance)
        elif beat.error is not None and not isinstance(beat.error, StoreUnavailableError):
            self._fail(beat.error)  # nobody beats any more, or may
            return
        if beat.error is not None:
            self.mailbox.doubt()
        if beat.answer is None or beat.roll.instance != self.instance or not beat.roll.joined:
            return
        answer = beat.answer
        self._unsaid = self._unsaid + 1 if not beat.roll.owned else 0
        match answer:
            case calls.BeatOk():
                self._heard_ok(beat.roll, answer)
            case calls.FencedInstance():
                self.fenced(beat.roll.instance, f"declared dead ({answer.cause})")
            case calls.Wedged():
                self.fenced(beat.roll.instance, "its event loop stood still")
            case calls.BeatUnknown():
                self.resync.want("unknown", "the store does not know this instance")
            case calls.BeatResync():
                self._differs(beat.roll, answer)

    def _heard_ok(self, roll: Roll, answer: calls.BeatOk) -> None:
        """The store counts what we count."""
        self._mismatches = 0
        self.past.now_ms = answer.now_ms
        if roll.presence and answer.presence == "0" and answer.server:
            self.mailbox.missing()
        if answer.state == InstanceState.DRAINING:
            self.told_to_drain()
        if (asked := answer.asked - self._asked) != 0:
            self._asked += asked
            self.mailbox.look_for_handovers(asked)

    def _differs(self, roll: Roll, answer: calls.BeatResync) -> None:
        """The store is another one, lost writes, or counts other sessions."""
        if answer.server != roll.server or answer.lineage != roll.past.lineage or answer.held:
            self.resync.want("lost_writes", "the server or its data changed")
        elif (
            roll.version == self.ledger.version
        ):  # only the roll call differs, and nothing has changed hands here since
            self._mismatches += 1
            if self._mismatches == 1:
                self.beat_soon()  # once may be a session that its owner lets go to us
            else:
                self._mismatches = 0
                self.resync.want("roll_call", f"the store counts {answer.owned} sessions")

    def agree(self, server: str, lineage: str) -> None:
        """This instance and the store agree again on what it owns."""
        self.server = server
        self.past.agree(lineage)
        self._call_roll()
        now = clock.now()
        if (
            now - self._agreed_at > self.settings.heartbeat_interval
        ):  # else they agree about nothing for long, and beats are regular
            self.beat_soon()
        self._agreed_at = now

    def _call_roll(self) -> None:
        silent = self._changing or not self._arrived
        presence = self.mailbox.subscribed and self.settings.lost_connection_after > 0
        self.roll = Roll(
            self.instance, self.pulse, self.server, replace(self.past), "" if silent else self.ledger.called,
            self.ledger.version, presence, self._arrived and not self.joining,
        )  # fmt: skip

    def presence_changed(self) -> None:
        """The presence connection came or went: a beat says so at once."""
        self._call_roll()
        self.beat_soon()

    # -- requests ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, really: bool = True) -> Iterator[None]:
        """While sessions change hands the roll call stays away from the beats."""
        if not really:
            yield
            return
        self._changing += 1
        self.ledger.version += 1
        self._call_roll()
        try:
            yield
        finally:
            self._changing -= 1
            self._call_roll()
            if not self._changing and self._unsaid >= UNSAID_BEATS:
                self._unsaid = 0
                self.beat_soon()

    @property
    def is_changing(self) -> bool:
        """Whether a session changes hands just now."""
        return self._changing > 0

    @contextlib.contextmanager
    def taking(self, session_id: str) -> Iterator[None]:
        """While a session is being opened or adopted: it takes up room, and is not given up as unknown."""
        self.ledger.takes(session_id, 1)
        try:
            yield
        finally:
            self.ledger.takes(session_id, -1)

    @contextlib.asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """While one request opens or adopts a session: a second one of the same id waits for its outcome.

        An end of the session here that has no answer yet is waited for: what comes now is another call of that id. When the
        request has no answer, or whoever made it was cancelled, the store is asked what became of it.

        Raises:
            StoreUnavailableError: that end has no answer within `PATIENCE_SECONDS`.
        """
        with self.taking(session_id):
            async with self.turns.of(session_id):
                if (before := self.sessions.get(session_id)) is not None:
                    await before.settled(PATIENCE_SECONDS)
                with self.changing():
                    try:
                        yield
                    except (StoreUnavailableError, asyncio.CancelledError):
                        self.resync.want("outcome_unknown", "nobody knows whether a session was opened or adopted")
                        raise

    async def request(self, make: Callable[[], Call[R]], session: Session | None = None) -> R:
        """Runs a call that is safe to repeat until it has an answer that counts.

        Waits out holds, joins again where the store forgot the instance, and tries again where it did not answer.

        Raises:
            StoreUnavailableError: not within `PATIENCE_SECONDS`, or a hold and its aftermath.
        """
        began, failing_since = clock.now(), math.inf  # a slow answer is no failure
        while True:
            try:
                answer = await self.part.executor.run(make())
            except StoreUnavailableError:
                failing_since = min(failing_since, clock.now())
                if clock.now() - failing_since > PATIENCE_SECONDS:
                    raise
                await anyio.sleep(RETRY_SECONDS)
                continue
            failing_since = math.inf
            if not isinstance(answer, calls.Held | calls.Unknown | calls.Resync):
                self.past.saw(epoch_in(answer))
                return answer
            if not isinstance(answer, calls.Held):
                kind = "unknown" if isinstance(answer, calls.Unknown) else "lost_writes"
                self.resync.want(kind, "a write was answered " + answer.word)
            if clock.now() - began > PATIENCE_SECONDS + 2 * self.settings.dead_after:
                raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
            await anyio.sleep(RETRY_SECONDS)
            if session is not None and session.is_over:
                raise FencedError(session.id, session.epoch, session.lost_reason)

    def keep(self, session: Session) -> None:
        """A session is ours."""
        before = self.ledger.keep(session)
        if before is not None:
            before.lose("this worker adopted it anew")
        self.past.saw(session.epoch)
        if self.has_left:  # it was opened or adopted as this instance said that it ends
            session.lose(f"{self.instance} has ended")

    def forget(self, session: Session) -> None:
        """A session is not ours any more."""
        self.ledger.forget(session)
        self.room_changed()

    def _forked(self) -> None:
        """A child owns nothing of what its parent owns, and says nothing for it."""
        self._over("it is the parent process's")

    def _over(self, reason: str) -> None:
        """There is no event loop for it any more; from any thread, and without a word."""
        self.has_left = self.pulse.over = True
        self._tasks = None
        for session in list(self.sessions.values()):
            session.out_of_hand(reason)

    def room_changed(self) -> None:
        """There may be room for another offer."""
        self.reader.wake()

    async def leave(self, cause: str, reason: str) -> None:
        """States that this instance ends now; what it still owns is offered to others at once.

        Raises:
            StoreUnavailableError: the store did not answer: its silence will tell.
        """
        self.has_left = self.pulse.over = True  # belief ends before the right does
        for session in list(self.sessions.values()):
            session.lose(f"{self.instance} ends: {reason}")
        self.stop_beating()
        await self.reader.stop()  # else it would be the first to be given what it leaves
        await self.part.executor.run(
            calls.certify(self.part.keys, instance=self.instance, cause=cause, by=self.instance, reason=reason)
        )


async def _raise(error: Exception) -> None:
    raise error
