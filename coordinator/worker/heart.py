"""Heartbeats, from a thread and a connection of their own: a busy event loop does not look like a dead process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coordinator import clock
from coordinator.errors import CoordinatorError
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.store.scripts import Answer, Call
from coordinator.worker.trust import Pulse

__all__ = ["Beat", "Beating", "Heart", "Roll"]

SLICE_SECONDS = 0.05
TICK_SECONDS = 0.01
JITTER = 0.1
BATCH = 128
"""Beats in one exchange."""


@dataclass(frozen=True, slots=True)
class Roll:
    """What a beat says; replaced as a whole by the event loop, read by the thread.

    Attributes:
        count: sessions believed to be owned; None while one is changing hands.
        presence: whether the presence connection is up, and may count.
    """

    instance: str
    pulse: Pulse
    server: str = ""
    lineage: str = ""
    count: int | None = None
    presence: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat and what came of it: an answer, or an error."""

    roll: Roll
    sent: float
    answer: Answer | None = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Beating:
    """One instance for which the thread beats.

    Attributes:
        roll: returns what to say now.
        heard: is called on the event loop with each `Beat`.
        due: when the next beat is sent.
    """

    roll: Callable[[], Roll]
    heard: Callable[[Beat], None]
    due: float = field(default=float("-inf"))


class Heart(threading.Thread):
    """Beats in one partition for all instances of this process, until it is stopped.

    Args:
        loop_lag: returns by how many seconds the event loop is late now.
        heard: is called in this thread with the beats of an exchange, for the event loop.
    """

    def __init__(
        self,
        connector: Connector,
        keys: Keys,
        settings: Settings,
        *,
        loop_lag: Callable[[], float],
        heard: Callable[[list[tuple[Beating, Beat]]], None],
    ) -> None:
        super().__init__(name=f"heart-{keys.partition}", daemon=True)
        self._keys, self._settings = keys, settings
        self._loop_lag, self._heard = loop_lag, heard
        self._executor = connector.heart(keys.tag, self._tick)
        self._beatings: tuple[Beating, ...] = ()
        self._ticked = float("-inf")
        self._ending = threading.Event()
        self._soon = threading.Event()

    def add(self, beating: Beating) -> None:
        """From now on it beats for this one too, at once."""
        self._beatings = (*self._beatings, beating)
        self._soon.set()

    def remove(self, beating: Beating) -> None:
        """After the present beat not for this one any more. Safe to repeat."""
        self._beatings = tuple(one for one in self._beatings if one is not beating)

    def soon(self, beating: Beating) -> None:
        """Beats for this one at once instead of at the next interval."""
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
        for beating in self._beatings:
            beating.roll().pulse.tick(now)

    def run(self) -> None:
        """The thread: beat, tell, wait; a tick at least every slice. What goes wrong with it goes wrong with all workers."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it: each worker raises it on the event loop
            now = clock.now()
            self._heard([(one, Beat(one.roll(), now, error=error)) for one in self._beatings])
        finally:
            self._executor.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._soon.clear()
            self._tick()
            now = clock.now()
            due = [one for one in self._beatings if one.due <= now]
            for first in range(0, len(due), BATCH):
                self._heard(self.beat(due[first : first + BATCH]))
            if due:
                continue
            left = min((one.due for one in self._beatings), default=now + SLICE_SECONDS) - clock.now()
            if left > 0:
                self._soon.wait(min(SLICE_SECONDS, left))

    def beat(self, beatings: Sequence[Beating]) -> list[tuple[Beating, Beat]]:
        """Beats once for each; trust windows are renewed here, so that a blocked event loop does not shorten them."""
        rolls = [one.roll() for one in beatings]
        sent = clock.now()
        interval = self._settings.heartbeat_interval
        for one in beatings:
            one.due = sent + interval * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - jitter
        answers = self._executor.run_many([self._call(roll) for roll in rolls])
        return [
            (one, self._take(roll, sent, answer)) for one, roll, answer in zip(beatings, rolls, answers, strict=True)
        ]

    def _call(self, roll: Roll) -> Call:
        return calls.beat(
            self._keys,
            instance=roll.instance,
            dead_after_ms=round(self._settings.dead_after * 1000),
            seen_server=roll.server,
            lineage=roll.lineage,
            count=roll.count,
            loop_lag_ms=100 * int(self._loop_lag() * 10),
            wedged_after_ms=round(self._settings.wedged_after * 1000),
            presence=roll.presence,
        )

    def _take(self, roll: Roll, sent: float, answer: Answer | CoordinatorError) -> Beat:
        if isinstance(answer, CoordinatorError):
            return Beat(roll, sent, error=answer)
        if answer.word == "OK":
            roll.pulse.renew(sent)
        elif answer.word == "FENCED":
            roll.pulse.over = True
        elif answer.word == "WEDGED":  # nobody else may believe that we speak for what we own
            roll.pulse.over = True
            why = f"its event loop stood still for {self._loop_lag():.1f} s"
            certificate = calls.certify(
                self._keys, instance=roll.instance, cause="wedged", by=roll.instance, reason=why
            )
            [written] = self._executor.run_many([certificate])
            if isinstance(written, CoordinatorError):
                return Beat(roll, sent, error=written)
        return Beat(roll, sent, answer)
