"""One partition's loops: a detector that only looks and declares, what it finds to do, and a slow half.

They use connections of their own, so that a large grave or the walk over the records delays no declaration.
Partitions never wait for each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.daemon.burial import Burial
from coordinator.daemon.detector import Detector, Look
from coordinator.daemon.events import EventReader
from coordinator.daemon.gauges import PartitionGauges
from coordinator.daemon.lease_keeper import LeaseKeeper
from coordinator.daemon.sweeper import Sweeper
from coordinator.errors import StoreUnavailableError, first_error
from coordinator.metrics import Metrics, known
from coordinator.policy import backoff, sleep_seconds
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.connect import Blocking, Connector
from coordinator.store.deployment import check_server, prepare
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys

__all__ = ["Connections", "PartitionLoop"]

log = structlog.get_logger()

SLOW_SECONDS = 1.0
"""Between two steps of the slow half: sweep, gauges."""
WAIT_SECONDS = 0.25
MOST_BURIALS = 16
"""Graves that one coordinator empties side by side; the others are found again by their key."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Four ways to one partition, so that none of the loops waits behind another's commands."""

    watch: StorePartition
    work: StorePartition
    slow: StorePartition
    events: Blocking

    @classmethod
    def open(cls, connector: Connector, keys: Keys) -> Connections:
        """Four connections of ``connector``."""
        watch, work, slow = (StorePartition(keys, connector.executor(keys.tag)) for _ in range(3))
        return cls(watch, work, slow, connector.blocking(keys.tag))


