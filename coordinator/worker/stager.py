"""Writes staged checkpoints in the background, the newest of each session only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError

if TYPE_CHECKING:
    from coordinator.worker.session import Session

__all__ = ["Stager"]

log = structlog.get_logger()

RETRY_SECONDS = 0.1


class Stager:
    """One a membership."""

    def __init__(self) -> None:
        self._waiting: dict[str, Session] = {}
        self._woken = anyio.Event()

    def wake(self, session: Session) -> None:
        """A session has something staged."""
        self._waiting[session.id] = session
        self._woken.set()

    async def run(self) -> None:
        """Flushes what is staged until cancelled."""
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            batch, self._waiting = self._waiting, {}
            async with anyio.create_task_group() as tasks:
                for session in batch.values():
                    tasks.start_soon(self._flush, session)

    async def _flush(self, session: Session) -> None:
        try:
            await session.flush()
        except FencedError:
            return  # `lost` tells its owner
        except StoreUnavailableError as error:
            log.warning("staged_checkpoint_waits", session=session.id, kind=error.kind)
            await anyio.sleep(RETRY_SECONDS)
            self.wake(session)
