"""The life of one instance in one partition: the only file that knows all parts of it, and puts them together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import anyio.abc
import structlog

from coordinator import clock
from coordinator.errors import ConfigurationError, NameInUseError, StoreUnavailableError
from coordinator.forked import in_a_child
from coordinator.ids import new_instance_id
from coordinator.printable import trace
from coordinator.settings import Settings
from coordinator.states import InstanceState
from coordinator.steady import Steady, keep_on
from coordinator.store import calls
from coordinator.store.faults import ScriptError
from coordinator.worker import loss_reasons
from coordinator.worker.acquisition import Acquisition
from coordinator.worker.adoption import Adoption
from coordinator.worker.attached import Attachments
from coordinator.worker.ending import Endings
from coordinator.worker.handover import Handovers
from coordinator.worker.heart import Beat, Beating
from coordinator.worker.ledger import Ledger
from coordinator.worker.mailbox import Mailbox
from coordinator.worker.observer import WorkerObserver
from coordinator.worker.offer import Offer
from coordinator.worker.offer_reader import OfferReader
from coordinator.worker.offers_in_hand import OffersInHand
from coordinator.worker.owned_sessions import OwnedSessions
from coordinator.worker.registration import Registration, new_pulse
from coordinator.worker.reluctance import Reluctance
from coordinator.worker.resync import Resync
from coordinator.worker.roll_call import RollCall
from coordinator.worker.runtime import PartitionRuntime
from coordinator.worker.sealer import Sealer
from coordinator.worker.session import Session
from coordinator.worker.stager import Stager
from coordinator.worker.turns import Turns
from coordinator.worker.writes import Writes

__all__ = ["Membership"]

log = structlog.get_logger()

PATIENCE_SECONDS = 2.0
"""How long a store that does not answer is asked again."""
UNSAID_BEATS = 4
"""After so many beats without a roll call, as sessions were changing hands, one goes out as soon as none does."""


class Membership:
    """A worker in one partition; partitions are independent worlds.

    Args:
        arrived: is called when a session has become this worker's.
        patience: seconds for which a store that does not answer is asked again.

    Attributes:
        ledger: what the instance is, owns here, is taking, and has ended.
        registration, writes, owned, acquisition, adoption, handovers, resync, reader, mailbox: its parts, by their roles.
        turns: lets one task at a time open, adopt or give up a session.
        children: what this process has attached to.
        reluctance: what it does not take again at once.
        watch_beats: see `Beating.watch`.
    """

    def __init__(
        self,
        runtime: PartitionRuntime,
        settings: Settings,
        *,
        sealer: Sealer,
        room: Callable[[], int],
        free: Callable[[], int],
        deliver: Callable[[Offer], None],
        offers_in_hand: OffersInHand[Offer],
        told_to_drain: Callable[[], None],
        observer: WorkerObserver | None = None,
        token_hash: str = "",
        hosting: str = "",
        instance: str = "",
        renamed: Callable[[], None] = lambda: None,
        arrived: Callable[[], None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.settings, self.runtime, self.part, self.sealer = settings, runtime, runtime.part, sealer
        self._told_to_drain, self._renamed, self._observer = told_to_drain, renamed, observer
        part, heard = runtime.part, settings.lost_connection_after > 0
        self.ledger = ledger = Ledger[Session](
            instance or new_instance_id(settings.name), new_pulse(settings), settings.closed_ttl, presence_counts=heard
        )
        self.turns, self.children, self.reluctance = Turns(), Attachments(), Reluctance()
        self.stager, self.endings = Stager(), Endings(settings.lease)
        self.registration = Registration(
            part, settings, ledger, self, patience=patience, token_hash=token_hash, hosting=hosting
        )
        self.resync = Resync(part, settings, ledger, self.turns, self.registration, self._agreed)
        self.writes = Writes(part, ledger, settings, self.resync, patience)
        self.owned = OwnedSessions(
            settings, sealer, part.keys, ledger, self.writes, stager=self.stager, endings=self.endings,
            reluctance=self.reluctance, doubts=self.resync, observer=observer, changing=self.changing, room_changed=self.room_changed,
            arrived=arrived,
        )  # fmt: skip
        self.acquisition = Acquisition(ledger, self.turns, self.resync, self.changing, patience)
        self.mailbox = Mailbox(runtime.notifications, part.keys, self, self._presence_changed)
        self.adoption = Adoption(
            part, settings, sealer, ledger, writes=self.writes, owned=self.owned, taking=self.acquisition,
            awaited=self.mailbox, doubts=self.resync,
        )  # fmt: skip
        self.handovers = Handovers(part, ledger, observer, self.start)
        self.reader = OfferReader(
            part, settings, sealer, ledger, writes=self.writes, adoption=self.adoption, reluctance=self.reluctance,
            start=self.start, watches_adopters=observer is None, loop=lambda: runtime.offers(settings.pool), room=room, free=free,
            deliver=deliver, offers_in_hand=offers_in_hand,
        )  # fmt: skip
        self._beats = Steady("beats")
        self._asked = self._mismatches = self._unsaid = 0
        self._agreed_at = -math.inf
        self._tasks: anyio.abc.TaskGroup | None = None
        self._beating = Beating(lambda: self.ledger.roll, self._hear, self._over)
        self.watch_beats = self._beating.watch
        in_a_child(self, Membership._forked)

    @property
    def instance(self) -> str:
        """The id under which it is registered now. It is another one after the instance was fenced."""
        return self.ledger.instance

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions that it owns here, by id."""
        return self.ledger.sessions

    @property
    def is_taking(self) -> bool:
        """Whether a session is being opened or adopted."""
        return bool(self.ledger.taking)

    def continued(self, now: float) -> float:
        """When this process last went on after standing still, in seconds of `coordinator.clock`; long ago when it did not."""
        return self.ledger.trust_window.continued(now)

    # -- life and tasks ------------------------------------------------------------------------------------------------

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Beats and listens from now on; ``tasks`` runs what has to be done meanwhile."""
        self._tasks = tasks
        tasks.start_soon(keep_on, Steady("resync"), self.resync.run, NameInUseError, ConfigurationError)
        tasks.start_soon(keep_on, Steady("stage"), self.stager.run)
        tasks.start_soon(keep_on, Steady("endings"), self.endings.run)
        tasks.start_soon(keep_on, Steady("offers_in_hand"), self.reader.keep)
        self.mailbox.open(self.instance)
        self.runtime.heart.add(self._beating)

    async def take_up(self) -> None:
        """Takes up what the store says that this instance owns: another process stood for it before.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        await self.registration.take_up(self.owned.own, self.sealer)

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Runs a function as a task of this worker. None of its errors ends the worker. Does nothing once the worker has ended."""
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

    async def begin_drain(self, lets_go_by: float, timeout: float, reason: str) -> None:
        """See `coordinator.worker.drain.Drains`."""
        self.ledger.draining = True
        self.handovers.lets_go_by = lets_go_by
        await self.reader.stop()  # else this reader would be the first to be given its own handovers
        call = calls.drain(self.part.keys, instance=self.instance, by=self.instance, reason=reason, timeout=timeout)
        try:
            await self.part.executor.run(call)
        except StoreUnavailableError as error:
            log.warning("drain_not_told", instance=self.instance, kind=error.kind)

    async def leave(self, cause: str, reason: str) -> None:
        """States that this instance ends now; what it still owns is offered to other workers at once.

        Raises:
            StoreUnavailableError: the store did not answer; the silence of this instance will tell.
        """
        await self.registration.leave(cause, reason, self._fall_silent)

    async def _fall_silent(self) -> None:
        self.stop_beating()
        await self.reader.stop()  # else this reader would be the first to be given what it leaves

    def end(self) -> None:
        """Ends the use of everything that it shares with others. Safe to repeat."""
        self.stop_beating()
        self.mailbox.close()
        self.reader.end()
        self._tasks = None

    def _forked(self) -> None:
        """A forked child owns nothing of what its parent owns, and says nothing for it."""
        self._over(loss_reasons.PARENTS)

    def _over(self, reason: str) -> None:
        """Ends everything, as the event loop is gone; from any thread, and without a word."""
        self.ledger.has_left = self.ledger.trust_window.over = True
        self._tasks = None
        for session in list(self.sessions.values()):
            session.out_of_hand(reason)

    # -- lives: see `coordinator.worker.registration.Lives` ------------------------------------------------------------

    def renamed(self) -> None:
        """It has another id, and is told things under that id."""
        self._renamed()
        self.mailbox.open(self.instance)

    def joined(self) -> None:
        """It is registered: there may be room for offers."""
        self.room_changed()

    def joined_again(self) -> None:
        """It is registered again, under another id than before."""
        self.reader.restart()
        if self._observer is not None:
            self._observer.joined_again(self.instance)

    # -- beats ---------------------------------------------------------------------------------------------------------

    def beat_soon(self) -> None:
        """Beats at once and not only at the next interval."""
        self.runtime.heart.soon(self._beating)

    def stop_beating(self) -> None:
        """Stops its beats and its listening. Safe to repeat."""
        self.runtime.heart.remove(self._beating)

    def _hear(self, beat: Beat) -> None:
        if self._tasks is None:
            return
        if isinstance(beat.error, ScriptError):  # something stored is broken: the next beat may find it mended
            self._beats.failed(beat.error, instance=self.instance)
        elif beat.error is not None and not isinstance(beat.error, StoreUnavailableError):
            self._fail(beat.error)  # nothing beats any more, or may
            return
        if beat.error is not None:
            self.mailbox.doubt()
        if beat.answer is None or beat.roll.instance != self.instance or not beat.roll.joined:
            return
        self._unsaid = self._unsaid + 1 if not beat.roll.owned else 0
        match beat.answer:
            case calls.BeatOk():
                self._counts_the_same(beat.roll, beat.answer)
            case calls.FencedInstance():
                self.writes.dead(beat.roll.instance, f"declared dead ({beat.answer.cause})")
            case calls.Wedged():
                self.writes.dead(beat.roll.instance, "its event loop stood still")
            case calls.BeatUnknown():
                self.resync.want("unknown", "the store does not know this instance")
            case calls.BeatResync():
                self._differs(beat.roll, beat.answer)

    def _counts_the_same(self, roll: RollCall, answer: calls.BeatOk) -> None:
        self._mismatches = 0
        self.ledger.past.now_ms = answer.now_ms
        if roll.presence and answer.presence == "0" and answer.server:
            self.mailbox.missing()
        if answer.state == InstanceState.DRAINING:
            self.told_to_drain()
        if (asked := answer.asked - self._asked) != 0:
            self._asked += asked
            self.handovers.look_for_heirs(asked)

    def _differs(self, roll: RollCall, answer: calls.BeatResync) -> None:
        """The store is another one, lost writes, or counts other sessions."""
        if answer.server != roll.server or answer.lineage != roll.past.lineage or answer.held:
            self.resync.want("lost_writes", "the server or its data changed")
        elif (
            roll.version == self.ledger.version
        ):  # only the roll call differs, and no session has changed hands here since
            self._mismatches += 1
            if self._mismatches == 1:
                self.beat_soon()  # once may come from a session that its owner lets go to us
            else:
                self._mismatches = 0
                self.resync.want("roll_call", f"the store counts {answer.owned} sessions")

    def _agreed(self) -> None:
        """A beat says at once that it agrees with the store again, unless they agree on nothing for long."""
        now = clock.now()
        if now - self._agreed_at > self.settings.heartbeat_interval:
            self.beat_soon()
        self._agreed_at = now

    def _presence_changed(self, yes: bool) -> None:
        """The presence connection came or went, and a beat says so at once."""
        self.ledger.present(yes)
        self.beat_soon()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While sessions change hands the beats carry no roll call, but not for too long."""
        try:
            with self.ledger.changing():
                yield
        finally:
            if not self.ledger.is_changing and self._unsaid >= UNSAID_BEATS:
                self._unsaid = 0
                self.beat_soon()

    def room_changed(self) -> None:
        """There may be room for another offer."""
        self.reader.wake()

    # -- what it is told at once: see `coordinator.worker.mailbox.Told` ------------------------------------------------

    def heir_asks(self, session_id: str, heir: str) -> None:
        """An heir waits for a session that this instance owns."""
        self.handovers.heir_asks(session_id, heir)

    def unawaited(self, session_id: str) -> None:
        """An owner let go to this instance when nothing here waited any more."""
        self.start(self.adoption.pass_on, session_id)

    def stop(self, session_id: str) -> None:
        """The owner of a session gives away what this process writes for it."""
        self.children.stop(session_id)

    def told_to_drain(self) -> None:
        """The instance is told to hand over what it owns."""
        self._told_to_drain()


async def _raise(error: Exception) -> None:
    raise error
