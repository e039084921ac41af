"""Tells the cancellation of a task from an error of the program's own code that looks like one."""

from __future__ import annotations

import asyncio

import anyio

__all__ = ["as_failure", "is_cancelled"]


def is_cancelled() -> bool:
    """Whether this task itself was cancelled, by a scope around it or by the program."""
    task = asyncio.current_task()
    return anyio.current_effective_deadline() == float("-inf") or (task is not None and task.cancelling() > 0)


def as_failure(error: asyncio.CancelledError) -> Exception:
    """What a `CancelledError` means in a task that was not cancelled: the program's code waited for something that was.

    Raises:
        asyncio.CancelledError: this task was cancelled.
    """
    if is_cancelled():
        raise error
    failure = RuntimeError("it ended by the cancellation of something that it waited for")
    failure.__cause__ = error
    return failure
