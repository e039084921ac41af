"""Waiting for a condition: what tests do in the place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

STEP_SECONDS = 0.005
PATIENCE = 4
"""A wait that fails lasts this many times the given time: that time is what a test means, and a machine may be busy with others."""


def wait_until(predicate: Callable[[], object], timeout: float = 10.0, description: str = "") -> None:
    """Returns when the predicate is true; fails the test with the description after the time-out."""
    deadline = time.monotonic() + timeout * PATIENCE
    pause = __import__("threading").Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout * PATIENCE:g} s in vain until {description or predicate}")
        pause.wait(STEP_SECONDS)


async def eventually(
    predicate: Callable[[], object | Awaitable[object]], timeout: float = 10.0, description: str = ""
) -> None:
    """The same without blocking the event loop; the predicate may be a coroutine function."""
    with anyio.move_on_after(timeout * PATIENCE):
        while True:
            value = predicate()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return
            await anyio.sleep(STEP_SECONDS)
    raise AssertionError(f"waited {timeout * PATIENCE:g} s in vain until {description or predicate}")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is inside ends, patiently: a guard against hanging, like the time-outs above."""
    with anyio.fail_after(seconds * PATIENCE):
        yield
