"""This process's own clock: it never steps, and it goes on while the machine sleeps.

Only for waiting and for trust windows; what is stored is always in the server's time.
"""

from __future__ import annotations

import time

__all__ = ["now"]

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some moment in the past; on Linux time asleep counts (CLOCK_BOOTTIME, see clock_gettime(2))."""
    return time.clock_gettime(_CLOCK)
