"""The blocked read of a pool's offers: wakes at once; the memberships of this process take turns at it."""

from __future__ import annotations

import random
from typing import Protocol

import anyio
import structlog

from coordinator.errors import StoreUnavailableError
from coordinator.policy import backoff
from coordinator.steady import Steady
from coordinator.store import offer_stream
from coordinator.store.connect import Blocking
from coordinator.store.faults import NoGroupError

__all__ = ["OfferTurns"]

log = structlog.get_logger()

FULL_SECONDS = 0.1
PASS_SECONDS = 0.05


class TakesTurns(Protocol):
    """Reads offers when it is its turn.

    Attributes:
        fresh: whether it has seen all that it was given before.
    """

    fresh: bool

    @property
    def room(self) -> int:
        """How many more offers it can take now."""

    async def step(self) -> None:
        """One read."""

    def restart(self) -> None:
        """The reader may not have seen all that it was given."""


class OfferTurns:
    """One per process, partition and pool.

    Args:
        blocking: the connection.
        stream: its key.

    Attributes:
        refused: the right that the last read lacked, '' when it lacked none.
    """

    def __init__(self, blocking: Blocking, stream: str) -> None:
        self.blocking, self.stream = blocking, stream
        self._readers: list[TakesTurns] = []
        self._room = anyio.Event()
        self._steady = Steady("offers")
        self.refused = ""

    def add(self, reader: TakesTurns) -> None:
        """A reader takes its turns from now on."""
        self._readers.append(reader)
        self.wake()

    def remove(self, reader: TakesTurns) -> None:
        """A reader takes no turns any more. Safe to repeat."""
        if reader in self._readers:
            self._readers.remove(reader)

    def wake(self) -> None:
        """There may be room for offers."""
        room, self._room = self._room, anyio.Event()
        room.set()

    async def run(self) -> None:
        """Reads until cancelled."""
        failures = 0
        while True:
            reader = self._next()
            if reader is None:
                room = self._room
                with anyio.move_on_after(FULL_SECONDS if self._readers else None):
                    await room.wait()
                continue
            try:
                await reader.step()
                failures, self.refused = 0, ""
                self._steady.well()
            except NoGroupError:
                await self._make_group()
            except StoreUnavailableError as error:
                self._tell(error)
                for one in self._readers:
                    one.restart()
                await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                failures += 1
            except Exception as error:  # noqa: BLE001 - an offer that cannot be dealt with stops no other
                reader.restart()
                await anyio.sleep(self._steady.failed(error, stream=self.stream))

    def _tell(self, error: StoreUnavailableError) -> None:
        """Logs a missing right: it seldom comes back by itself, and nothing else would show it."""
        if error.kind == "permission" and not self.refused:
            log.warning(
                "offers_not_read",
                stream=self.stream,
                reason=error.detail,
                consequence="calls of dead workers go to other workers, or wait",
            )
        self.refused = error.detail if error.kind == "permission" else ""

    def _next(self) -> TakesTurns | None:
        """The reader whose turn it is: first those that must look at what they were given before, then the one that waited longest."""
        able = [reader for reader in self._readers if reader.room > 0]
        chosen = next((reader for reader in able if not reader.fresh), able[0] if able else None)
        if chosen is not None:
            self._readers.remove(chosen)
            self._readers.append(chosen)
        return chosen

    async def _make_group(self) -> None:
        if not await offer_stream.make_group(self.blocking, self.stream):
            await anyio.sleep(PASS_SECONDS)
