"""Runs a program's handler as a task for each session: cancelled when it is lost, closed or released when it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import structlog

from coordinator.errors import DrainingError, FencedError, StoreUnavailableError
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session

__all__ = ["Handler", "Serving"]

log = structlog.get_logger()

Handler = Callable[[Session], Awaitable[object]]


class Serving:
    """What ``Worker.serve`` does with each session, in the task group that it was given."""

    def __init__(self, handler: Handler, tasks: anyio.abc.TaskGroup) -> None:
        self._handler, self._tasks = handler, tasks

    def start(self, session: Session) -> None:
        """Serves a session from now on."""
        self._tasks.start_soon(self._handle, session)

    def adopt(self, offer: Offer) -> None:
        """Adopts what is offered, and serves it."""
        self._tasks.start_soon(self._adopt_and_handle, offer)

    async def _adopt_and_handle(self, offer: Offer) -> None:
        try:
            session = await offer.adopt()
        except (FencedError, DrainingError, StoreUnavailableError) as error:
            log.warning("adoption_failed", session=offer.session_id, error=str(error))
            return
        if session is not None:
            await self._handle(session)

    async def _handle(self, session: Session) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def stop_when_lost() -> None:
                await session.lost.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_when_lost)
            try:
                await self._handler(session)
            except Exception as error:  # noqa: BLE001 - the program's own code: its call goes to somebody else
                failure = error
            tasks.cancel_scope.cancel()
        if session.lost.is_set() or session.closed.is_set():
            return
        try:
            if failure is None:
                await session.close()
            else:
                log.error("handler_failed", session=session.id, error=repr(failure))
                await session.release(f"the handler raised {type(failure).__name__}")
        except (FencedError, StoreUnavailableError) as error:
            log.warning("session_not_ended", session=session.id, error=str(error))
