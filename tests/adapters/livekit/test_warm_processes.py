"""How many job processes are kept warm while calls are taken over."""

from __future__ import annotations

import pytest

from coordinator.adapters.livekit.warm_processes import CALM_SECONDS, WarmProcesses, share_of


@pytest.mark.parametrize(
    ("died_with", "free", "room", "share"),
    [(6, 50, 100, 3), (7, 50, 100, 4), (6, 100, 100, 6), (6, 0, 100, 6), (6, 10, 0, 6), (0, 10, 20, 0)],
)
def test_a_share_is_the_share_of_the_room(died_with: int, free: int, room: int, share: int) -> None:
    """Of the calls of a death a worker expects its part of the pool's free room, and all of them where that is not known."""
    assert share_of(died_with, free, room) == share


def test_reserves_wait_until_calls_are_taken_over() -> None:
    """While calls come only those are kept warm that may still come; a while later the reserve is made again."""
    warm = WarmProcesses(reserve=3, most=8)
    assert warm.wanted(0.0) == 3
    for n, left in enumerate((2, 1, 0)):
        warm.took("a", 3, 10.0 + n / 10)
        assert warm.wanted(10.0 + n / 10) == left
    warm.took("a", 3, 10.3)  # one more than its share
    assert warm.wanted(10.3) == 0
    assert warm.wanted(10.3 + CALM_SECONDS) == 3


def test_more_calls_than_reserves() -> None:
    """Where more calls come than are in reserve more are started, and never more than the limit."""
    warm = WarmProcesses(reserve=1, most=4)
    warm.took("a", 20, 5.0)
    assert warm.wanted(5.0) == 4
    warm.took("b", 2, 5.1)
    assert warm.wanted(5.1) == 4


def test_deaths_of_another_time_are_forgotten() -> None:
    """What was expected of a death and never came is not waited for in the next one."""
    warm = WarmProcesses(reserve=2, most=8)
    warm.took("a", 6, 0.0)
    warm.took("b", 1, 100.0)
    assert warm.wanted(100.0) == 0
