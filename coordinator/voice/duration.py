"""A limit on a call's duration: it ends the call in order, and an heir counts on where the owner before it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
import structlog

from coordinator import clock
from coordinator.bounds import check_callable, check_seconds
from coordinator.errors import CoordinatorError, FencedError, InvalidValueError
from coordinator.printable import told, trace

__all__ = ["DurationLimit", "Limitable", "check_limit", "limit_duration"]

log = structlog.get_logger()

STOOD_STILL_SECONDS = 1.0
"""A sleep that ends so much later than it should: the process, or its event loop, stood still."""
DOUBT_SECONDS = 0.1
"""Pause between two looks at whether a session in doubt is held again."""
IMPLAUSIBLE_SECONDS = 60.0
"""An owner ends its call within this time after the limit."""


class Limitable(Protocol):
    """A session whose duration can be limited: `coordinator.Session`, or `coordinator.ChildSession`.

    Attributes:
        id: of the session.
        began: when the call was first opened, by `coordinator.clock`; the limit moves it on where time does not count.
        gap: seconds without an owner that served it, before this one.
        recovered: whether another worker had it before.
        lost, ended: set when it is no longer this worker's.
    """

    id: str
    began: float
    gap: float
    recovered: bool
    lost: anyio.Event
    ended: anyio.Event

    @property
    def held(self) -> bool:
        """Whether no other worker can have adopted it."""

    async def close(self) -> None:
        """Ends the call."""


class DurationLimit:
    """The limit of one call, inside `limit_duration`.

    Attributes:
        reached: whether the limit ended the call.
    """

    def __init__(
        self,
        session: Limitable,
        seconds: float,
        warn: float,
        on_warn: Callable[[float], Awaitable[object]] | None,
        on_end: Callable[[], Awaitable[object]] | None,
        goodbye: float,
    ) -> None:
        check_limit(seconds, warn=warn, on_warn=on_warn, on_end=on_end, goodbye=goodbye)
        self.reached = False
        self._session, self._seconds = session, seconds
        self._warn, self._on_warn, self._on_end, self._goodbye = warn, on_warn, on_end, goodbye
        over = self._over - session.gap
        if session.recovered and over > IMPLAUSIBLE_SECONDS:  # its owner would have ended it: the store's clock stepped
            log.warning("call_counted_anew", session=session.id, over_seconds=round(over, 3), limit_seconds=seconds)
            session.began = clock.now()

    @property
    def _over(self) -> float:
        return clock.now() - self._session.began - self._seconds

    @property
    def left(self) -> float:
        """Seconds until the call is ended; 0 when it is being ended."""
        return max(0.0, -self._over)

    async def watch(self, block: anyio.CancelScope) -> None:
        """Warns, says good-bye and cancels the block, each in its time. For the library."""
        async with anyio.create_task_group() as warning:
            if self._on_warn is not None:
                await self._until_left(self._warn)
                if await self._is_ours() and self.left:
                    warning.start_soon(self._tell, "on_warn", partial(self._on_warn, self.left), self._warn)
            await self._until_left(0)
            ours = await self._is_ours()
            warning.cancel_scope.cancel()
        if ours and self._on_end is not None:
            await self._tell("on_end", self._on_end, self._goodbye)
        if ours and await self._is_ours():
            log.info("limit_reached", session=self._session.id, seconds=self._seconds)
            self.reached = True
            block.cancel()

    async def _until_left(self, seconds: float) -> None:
        """Returns when no more than so many seconds are left. If that falls into a pause of this process, its time is given back."""
        while (wait := self.left - seconds) > 0:
            asleep = clock.now()
            await anyio.sleep(wait)
            late = clock.now() - asleep - wait
            if late > STOOD_STILL_SECONDS:
                self._session.began += late

    async def _is_ours(self) -> bool:
        """Waits while the session is in doubt; whether it is held then. False once it is another worker's, or has ended."""
        session = self._session
        while not session.held:
            if session.lost.is_set() or session.ended.is_set():
                return False
            with anyio.move_on_after(DOUBT_SECONDS):
                await session.lost.wait()
        return True

    async def _tell(self, name: str, hook: Callable[[], Awaitable[object]], seconds: float) -> None:
        """Runs a hook of the program for at most so many seconds; an error of it is logged, and changes nothing."""
        failure: Exception | None = RuntimeError("it ended by the cancellation of something that it waited for")

        async def run() -> None:
            nonlocal failure
            try:
                await hook()
                failure = None
            except Exception as error:  # noqa: BLE001 - the program's own code
                failure = error

        with anyio.move_on_after(seconds) as scope:
            async with anyio.create_task_group() as tasks:  # a stray cancellation ends the hook's task alone
                tasks.start_soon(run)
        about = {"session": self._session.id, "hook": name}
        if scope.cancelled_caught:
            log.warning("limit_hook_timed_out", **about, seconds=seconds)
        elif failure is not None:
            log.error("limit_hook_failed", **about, error=told(failure), exception=trace(failure))

    async def close(self) -> None:
        """Ends the call in the store; carried out later where that does not answer. For the library."""
        try:
            await self._session.close()
        except FencedError:  # another worker has it, and the call goes on there
            self.reached = False
        except CoordinatorError as error:
            log.warning("session_not_ended", session=self._session.id, error=str(error))


