"""How much may be on its way, and how long nothing may move: arithmetic."""

from __future__ import annotations

import pytest

from coordinator.store.pace import FIRST, LEAST, MOST, SLOWEST, TARGET_SECONDS, Pace, allowance


class Line:
    """A line of one rate that answers after its delay; time is a number."""

    def __init__(self, pace: Pace, rate: float, delay: float = 0.0) -> None:
        self.pace, self.rate, self.delay = pace, rate, delay
        self.now = 0.0
        self.free = 0.0
        self.most_seconds = 0.0

    def carry(self, sizes: list[int]) -> None:
        """Sends requests as the window allows, one at least, until all are answered."""
        waiting = list(sizes)
        away: list[tuple[float, float, int, int]] = []
        bytes_away = 0
        while waiting or away:
            while waiting and (not away or bytes_away + waiting[0] <= self.pace.window):
                size = waiting.pop(0)
                self.free = max(self.free, self.now) + size / self.rate
                away.append((self.free + self.delay, self.now, size, bytes_away))
                bytes_away += size
            at, sent, size, ahead = away.pop(0)
            self.now = max(self.now, at)
            bytes_away -= size
            self.most_seconds = max(self.most_seconds, self.now - sent)
            self.pace.answered(self.now, sent, size, ahead)


@pytest.mark.parametrize("rate", [250_000, 2_500_000, 12_500_000])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_the_window_finds_what_the_line_carries(rate: int, delay: float) -> None:
    """After some large requests about as much is on its way as the line carries in the time that is aimed at."""
    pace = Pace()
    line = Line(pace, rate, delay)
    line.carry([500] * 3 + [65536] * 300)
    carried = rate * TARGET_SECONDS
    assert min(max(carried / 3, LEAST), MOST) <= pace.window <= min(max(carried * 3, LEAST), MOST)


def test_a_quick_line_gets_the_largest_window() -> None:
    """A line that never makes anybody wait is used in full, also by small requests alone."""
    pace = Pace()
    Line(pace, 1e9).carry([700] * 3000)
    assert pace.window == MOST


def test_a_line_that_becomes_slower_is_used_less() -> None:
    """The rate falls to a tenth: what was sent before is late, and soon nothing waits longer than it has to."""
    pace = Pace()
    line = Line(pace, 2_500_000)
    line.carry([65536] * 100)
    line.rate = 250_000
    line.carry([65536] * 30)
    line.most_seconds = 0.0
    line.carry([65536] * 10)
    assert pace.window < 3 * 250_000 * TARGET_SECONDS
    assert line.most_seconds < 1.0


def test_one_hiccup_costs_half_of_the_window_at_most_once() -> None:
    """Many answers that are late together, for whatever reason, are one piece of news."""
    pace = Pace()
    Line(pace, 1e9).carry([4000] * 1000)
    for ahead in range(0, 100_000, 1000):
        pace.answered(now=100.0, sent=99.0, size=1000, ahead=ahead)
    assert pace.window >= MOST / 2 * 0.99


def test_latency_is_not_lack_of_room() -> None:
    """A line that answers after 0.2 s but carries much has a large window."""
    pace = Pace()
    Line(pace, 1e9, delay=0.2).carry([500] * 20 + [65536] * 100)
    assert pace.window > MOST / 2


def test_a_line_that_broke_is_unknown_again() -> None:
    """After an error nothing is taken for granted."""
    pace = Pace()
    Line(pace, 1e9).carry([4000] * 1000)
    pace.failed()
    assert pace.window == FIRST


def test_a_large_request_may_be_hidden_for_as_long_as_its_bytes_take() -> None:
    """Something in between may hold a whole request: on an unknown line long, on one that was quick not."""
    assert allowance(65536) == 65536 / SLOWEST
    assert allowance(100) < 0.1
    assert allowance(100, part_of_answer=True) == allowance(65536), "an answer comes in gulps, too"
    pace = Pace()
    Line(pace, 1e9).carry([700] * 3000)
    assert pace.allowance(65536) > 4, "small requests say nothing about large ones"
    Line(pace, 1e9).carry([65536])
    assert pace.allowance(65536) < 0.5
    pace.failed()
    assert pace.allowance(65536) > 4
