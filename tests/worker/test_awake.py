"""Time-outs that count only while this process turned over, on a clock that jumps as it does over a pause."""

from __future__ import annotations

import anyio
import pytest

from coordinator import clock
from coordinator.worker.awake import move_on_after_awake, sleep_awake, watch_for_pauses


class Jumps:
    """A clock that goes on by what is slept, and over a pause when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept, self.pause_at, self.pause = 1000.0, 0.0, float("inf"), 0.0
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(anyio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.now += seconds
        self.slept += seconds
        if self.slept >= self.pause_at:
            self.now, self.pause_at = self.now + self.pause, float("inf")


async def test_without_a_pause_it_sleeps_as_long_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slices add up to the whole."""
    jumps = Jumps(monkeypatch)
    await sleep_awake(3.0)
    assert jumps.slept == pytest.approx(3.0)


async def test_a_long_pause_begins_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour's pause shortly before the end there is the whole time again."""
    jumps = Jumps(monkeypatch)
    jumps.pause_at, jumps.pause = 2.6, 3600.0
    await sleep_awake(3.0)
    assert jumps.slept == pytest.approx(2.7 + 3.0)


async def test_a_short_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was slept before it still counts, and the pause itself does not."""
    jumps = Jumps(monkeypatch)
    jumps.pause_at, jumps.pause = 1.0, 1.0
    await sleep_awake(3.0)
    assert jumps.slept == pytest.approx(3.0)


async def test_a_block_ends_when_its_time_is_over() -> None:
    """`move_on_after_awake` leaves its block as `anyio.move_on_after` does, and says whether it did."""
    async with move_on_after_awake(0.02) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with move_on_after_awake(60.0) as scope:
        await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught


async def test_a_pause_that_nobody_has_turned_over_since_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest pause includes the one that has just ended, before the watching task had its turn."""
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    async with watch_for_pauses(0.01) as pauses:
        assert pauses.longest == 0.0
        now += 6.0
        assert pauses.longest == 6.0
        pauses.turn()
        assert pauses.longest == 6.0
