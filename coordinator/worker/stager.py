"""Writes staged checkpoints in the background, the newest of each session only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.worker.one_each import OneEach

if TYPE_CHECKING:
    from coordinator.worker.session import Session

__all__ = ["Stager"]

log = structlog.get_logger()

RETRY_SECONDS = 0.1


class Stager:
    """One a membership; each session's writes go one after the other, and none waits for another session's."""

    def __init__(self) -> None:
        self._writes = OneEach(self._flush)
        self.run = self._writes.run

    def wake(self, session: Session) -> None:
        """A session has something staged; from any thread."""
        self._writes.put(session)

    @staticmethod
    async def _flush(session: Session) -> None:
        try:
            while session.has_staged:
                try:
                    await session.flush()
                except StoreUnavailableError as error:
                    log.warning("staged_checkpoint_waits", session=session.id, kind=error.kind)
                    await anyio.sleep(RETRY_SECONDS)
        except FencedError:
            return  # `lost` tells its owner
