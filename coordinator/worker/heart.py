"""Heartbeats, from a thread and a connection of their own: a busy event loop does not look like a dead process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from coordinator import clock
from coordinator.errors import CoordinatorError
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from coordinator.worker.lag import Lag
from coordinator.worker.roll_call import RollCall

__all__ = ["TURN_SECONDS", "Beat", "Beating", "Heart"]

SLICE_SECONDS = 0.05
TICK_SECONDS = 0.01
TURN_SECONDS = 0.05
"""Pause between two turns of the event loop when nothing blocks it."""
JITTER = 0.1
BATCH = 128
"""Most beats in one exchange."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat and what came of it: an answer, or an error."""

    roll: RollCall
    sent: float
    answer: calls.BeatReply | None = None
    error: Exception | None = None


def _sure(roll: RollCall) -> RollCall:
    """After this process stood still the state of the presence connection is unknown."""
    return replace(roll, presence=False) if roll.presence and roll.trust_window.stood_still else roll


@dataclass(slots=True, eq=False)
class Beating:
    """One instance for which the thread beats.

    Attributes:
        roll: returns what to say now.
        heard: is called on the event loop with each `Beat`.
        over: is called in the thread that beats, with the reason, when the event loop is gone: then nothing is believed.
        due: when the next beat is sent.
        watchers: are called in the thread that beats, after each exchange. They must not wait, or raise.
    """

    roll: Callable[[], RollCall]
    heard: Callable[[Beat], None]
    over: Callable[[str], None] = lambda reason: None
    due: float = field(default=float("-inf"))
    watchers: tuple[Callable[[], None], ...] = ()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Adds a watcher; returns what takes it away. From the event loop."""
        self.watchers = (*self.watchers, watcher)

        def stop() -> None:
            self.watchers = tuple(one for one in self.watchers if one != watcher)

        return stop


class Heart(threading.Thread):
    """Beats in one partition for all instances of this process, until it is stopped.

    Args:
        turns: returns how often the event loop has turned over.
        gone: returns why the event loop can never turn over again, '' as long as it can.
        heard: is called in this thread with the beats of an exchange, for the event loop.

    Attributes:
        ends: the process ends, and the exit of the instances that have not left is being stated.
    """

    def __init__(
        self,
        connector: Connector,
        keys: Keys,
        settings: Settings,
        *,
        turns: Callable[[], int],
        gone: Callable[[], str] = lambda: "",
        heard: Callable[[list[tuple[Beating, Beat]]], None],
    ) -> None:
        super().__init__(name=f"heart-{keys.partition}", daemon=True)
        self._keys, self._settings = keys, settings
        self._turns, self._gone, self._heard = turns, gone, heard
        self._lag, self.ends = Lag(), False
        self._executor = connector.heart(keys.tag, self._tick, longest=settings.trust_window)
        self._beatings: tuple[Beating, ...] = ()
        self._ticked = float("-inf")
        self._ending = threading.Event()
        self._soon = threading.Event()

    def add(self, beating: Beating) -> None:
        """Beats for this instance too from now on, and at once."""
        self._beatings = (*self._beatings, beating)
        self._soon.set()

    def remove(self, beating: Beating) -> None:
        """Ends the beats for this instance after the present one. Safe to repeat."""
        self._beatings = tuple(one for one in self._beatings if one is not beating)

    def soon(self, beating: Beating) -> None:
        """Beats for this instance at once and not only at the next interval."""
        beating.due = float("-inf")
        self._soon.set()

    def stop(self) -> None:
        """Ends the thread after the present beat. Safe to repeat."""
        self._ending.set()
        self._soon.set()

    def _tick(self) -> None:
        now = clock.now()
        if now - self._ticked < TICK_SECONDS:
            return
        self._ticked = now
        self._lag.look(now, self._turns())
        if self._gone():
            self._believe_no_more()
        for beating in self._beatings:
            beating.roll().trust_window.tick(now)

    def _believe_no_more(self) -> None:
        """The event loop is gone, so nothing can be served; the exit is stated after that."""
        for beating in self._beatings:
            if not beating.roll().trust_window.over:
                beating.roll().trust_window.over = True
                beating.over(self._gone())

    def end(self, reason: str) -> None:
        """The process ends before its instances have left: belief ends now, and the thread states the exit. From any thread."""
        if self._beatings and self.is_alive():
            plain, self._gone = self._gone, lambda: plain() or reason
            self.ends = True
            self._believe_no_more()
            self._soon.set()

    def run(self) -> None:
        """The thread: beats, tells, waits, and ticks at least every slice. Its errors are errors of all workers."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - a thread has no caller: each worker raises it on the event loop
            now = clock.now()
            self._heard([(one, Beat(one.roll(), now, error=error)) for one in self._beatings])
        finally:
            self._executor.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._soon.clear()
            self._tick()
            if why := self._gone():
                self._state_exit(why)
                return
            now = clock.now()
            due = [one for one in self._beatings if one.due <= now]
            for first in range(0, len(due), BATCH):
                some = due[first : first + BATCH]
                self._heard(self.beat(some))
                for watcher in (watcher for one in some for watcher in one.watchers):
                    watcher()
            if due:
                continue
            left = min((one.due for one in self._beatings), default=now + SLICE_SECONDS) - clock.now()
            if left > 0:
                self._soon.wait(min(SLICE_SECONDS, left))

    def _state_exit(self, why: str) -> None:
        """States the exit of the instances that live in this process; those that it only stands for live on."""
        self._believe_no_more()
        if self._settings.stands_for_others:
            return
        exits = [
            calls.certify(self._keys, instance=instance, cause="exited", by=instance, reason=why)
            for instance in (one.roll().instance for one in self._beatings)
        ]
        self._executor.run_many(exits)  # without an answer the silence tells it

    def beat(self, beatings: Sequence[Beating]) -> list[tuple[Beating, Beat]]:
        """Beats once for each; trust windows are renewed here, so that a blocked event loop does not shorten them."""
        rolls = [_sure(one.roll()) for one in beatings]
        sent = clock.now()
        interval = self._settings.heartbeat_interval
        for one in beatings:
            one.due = sent + interval * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - jitter
        answers = self._executor.run_many([self._call(roll) for roll in rolls])
        return [
            (one, self._take(one, roll, sent, answer))
            for one, roll, answer in zip(beatings, rolls, answers, strict=True)
        ]

    def _late(self) -> float:
        """Seconds by which the event loop is late, counted while this thread was awake."""
        return max(0.0, self._lag.seconds - TURN_SECONDS)

    def _call(self, roll: RollCall) -> ScriptCall[calls.BeatReply]:
        return calls.beat(
            self._keys,
            instance=roll.instance,
            dead_after=self._settings.own_dead_after,
            seen_server=roll.server,
            past=roll.past,
            roll=roll.owned,
            loop_lag=int(self._late() * 10) / 10,
            wedged_after=self._settings.own_wedged_after,
            presence=roll.presence,
        )

    def _take(self, one: Beating, roll: RollCall, sent: float, answer: calls.BeatReply | CoordinatorError) -> Beat:
        if isinstance(answer, CoordinatorError):
            return Beat(roll, sent, error=answer)
        if isinstance(answer, calls.BeatOk):
            roll.trust_window.renew(sent)
        elif isinstance(answer, calls.FencedInstance):
            roll.trust_window.over = True
        elif isinstance(answer, calls.Wedged):  # no program may believe that we speak for what we own
            roll.trust_window.over = True
            for watcher in one.watchers:  # those who believe along stop before this gives away what we own
                watcher()
            why = f"its event loop stood still for {self._late():.1f} s"
            certificate = calls.certify(
                self._keys, instance=roll.instance, cause="wedged", by=roll.instance, reason=why
            )
            [written] = self._executor.run_many([certificate])
            if isinstance(written, CoordinatorError):
                return Beat(roll, sent, error=written)
        return Beat(roll, sent, answer)
