"""Heartbeats, from a thread and a connection of their own: a busy event loop does not look like a dead process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from coordinator import clock
from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.store.scripts import Answer
from coordinator.worker.trust import Pulse

__all__ = ["Beat", "Heart", "Roll"]

SLICE_SECONDS = 0.05
JITTER = 0.1


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
    """One beat and what came of it."""

    roll: Roll
    sent: float
    answer: Answer | None = None
    error: CoordinatorError | None = None


class Heart(threading.Thread):
    """Beats in one partition until it is stopped.

    Args:
        roll: returns what to say now.
        loop_lag: returns by how many seconds the event loop is late now.
        heard: is called in this thread with each `Beat`.
    """

    def __init__(
        self,
        connector: Connector,
        keys: Keys,
        settings: Settings,
        *,
        roll: Callable[[], Roll],
        loop_lag: Callable[[], float],
        heard: Callable[[Beat], None],
    ) -> None:
        super().__init__(name=f"heart-{keys.partition}", daemon=True)
        self._keys, self._settings = keys, settings
        self._roll, self._loop_lag, self._heard = roll, loop_lag, heard
        self._executor = connector.heart(keys.tag, self._tick)
        self._ending = threading.Event()
        self._soon = threading.Event()

    def _tick(self) -> None:
        self._roll().pulse.tick(clock.now())

    def run(self) -> None:
        """The thread: beat, tell, wait; a tick at least every slice."""
        while not self._ending.is_set():
            self._tick()
            self._heard(self.beat())
            interval = self._settings.heartbeat_interval
            pause = interval * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - jitter
            until = clock.now() + pause
            while not self._ending.is_set() and not self._soon.is_set() and (left := until - clock.now()) > 0:
                self._soon.wait(min(SLICE_SECONDS, left))
                self._tick()
            self._soon.clear()
        self._executor.close()

    def beat(self) -> Beat:
        """One beat; the trust window is renewed here, so that a blocked event loop does not shorten it."""
        roll = self._roll()
        sent = clock.now()
        try:
            answer = self._executor.run(
                calls.beat(
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
            )
            if answer.word == "WEDGED":  # nobody else may believe that we speak for what we own
                roll.pulse.over = True
                self._executor.run(
                    calls.certify(
                        self._keys, instance=roll.instance, cause="wedged", by=roll.instance,
                        reason=f"its event loop stood still for {self._loop_lag():.1f} s",
                    )
                )  # fmt: skip
        except StoreUnavailableError as error:
            return Beat(roll, sent, error=error)
        except CoordinatorError as error:
            self._ending.set()
            return Beat(roll, sent, error=error)
        if answer.word == "OK":
            roll.pulse.renew(sent)
        elif answer.word == "FENCED":
            roll.pulse.over = True
        return Beat(roll, sent, answer)

    def soon(self) -> None:
        """Beats at once instead of at the next interval."""
        self._soon.set()

    def stop(self) -> None:
        """Ends the thread after the present beat. Safe to repeat."""
        self._ending.set()
        self._soon.set()
