"""Many instances lost at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.faults.deployment import KEYS, Deployment
from tests.waiting import wait_until

PROCESSES, EACH, CALLS = 10, 10, 2


@dataclass(frozen=True)
class MassLoss:
    """What it gave; seconds from the kill.

    Attributes:
        opened: whether the mass breaker opened.
        first, last: first declaration, last adoption.
        attempts: most offers that any session needed.
        broken: promises that the history breaks.
    """

    opened: bool
    first: float
    last: float
    attempts: int
    broken: list[str]


def lose(processes: int, *, come_back: bool = False, each: int = EACH) -> MassLoss:
    """``processes`` of ten, with ``each`` instances of two calls each, are killed.

    Args:
        come_back: workers under new names are started some time later; needed when all are killed.
    """
    with Deployment(workers=PROCESSES, each=each, calls=CALLS, capacity=5) as d:
        killed = tuple(range(processes))
        at = d.kill(*killed)
        if come_back:
            wait_until(lambda: _breaker_opened(d), 30, "the breaker opens")
            wait_until(lambda: time.time() - at > 6, 10, "they are away for a while")
            assert not d.client.zcard(KEYS.dead_letters), "calls were given up on while nobody could take them"
            for n in range(PROCESSES, PROCESSES + 5):
                d.start_worker(n, empty=True)
        broken = d.finish(90)
        events = [dict(fields) for _, fields in d.client.xrange(KEYS.events)]
        attempts = max((int(e.get(b"attempt", 1)) for e in events if e[b"type"] == b"offered"), default=1)
        died = [int(e[b"at"]) / 1000 - at for e in events if e[b"type"] == b"died"]
        return MassLoss(_breaker_opened(d), min(died), max(d.takeover_seconds(at, *killed)), attempts, broken)


def _breaker_opened(d: Deployment) -> bool:
    return any(fields.get(b"reason") == b"breaker" for _, fields in d.client.xrange(KEYS.events))
