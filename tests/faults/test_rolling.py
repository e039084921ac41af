"""Rolling restarts lose no call, and move none often."""

from __future__ import annotations

import signal

from tests.faults.deployment import Deployment
from tests.faults.faults import redis_stands_still
from tests.faults.rolling import restart_all


def test_a_rolling_restart_hands_every_call_over() -> None:
    """Five workers, twenty calls each, one after the other: all handed over, none lost, none moved more than twice."""
    rollout = restart_all(5, 20)
    assert rollout.broken == []
    assert rollout.released == 0
    assert rollout.handed_over >= 100
    assert rollout.moves <= 2


def test_a_rolling_restart_in_trouble_loses_nothing() -> None:
    """A coordinator is killed, Redis stands still for a while, heirs are killed while they adopt: no call is lost."""

    def trouble(d: Deployment, n: int) -> None:
        if n == 0:
            d.coordinators[0].send(signal.SIGKILL)
        elif n == 1:
            redis_stands_still(d, 3.0)
        else:  # those that were restarted are the heirs
            d.kill(0)
            d.restart(0)

    rollout = restart_all(4, 8, disturb=trouble)
    assert rollout.broken == []
