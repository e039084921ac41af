"""How late an event loop is, told apart from a pause of the whole process."""

from __future__ import annotations

import pytest

from coordinator.worker.lag import LONGEST_GAP_SECONDS, Lag


def watched(lag: Lag, since: float, seconds: float, turns: bool, turn: int = 0) -> tuple[float, int]:
    """The thread looks every 50 ms for so long; the loop turns over each time, or not at all."""
    for n in range(1, round(seconds / 0.05) + 1):
        turn += turns
        lag.look(since + 0.05 * n, turn)
    return since + seconds, turn


def test_a_loop_that_turns_over_is_not_late() -> None:
    """A loop that turns over between two looks has no lag."""
    lag = Lag()
    watched(lag, 100.0, 10.0, turns=True)
    assert lag.seconds == pytest.approx(0.0)


def test_a_blocked_loop_is_late_by_its_block() -> None:
    """A loop that is blocked while the thread goes on is late by all of it."""
    lag = Lag()
    now, turn = watched(lag, 100.0, 1.0, turns=True)
    watched(lag, now, 5.0, turns=False, turn=turn)
    assert lag.seconds == pytest.approx(5.0)


def test_a_pause_is_no_lag() -> None:
    """Both stood still for an hour: the loop is late by one look at most, before its first turn and after."""
    lag = Lag()
    now, turn = watched(lag, 100.0, 1.0, turns=True)
    lag.look(now + 3600.0, turn)
    assert lag.seconds == pytest.approx(LONGEST_GAP_SECONDS)
    lag.look(now + 3600.05, turn + 1)
    assert lag.seconds == pytest.approx(0.0)


def test_a_blocked_loop_stays_late_through_a_pause() -> None:
    """A loop that is blocked when the machine stands still, and after it, is late by what the thread saw: no more, no less."""
    lag = Lag()
    now, turn = watched(lag, 100.0, 1.0, turns=True)
    now, turn = watched(lag, now, 2.0, turns=False, turn=turn)
    now, turn = watched(lag, now + 6.0, 3.0, turns=False, turn=turn)
    assert 5.0 - 0.05 <= lag.seconds <= 5.0 + LONGEST_GAP_SECONDS


def test_a_clock_that_steps_back_adds_nothing() -> None:
    """Time never runs backwards for the lag."""
    lag = Lag()
    lag.look(100.0, 0)
    lag.look(50.0, 0)
    assert lag.seconds == pytest.approx(0.0)
