"""Into a child's channel, and the thread that beats."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from coordinator import ChildSession
from coordinator.settings import Settings
from coordinator.store.keys import Keys
from coordinator.worker.heart import Heart

__all__ = ["heart_that_asks", "lock_of"]


def lock_of(child: ChildSession) -> threading.Lock:
    """The lock under which the channel is read: a fork at that moment cannot be had otherwise."""
    return child._lock


def heart_that_asks(executor: object) -> Heart:
    """A heart without a thread, whose beats another one answers: only so the order of its steps is seen."""
    heart = Heart.__new__(Heart)
    heart._settings, heart._keys = Settings(name="a"), Keys("recovery", 0)
    heart._lag, heart._executor = cast("Any", SimpleNamespace(seconds=1.0)), cast("Any", executor)
    return heart
