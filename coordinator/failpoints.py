"""Places at which a test may end this process, to show that another process finishes what was begun."""

from __future__ import annotations

import os
import signal

from coordinator.errors import ConfigurationError

__all__ = ["NAMES", "VARIABLE", "check", "reach"]

VARIABLE = "COORDINATOR_FAIL_POINT"

NAMES = (
    "after_scan", "after_declare", "before_claim", "after_first_claim", "after_claim", "before_settle", "after_settle",
    "before_expire", "after_expire",
)  # fmt: skip
"""In the order in which a death passes them."""

_counts: dict[str, int] = {}


def check() -> None:
    """Checks that the variable names a fail point.

    Raises:
        ConfigurationError: the variable names something else.
    """
    name = os.environ.get(VARIABLE, "").partition(":")[0]
    if name and name not in NAMES:
        raise ConfigurationError(f"{VARIABLE}: {name!r} is not one of {', '.join(NAMES)}")


def reach(name: str) -> None:
    """Does nothing, unless the environment says ``<name>`` or ``<name>:<n>`` (the n-th time): then it kills this process."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, nth = wanted.partition(":")
    if point == name:
        _counts[name] = _counts.get(name, 0) + 1
        if _counts[name] >= int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