class PartitionLoop:
    """Everything that a coordinator does in one partition.

    Attributes:
        up: whether the store answered last time.
    """

    def __init__(
        self,
        connections: Connections,
        settings: Settings,
        metrics: Metrics,
        *,
        by: str,
        loop_lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.part, self.settings, self.metrics = connections.watch, settings, metrics
        self.detector = Detector(
            connections.watch, settings, by, loop_lag, lambda reason: metrics.holds.labels(known("holds", reason)).inc()
        )
        self.burial = Burial(connections.work, settings, by)
        self.leases = LeaseKeeper(connections.work, settings, by)
        self.sweeper = Sweeper(connections.slow, settings)
        self.events = EventReader(connections.slow, settings, metrics, by, connections.events, self._died)
        self.gauges = PartitionGauges(connections.slow, settings, metrics)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._burying: set[str] = set()
        self._keeping_leases = False
        self.up = False
        self._told_down = False
        self._lineage = ""
        self._server = ""

    async def prepare(self) -> None:
        """Makes the partition, or checks that it was made for a program like this.

        Raises:
            ConfigurationError: another number of partitions, a protocol that this program does not speak, or a server
                that is too old or evicts keys.
            StoreUnavailableError: the store did not answer.
        """
        if not self._lineage:
            await check_server(self.part.executor)
        s = self.settings
        hold_ms = round(s.dead_after * 1000)
        self._lineage = await prepare(self.part, partitions=s.partitions, hold_ms=hold_ms, previous=self._lineage)

    async def step(self) -> float:
        """One look and all that it finds to do, one after the other.

        Returns:
            Seconds to sleep until the next look.

        Raises:
            ConfigurationError, StoreUnavailableError: as `prepare`.
        """
        found = await self.look()
        await self._bury(self._graves(found))
        if not found.transfers_held:
            await self.leases.step(found.leases)
        return self._pause(found)

    async def look(self) -> Look:
        """One look: declares who is dead, and takes nothing.

        Raises:
            ConfigurationError, StoreUnavailableError: as `prepare`.
        """
        if not self._lineage:
            await self.prepare()
        with self.metrics.scan.time():
            found = await self.detector.step()
        if not found.known:
            await self.prepare()
            return found
        self.metrics.last_scan.labels(self.part.keys.partition).set_to_current_time()
        self.gauges.withheld("slow_judge", bool(self.detector.unfit))
        await self._restate_deaths()
        self.events.deaths.update(dict.fromkeys(found.buried, clock.now()))
        return found

    def _pause(self, found: Look) -> float:
        if not found.known:
            return 0.001
        s = self.settings
        return sleep_seconds(
            found.now_ms,
            found.next_ms,
            self.detector.seen,
            clock.now(),
            s.dead_after,
            s.max_scan_gap,
            self.detector.lost_after,
        )

    @staticmethod
    def _graves(found: Look) -> list[str]:
        """What may be claimed now: the newly dead first."""
        if found.transfers_held:
            return []
        return [*found.buried, *(g for g in found.graves if g not in found.buried)]

    async def _bury(self, graves: Sequence[str]) -> None:
        """Graves side by side: their round trips share the pipeline, and a large one does not delay a small one."""
        answers = await asyncio.gather(*(self.burial.step(grave) for grave in graves), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _restate_deaths(self) -> None:
        """A server other than the last may have forgotten who is dead."""
        server = self.part.executor.server
        if server != self._server and self._server and self.events.deaths:
            await self.part.executor.run_many(
                [
                    calls.certify(
                        self.part.keys,
                        instance=dead,
                        cause="restated",
                        by=self.detector.by,
                        reason="the server changed",
                    )
                    for dead in self.events.deaths
                ]
            )
        self._server = server

    async def slow_step(self) -> None:
        """The slow half: the walk over the records, and the gauges.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        await self.sweeper.step()
        await self.sweeper.tidy()
        await self.gauges.step()
        if (view := self.gauges.last) is not None:
            self.detector.dead_after = {
                row.id: row.dead_after_ms / 1000 for row in view.instances if row.state != "dead" and row.dead_after_ms
            }

    async def run(self) -> None:
        """Looks until cancelled; waits with backoff and jitter while the store is away, and declares nobody.

        Raises:
            ConfigurationError: the store is not one that this program can work with.
        """
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await self._look_for_ever(tasks)
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    async def _look_for_ever(self, tasks: anyio.abc.TaskGroup) -> None:
        failures = 0
        while True:
            try:
                found = await self.look()
            except StoreUnavailableError as error:
                self._down(error)
                pause = backoff(failures, random.random())  # noqa: S311 - jitter
                failures += 1
            else:
                self._back()
                failures = 0
                self._start_work(tasks, found)
                pause = self._pause(found)
            await anyio.sleep(pause)

    def _start_work(self, tasks: anyio.abc.TaskGroup, found: Look) -> None:
        """A task for each grave that nobody here empties yet, and one for the leases that are due."""
        for grave in self._graves(found):
            self._start_burial(tasks, grave)
        if found.leases and not found.transfers_held and not self._keeping_leases:
            self._keeping_leases = True
            tasks.start_soon(self._keep_leases, found.leases)

    def _start_burial(self, tasks: anyio.abc.TaskGroup, grave: str) -> None:
        if grave not in self._burying and len(self._burying) < MOST_BURIALS:
            self._burying.add(grave)
            tasks.start_soon(self._bury_one, grave)

    def _died(self, instance: str) -> None:
        """An event told of a death: its sessions are claimed now instead of at the next look."""
        if self._tasks is not None and self.up:
            self._start_burial(self._tasks, instance)

    async def _bury_one(self, grave: str) -> None:
        try:
            await self.burial.step(grave)
        except StoreUnavailableError as error:  # it is found again by its key
            self._count(error)
        finally:
            self._burying.discard(grave)

    async def _keep_leases(self, sessions: Sequence[str]) -> None:
        try:
            await self.leases.step(sessions)
        except StoreUnavailableError as error:  # they stay due
            self._count(error)
        finally:
            self._keeping_leases = False

    async def run_slow(self) -> None:
        """The slow half until cancelled."""
        while True:
            if self.up:
                try:
                    await self.slow_step()
                except StoreUnavailableError as error:
                    self._count(error)
                    self.gauges.drop()
            await anyio.sleep(SLOW_SECONDS if self.up else WAIT_SECONDS)

    async def run_events(self) -> None:
        """Reads events as they come, until cancelled."""
        while True:
            try:
                if self.up:
                    await self.events.step(block=True)
                    continue
            except StoreUnavailableError as error:
                self._count(error)
            await anyio.sleep(WAIT_SECONDS)

    def _count(self, error: StoreUnavailableError) -> None:
        self.metrics.store_errors.labels(known("store_errors", error.kind)).inc()

    def _down(self, error: StoreUnavailableError) -> None:
        self._count(error)
        self.detector.seen.clear()
        if not self._told_down:
            log.error("store_unavailable", partition=self.part.keys.partition, kind=error.kind, detail=error.detail)
            self._told_down = True
        self.up = False
        self.gauges.drop()

    def _back(self) -> None:
        if self._told_down:
            log.warning("store_back", partition=self.part.keys.partition)
        self.up, self._told_down = True, False
