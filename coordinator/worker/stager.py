"""Writes staged checkpoints in the background, only the newest of each session."""

from __future__ import annotations

from typing import Protocol

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.worker.one_each import OneEach

__all__ = ["Staged", "Stager"]

log = structlog.get_logger()

RETRY_SECONDS = 0.1


class Staged(Protocol):
    """A session, as far as its background writes are concerned."""

    id: str

    @property
    def has_staged(self) -> bool:
        """Whether a checkpoint waits to be written."""

    async def flush(self) -> None:
        """Writes it."""


class Stager:
    """One per membership; each session's writes go one after the other, and none waits for another session's."""

    def __init__(self) -> None:
        self._writes = OneEach(self._flush)
        self.run = self._writes.run

    def wake(self, session: Staged) -> None:
        """A session has a staged checkpoint; from any thread."""
        self._writes.put(session)

    @staticmethod
    async def _flush(session: Staged) -> None:
        try:
            while session.has_staged:
                try:
                    await session.flush()
                except StoreUnavailableError as error:
                    log.warning("staged_checkpoint_waits", session=session.id, kind=error.kind)
                    await anyio.sleep(RETRY_SECONDS)
        except FencedError:
            return  # `lost` tells the program
