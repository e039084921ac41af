"""What all memberships of a process in one partition share: the thread that beats, the connections, the reader of offers."""

from __future__ import annotations

import asyncio

import anyio
import anyio.abc

from coordinator import clock
from coordinator.settings import Settings
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from coordinator.worker.heart import Beat, Beating, Heart
from coordinator.worker.offer_loop import OfferLoop
from coordinator.worker.post import Post

__all__ = ["Hub", "Hubs"]

TICK_SECONDS = 0.05


class Hub:
    """One a process and partition.

    Attributes:
        part: keys, and the connection for scripts.
        heart: beats for all.
        post: listens for all.
    """

    def __init__(self, connector: Connector, keys: Keys, settings: Settings, hubs: Hubs) -> None:
        self.part = StorePartition(keys, connector.executor(keys.tag))
        self.post = Post(connector, keys.tag)
        self.heart = Heart(connector, keys, settings, loop_lag=hubs.loop_lag, heard=self._heard)
        self._connector = connector
        self._loops: dict[str, OfferLoop] = {}
        self._new_loops: list[OfferLoop] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._loop = asyncio.get_running_loop()

    def offers(self, pool: str) -> OfferLoop:
        """The reader of a pool's offers; begins when it is asked for the first time."""
        loop = self._loops.get(pool)
        if loop is None:
            keys = self.part.keys
            loop = self._loops[pool] = OfferLoop(self._connector.blocking(keys.tag), keys.offers(pool))
            if self._tasks is not None:
                self._tasks.start_soon(loop.run)
            else:
                self._new_loops.append(loop)
        return loop

    async def run(self) -> None:
        """Until cancelled."""
        self.heart.start()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self.post.run)
                for loop in self._new_loops:
                    tasks.start_soon(loop.run)
        finally:
            self._tasks = None
            self.heart.stop()

    def _heard(self, beats: list[tuple[Beating, Beat]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell, beats)


def _tell(beats: list[tuple[Beating, Beat]]) -> None:
    for beating, beat in beats:
        beating.heard(beat)


class Hubs:
    """All partitions of a deployment, and the watch over the event loop.

    Args:
        settings: of the process; timings are the same for all its memberships.
    """

    def __init__(self, settings: Settings) -> None:
        self._connector = Connector(settings.current_url, store_timeout=settings.store_timeout)
        self._stamp = clock.now()
        self.hubs = [Hub(self._connector, Keys(settings.prefix, p), settings, self) for p in range(settings.partitions)]

    def describe(self) -> str:
        """The URL without its password."""
        return self._connector.describe()

    @property
    def parts(self) -> list[StorePartition]:
        """All partitions."""
        return [hub.part for hub in self.hubs]

    def loop_lag(self) -> float:
        """Seconds by which the event loop is late now; from any thread."""
        return max(0.0, clock.now() - self._stamp - TICK_SECONDS)

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            for hub in self.hubs:
                tasks.start_soon(hub.run)
            while True:
                self._stamp = clock.now()
                await anyio.sleep(TICK_SECONDS)

    async def aclose(self) -> None:
        """Closes all connections. Safe to repeat."""
        with anyio.CancelScope(shield=True):
            for hub in self.hubs:
                hub.heart.stop()
            await self._connector.aclose()
