"""The tasks that use a session, and whether one goes on, so that a call whose code failed is found."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from coordinator import clock

__all__ = ["Users"]


def _failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    """The failure of a task: an error, its own cancellation, or a cancellation of what it waited for."""
    if not task.cancelled():  # `exception` would mark it as seen, and asyncio would not report it any more
        return cast("BaseException | None", getattr(task, "_exception", None))
    if task.cancelling():
        return asyncio.CancelledError()
    return RuntimeError("it ended by the cancellation of something that it waited for")


def _nothing(failed_adopting: bool) -> None:
    """The session is over, and no new owner has to be found."""


class Users:
    """The users of one session: the tasks that adopted it, the first other that uses it, and those that use it longer than a lease.

    Other tasks are helpers, whose errors say nothing about the call.

    Args:
        lease: seconds after which a helper serves.
        unused: is called, outside of any task, when none goes on, and one of these failed or an adopting task was cancelled;
            with True when a task that adopted it failed by an error of its own.

    Attributes:
        uses: how often tasks have used it.
        failure: the failure by which the last task that counts ended.
    """

    def __init__(self, lease: float, unused: Callable[[bool], None]) -> None:
        self._lease, self._unused = lease, unused
        self.uses = 0
        self.failure: BaseException | None = None
        self._watched = self._failed_adopting = self._has_server = False
        self._following: weakref.WeakKeyDictionary[asyncio.Task[Any], Callable[[asyncio.Task[Any]], None]]
        self._following = weakref.WeakKeyDictionary()

    def watch(self, *tasks: asyncio.Task[Any] | None) -> None:
        """These tasks adopted the session; from now on its users are followed."""
        self._watched = True
        for task in tasks:
            if task is not None:
                self._follow(task, adopted=True)

    def used(self) -> None:
        """The present task uses the session."""
        if not self._watched:
            return
        self.uses += 1
        with contextlib.suppress(RuntimeError):  # a thread without an event loop
            if (task := asyncio.current_task()) is not None:
                self._follow(task, adopted=False)

    def _follow(self, task: asyncio.Task[Any], adopted: bool) -> None:
        if task in self._following:
            return
        helps_from = math.inf if adopted or not self._has_server else clock.now()
        self._has_server = self._has_server or not adopted
        ended = partial(self._ended, adopted, helps_from)
        self._following[task] = ended
        task.add_done_callback(ended)

    def follow_no_more(self) -> None:
        """The session is over, and long-lived tasks need not keep it."""
        for task, ended in list(self._following.items()):
            task.remove_done_callback(ended)
        self._unused = (
            _nothing  # else session and users would keep each other and the call's data until they are collected
        )

    def _ended(self, adopted: bool, helps_from: float, task: asyncio.Task[Any]) -> None:
        failure = _failure_of(task)
        cancelled = isinstance(failure, asyncio.CancelledError)
        serves = not 0 <= clock.now() - helps_from < self._lease
        if failure is not None and (adopted or (serves and not cancelled)):
            self.failure = failure
            self._failed_adopting = self._failed_adopting or (adopted and not cancelled)
        if self.failure is not None and not self.goes_on:
            self._unused(self._failed_adopting)

    @property
    def goes_on(self) -> bool:
        """Whether a task that adopted or used it goes on."""
        return any(not user.done() for user in list(self._following))
