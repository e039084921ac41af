"""This process's own clock, and the one place where seconds and the store's milliseconds are converted.

The own clock never steps, and it goes on while the machine sleeps. It serves for waiting and for trust windows only; what is stored
is always in the server's time, in whole milliseconds.
"""

from __future__ import annotations

import math
import time

__all__ = ["in_ms", "in_ms_at_most", "in_seconds", "now"]

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some moment in the past; on Linux time asleep counts (CLOCK_BOOTTIME, see clock_gettime(2))."""
    return time.clock_gettime(_CLOCK)


def in_ms(seconds: float) -> int:
    """A length of time as the store and messages between programs have it."""
    return round(seconds * 1000)


def in_ms_at_most(seconds: float) -> int:
    """The same, rounded down and never below 0: for a promise to another program."""
    return max(0, math.floor(seconds * 1000))


def in_seconds(milliseconds: float) -> float:
    """A length of time as programs and people have it."""
    return milliseconds / 1000
