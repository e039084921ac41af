"""Runs a coroutine and cancels it at one of its awaits, at a moment of choice."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Literal

__all__ = ["Moment", "cancelled_at"]

Moment = Literal["unsent", "sent", "answered"]
"""As the await begins; a moment later, when the request is on its way; when the answer is there and was not looked at."""


@types.coroutine
def _cancelling(what: Coroutine[Any, Any, Any], number: int, moment: Moment) -> Generator[Any, Any, None]:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    count, thrown = 0, None
    while True:
        try:
            future = what.throw(thrown) if thrown else what.send(None)
        except StopIteration:
            return
        thrown = None
        count += 1
        if count == number:
            if moment == "answered" and isinstance(future, asyncio.Future):
                future.add_done_callback(lambda _: task.cancel())
            elif moment == "sent":
                loop.call_soon(_later, loop, task)
            else:
                task.cancel()
        try:
            yield future
        except BaseException as error:  # noqa: BLE001 - it is for the coroutine
            thrown = error


def _later(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    loop.call_soon(task.cancel)


async def cancelled_at(what: Coroutine[Any, Any, Any], number: int, moment: Moment) -> bool:
    """Runs it in a task of its own, cancelled at its ``number``-th await.

    Returns:
        False when it ended before that.
    """
    begun = asyncio.get_running_loop().create_task(_run(what, number, moment))
    await asyncio.gather(begun, return_exceptions=True)
    return begun.cancelled() or not begun.result()


async def _run(what: Coroutine[Any, Any, Any], number: int, moment: Moment) -> bool:
    try:
        await _cancelling(what, number, moment)
    except Exception:  # noqa: BLE001 - refusals are for others to judge
        return False
    return True
