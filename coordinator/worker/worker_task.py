"""The task in which all of a worker runs, so that any task may enter and leave its block."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import structlog

from coordinator.errors import first_error
from coordinator.printable import told, trace

__all__ = ["FAREWELL_SECONDS", "WorkerTask"]

log = structlog.get_logger()

FAREWELL_SECONDS = 5.0


class WorkerTask:
    """One per worker that was entered.

    It ends when the block is left. It ends as though the block was cancelled when the event loop is cleaned up before that. An error
    of one of its tasks ends the block too: as with `asyncio.TaskGroup`, the task that entered it is cancelled, and the error is
    raised instead of that cancellation.

    Args:
        farewell: is called with the error by which the block was left, while the tasks still run where that is possible.
        close: is called when the tasks have ended.

    Attributes:
        tasks: the worker's task group.
    """

    def __init__(
        self, farewell: Callable[[BaseException | None], Awaitable[None]], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._farewell, self._close = farewell, close
        self._ready, self._leaving, self._done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._owner: asyncio.Task[object] | None = None
        self._left_by: BaseException | None = asyncio.CancelledError()
        self._error: BaseException | None = None
        self._said = self._interrupted = False
        self._process = os.getpid()
        self.tasks: anyio.abc.TaskGroup
        self._task = asyncio.get_running_loop().create_task(self._run(), name="worker")

    async def enter(self) -> anyio.abc.TaskGroup:
        """Returns the worker's task group. The task that enters is cancelled when a task of the group fails."""
        self.owned_by_this_task()
        await self._ready.wait()
        return self.tasks

    @property
    def is_over(self) -> bool:
        """Whether everything has ended."""
        return self._done.is_set()

    @property
    def is_a_parents(self) -> bool:
        """Whether this process was forked inside the block: then leaving the block says nothing."""
        return os.getpid() != self._process

    def owned_by_this_task(self) -> None:
        """From now on the present task is cancelled when a task of the worker fails."""
        if not self._interrupted:
            self._owner = asyncio.current_task()

    async def leave(self, error: BaseException | None) -> None:
        """Ends the worker, and waits until that is done, also when the waiting task is cancelled meanwhile.

        Args:
            error: the error by which the block is left.

        Raises:
            BaseException: a task of the worker had failed.
            asyncio.CancelledError: the leaving task was cancelled meanwhile.
        """
        self._left_by = error
        self._leaving.set()
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        with anyio.CancelScope(shield=True):
            while not self._done.is_set():
                try:
                    await self._done.wait()
                except asyncio.CancelledError as fault:
                    cancelled = fault
        task = asyncio.current_task()
        if self._interrupted and task is not None and task is self._owner and task.uncancel() == 0:
            cancelled = None  # only this object cancelled it
        if self._error is not None:
            if cancelled is None:
                raise self._error from None
            log.error("worker_failed", error=repr(self._error))
        if cancelled is not None and cancelled is not error:
            raise cancelled

    async def _run(self) -> None:
        try:
            await self._live()
            if self._error is not None and not self._leaving.is_set() and self._interrupt():
                await self._leaving.wait()
        except asyncio.CancelledError:
            log.debug("worker_cancelled")  # by the clean-up of the event loop
        try:
            await self._say()
        except asyncio.CancelledError:
            log.warning("farewell_cut_off")
        finally:
            try:
                await self._close()
            finally:
                self._done.set()

    async def _live(self) -> None:
        try:
            async with anyio.create_task_group() as self.tasks:
                self._ready.set()
                await self._leaving.wait()
                await self._say()
                self.tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            self._error = first_error(group)

    def _interrupt(self) -> bool:
        """Cancels the task inside the block; False when there is none."""
        if self._owner is None or self._owner.done():
            error = self._error or RuntimeError("it ended without an error")
            log.error("worker_failed", error=told(error), exception=trace(error))
            return False
        self._interrupted = True
        self._owner.cancel()
        return True

    async def _say(self) -> None:
        if self._said or self.is_a_parents:
            return
        self._said = True
        with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
            await self._farewell(self._left_by)
