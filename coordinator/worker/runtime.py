"""What all memberships of one process in one partition share: the thread that beats, the connections, the reader of offers."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.printable import trace
from coordinator.settings import Settings
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from coordinator.worker import loss_reasons
from coordinator.worker.bell import Bell
from coordinator.worker.heart import TURN_SECONDS, Beat, Beating, Heart
from coordinator.worker.notifications import Notifications
from coordinator.worker.offer_turns import OfferTurns

__all__ = ["PartitionRuntime", "WorkerRuntime"]

log = structlog.get_logger()

END_SECONDS = 0.5
"""Time for an answer to the last request of a process that ends."""


class PartitionRuntime:
    """One per process and partition.

    Attributes:
        part: the keys, and the connection for scripts.
        heart: beats for all.
        notifications: listens for all.
    """

    def __init__(self, connector: Connector, keys: Keys, settings: Settings, turns: Callable[[], int]) -> None:
        self.part = StorePartition(keys, connector.executor(keys.tag))
        self.notifications = Notifications(connector, keys.tag)
        self.heart = Heart(connector, keys, settings, turns=turns, gone=self._gone, heard=self._heard)
        self._connector = connector
        self._loops: dict[str, OfferTurns] = {}
        self._new_loops: list[OfferTurns] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._beats: deque[tuple[Beating, Beat]] = deque()
        self._bell = Bell()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.current_thread()

    def offers(self, pool: str) -> OfferTurns:
        """The reader of a pool's offers; it begins when it is first asked for."""
        loop = self._loops.get(pool)
        if loop is None:
            keys = self.part.keys
            loop = self._loops[pool] = OfferTurns(self._connector.blocking(keys.tag), keys.offers(pool))
            if self._tasks is not None:
                self._tasks.start_soon(loop.run)
            else:
                self._new_loops.append(loop)
        return loop

    @property
    def refused(self) -> list[str]:
        """Missing rights without which no offers are read; empty while offers are read."""
        return sorted({loop.refused for loop in self._loops.values() if loop.refused})

    async def run(self) -> None:
        """Until cancelled."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.current_thread()
        self.heart.start()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._tell)
                tasks.start_soon(self.notifications.run)
                for loop in self._new_loops:
                    tasks.start_soon(loop.run)
        finally:
            self._tasks = None
            self.heart.stop()

    def _gone(self) -> str:
        """Why the event loop will never turn over again, '' as long as it may. From any thread."""
        if self._loop is None:
            return ""
        if self._loop.is_closed():
            return loss_reasons.LOOP_CLOSED
        try:
            alive = self._thread.is_alive()
        except RuntimeError:  # a thread that Python did not start, and that has ended
            alive = False
        return "" if alive else "the thread of its event loop ended"

    def _heard(self, beats: list[tuple[Beating, Beat]]) -> None:
        """In the thread that beats: hands them to the event loop."""
        self._beats.extend(beats)
        self._bell.ring()

    async def _tell(self) -> None:
        """Tells each membership of its beats, in a task: an answer starts what it asks for, and a bare callback of the event loop
        has no task to start it from.
        """
        while True:
            await self._bell.rung()
            while self._beats:
                beating, beat = self._beats.popleft()
                try:
                    beating.heard(beat)
                except Exception as error:  # noqa: BLE001 - the other memberships hear of theirs
                    log.error("beat_not_heard", instance=beat.roll.instance, exception=trace(error))


class WorkerRuntime:
    """All partitions of a deployment, and the watch over the event loop.

    Args:
        settings: of the process; timings are the same for all its memberships.

    Attributes:
        turns: how often the event loop has turned over; read by other threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._connector = Connector(
            settings.current_url, store_timeout=settings.store_timeout, durability=settings.replicated
        )
        self.turns = 0
        self.partitions = [
            PartitionRuntime(self._connector, Keys(settings.prefix, p), settings, lambda: self.turns)
            for p in range(settings.partitions)
        ]

    def describe(self) -> str:
        """The URL without its password."""
        return self._connector.describe()

    @property
    def refused(self) -> list[str]:
        """The missing rights of every `PartitionRuntime`."""
        return sorted({one for partition in self.partitions for one in partition.refused})

    @property
    def parts(self) -> list[StorePartition]:
        """All partitions."""
        return [partition.part for partition in self.partitions]

    async def run(self) -> None:
        """Until cancelled."""
        atexit.register(self._process_ends)
        try:
            async with anyio.create_task_group() as tasks:
                for partition in self.partitions:
                    tasks.start_soon(partition.run)
                while True:
                    self.turns += 1
                    await anyio.sleep(TURN_SECONDS)
        finally:
            atexit.unregister(self._process_ends)

    def _process_ends(self) -> None:
        """The process ends before its instances left: it states their exit, and waits for the answer, but not for long."""
        for partition in self.partitions:
            partition.heart.end(loss_reasons.PROCESS_ENDED)
        until = clock.now() + END_SECONDS
        for partition in self.partitions:
            if partition.heart.ends:
                partition.heart.join(max(0.0, until - clock.now()))

    async def aclose(self) -> None:
        """Closes all connections. Safe to repeat."""
        with anyio.CancelScope(shield=True):
            for partition in self.partitions:
                partition.heart.stop()
            await self._connector.aclose()
