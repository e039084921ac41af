"""Rolling restarts lose no call, and move none often."""

from __future__ import annotations

import signal

import pytest

from tests.faults.deployment import Deployment
from tests.faults.faults import redis_stands_still
from tests.faults.media import listen
from tests.faults.rolling import restart_all


@pytest.mark.alone
def test_a_rolling_restart_hands_every_call_over() -> None:
    """Four workers, ten calls each, one after the other: all handed over, none lost, none moved more than twice."""
    rollout = restart_all(4, 10)
    assert rollout.broken == []
    assert rollout.released == 0
    assert rollout.handed_over >= 40
    assert rollout.moves <= 2
    assert len(rollout.heard.at_moves) == rollout.handed_over


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

    rollout = restart_all(3, 6, disturb=trouble)
    assert rollout.broken == []


@pytest.mark.parametrize("point", ["read:1", "adopted:4"])
def test_heirs_that_die_on_the_way_lose_nothing(point: str) -> None:
    """A newly started worker is killed with an offer in hand, or before the first tick of what it adopted."""
    rollout = restart_all(3, 6, dies_at=lambda n: "" if n else point)
    assert rollout.broken == []
    assert rollout.handed_over + rollout.released >= 18


def test_ticks_in_the_wrong_order_are_noticed() -> None:
    """The listener's own check: an owner that is heard after its heir, and the silence between them."""
    heard = listen({"call-1": [(1.0, 5), (1.02, 5), (1.05, 7), (1.06, 5), (1.07, 7)], "call-2": [(1.0, 3), (1.02, 3)]})
    assert heard.broken == ["G1: call-1 was heard with epoch 5 after 7"]
    assert [round(ms) for ms in heard.at_moves] == [30]
    assert [round(ms) for ms in heard.longest] == [30, 20]