def check_limit(
    seconds: float, *, warn: float = 60.0, on_warn: object = None, on_end: object = None, goodbye: float = 10.0
) -> None:
    """Checks the arguments of `limit_duration`, for programs that begin it later, in a task of its own.

    Raises:
        InvalidValueError: an argument is invalid.
    """
    check_seconds("seconds", seconds)
    if not seconds:
        raise InvalidValueError("seconds", seconds, "a duration above 0")
    check_seconds("warn", warn)
    check_seconds("goodbye", goodbye)
    for name, hook in (("on_warn", on_warn), ("on_end", on_end)):
        if hook is not None:
            check_callable(name, hook)
    if on_warn is not None and warn >= seconds:
        raise InvalidValueError("warn", warn, f"less than the limit of {seconds:g} s")


@asynccontextmanager
async def limit_duration(
    session: Limitable,
    seconds: float,
    *,
    warn: float = 60.0,
    on_warn: Callable[[float], Awaitable[object]] | None = None,
    on_end: Callable[[], Awaitable[object]] | None = None,
    goodbye: float = 10.0,
) -> AsyncIterator[DurationLimit]:
    """Ends a call in order when it has lasted so long: the block is cancelled then, and the session closed, not released.

    The time counts from the call's first opening, by the store's clock, so that an heir counts on where the owner before it was.
    Here it goes on by this process's own clock, so that no step of a clock ends it. A limit that falls into a pause of this process
    is put off by that pause. While the session is in doubt the call goes on; a lost one is not ended, and no hook runs for it.

    An heir that finds the call longer than the limit, by a minute or more, when its owner was last heard of, counts anew: under
    this limit the owner would have ended it, so that the store's clock has stepped, or the limit is new.

    Args:
        session: as a handler of `Worker.serve` gets it, or as `Worker.open` and `Offer.adopt` return it; or a `ChildSession`.
        seconds: most duration of the call, above 0.
        warn: seconds before the end at which ``on_warn`` is called; less than ``seconds``.
        on_warn: an async function that says so to the caller. It gets the seconds that are left, and is cancelled at the end. An
            heir calls it again, and not where nothing is left.
        on_end: an async function that says good-bye, while the block still runs. The session is still held, so that the
            conversation can be saved for the last time.
        goodbye: seconds for ``on_end``; then the call is ended all the same.

    Yields:
        The limit: ``left``, and after the block ``reached``, with which the program hangs up.

    Raises:
        InvalidValueError: an argument is invalid; nothing was begun.
    """
    limit = DurationLimit(session, seconds, warn, on_warn, on_end, goodbye)
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as block:
                tasks.start_soon(limit.watch, block)
                try:
                    yield limit
                except Exception as error:  # noqa: BLE001 - raised again below, outside of the group
                    failure = error
            tasks.cancel_scope.cancel()
    finally:
        if limit.reached:  # also when it is cancelled as the block cleans up: the caller was told good-bye
            with anyio.CancelScope(shield=True):
                await limit.close()
    if failure is not None:
        raise failure
