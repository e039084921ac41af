"""Writes staged checkpoints in the background, the newest of each session only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership
    from coordinator.worker.session import Session

__all__ = ["Stager"]

log = structlog.get_logger()

RETRY_SECONDS = 0.1


class Stager:
    """One a membership; a task runs only while something is staged."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._waiting: dict[str, Session] = {}
        self._running = False

    def wake(self, session: Session) -> None:
        """A session has something staged."""
        self._waiting[session.id] = session
        if not self._running:
            self._running = True
            self._member.start(self._run)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                async with anyio.create_task_group() as tasks:
                    for session in batch.values():
                        tasks.start_soon(self._flush, session)
        finally:
            self._running = False

    async def _flush(self, session: Session) -> None:
        try:
            await session.flush()
        except FencedError:
            return  # `lost` tells its owner
        except StoreUnavailableError as error:
            log.warning("staged_checkpoint_waits", session=session.id, kind=error.kind)
            await anyio.sleep(RETRY_SECONDS)
            self.wake(session)
