"""One partition's loops: a detector that only looks and declares, the work that it finds, and a slow half.

Each has a connection of its own, so that a large grave or the walk over the records delays no declaration.
Partitions never wait for each other.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.daemon.claimer import Claimer
from coordinator.daemon.detector import Detector, Look, no_others
from coordinator.daemon.events import EventReader
from coordinator.daemon.gauges import PartitionGauges
from coordinator.daemon.lease_expirer import LeaseExpirer
from coordinator.daemon.sweeper import Sweeper
from coordinator.errors import ConfigurationError, StoreUnavailableError, first_error
from coordinator.metrics import Metrics, known
from coordinator.policy import backoff, sleep_seconds
from coordinator.settings import Settings
from coordinator.states import InstanceState
from coordinator.steady import Steady
from coordinator.store import calls, reads
from coordinator.store.connect import Blocking, Connector
from coordinator.store.deployment import check_partition, prepare
from coordinator.store.executor import StorePartition
from coordinator.store.faults import concerns_one
from coordinator.store.keys import Keys
from coordinator.store.usual import BATCH

__all__ = ["PartitionConnections", "PartitionLoop"]

log = structlog.get_logger()

SLOW_SECONDS = 1.0
"""Seconds between two steps of the slow half: sweep, gauges."""
WAIT_SECONDS = 0.25
LOOPS = ("look", "burial", "leases", "sweep", "tidy", "gauges", "events")
MOST_BURIALS = 16
"""Graves that one coordinator empties side by side; the others wait for their turn."""
MOST_GRAVES_WAIT = 10_000
"""Graves that wait for their turn here at most; others are found again by their key."""


@dataclass(frozen=True, slots=True)
class PartitionConnections:
    """Four ways to one partition, so that none of the loops waits behind another's commands."""

    watch: StorePartition
    work: StorePartition
    slow: StorePartition
    events: Blocking

    @classmethod
    def open(cls, connector: Connector, keys: Keys) -> PartitionConnections:
        """Four connections of ``connector``."""
        watch, work, slow = (StorePartition(keys, connector.executor(keys.tag)) for _ in range(3))
        return cls(watch, work, slow, connector.blocking(keys.tag))


class PartitionLoop:
    """Everything that a coordinator does in one partition.

    Args:
        connections: to its server.
        by: id of the coordinator.
        loop_lag: returns the seconds by which the event loop is late.
        other_primaries: see `Detector`.
        first: returns the loop of partition 0, which is made before the others.

    Attributes:
        up: whether the store answered last time.
        prepared: whether the partition was found, or made, for this version of the program.
    """

    def __init__(
        self,
        connections: PartitionConnections,
        settings: Settings,
        metrics: Metrics,
        *,
        by: str,
        loop_lag: Callable[[], float] = lambda: 0.0,
        other_primaries: Callable[[], Awaitable[tuple[str, ...]]] = no_others,
        first: Callable[[], PartitionLoop] | None = None,
    ) -> None:
        self.part, self.settings, self.metrics = connections.watch, settings, metrics
        self.detector = Detector(
            connections.watch,
            settings,
            by,
            loop_lag,
            lambda reason: metrics.holds.labels(known("holds", reason)).inc(),
            other_primaries=other_primaries,
        )
        self.burial = Claimer(connections.work, settings, by, self._heirs)
        self.leases = LeaseExpirer(connections.work, settings, by)
        self.sweeper = Sweeper(connections.slow, settings)
        self.events = EventReader(connections.slow, settings, metrics, connections.events, self._died)
        self.gauges = PartitionGauges(connections.slow, settings, metrics)
        self.steady = {name: self._steady(name) for name in LOOPS}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._burying: set[str] = set()
        self._to_bury: dict[str, None] = {}
        self._keeping_leases = False
        self.up = False
        self._told_down = False
        self.prepared = False
        self._first = first or (lambda: self)
        self._data = "", ""

    def _steady(self, name: str) -> Steady:
        return Steady(name, self.metrics.loop_errors.labels(name).inc)

    @property
    def troubles(self) -> list[str]:
        """Which loops fail, and why; empty while all work. A store that does not answer is not among them."""
        return [f"{loop.loop} fails: {loop.trouble}" for loop in self.steady.values() if loop.trouble]

    async def prepare(self) -> None:
        """Makes the partition, or checks that it was made for this version of the program. Safe to repeat.

        Raises:
            ConfigurationError: another number of partitions, a protocol that this program does not speak, a server
                that is too old or evicts keys, or a right that is missing.
            StoreUnavailableError: the store did not answer.
        """
        if not self.prepared:
            await check_partition(self.part, "coordinator", without_info=self.settings.without_info)
        s = self.settings
        may_make = self._first() is self or self._first().prepared
        await prepare(
            self.part,
            partitions=s.partitions,
            hold=s.dead_after,
            previous=self.detector.past.lineage,
            may_make=may_make,
        )
        self.prepared = True

    async def step(self, tasks: anyio.abc.TaskGroup) -> float:
        """Looks once, and starts a task for each thing that it finds to do; `run` repeats it.

        Args:
            tasks: where the work goes on; the next look does not wait for it.

        Returns:
            Seconds to sleep until the next look.

        Raises:
            ConfigurationError, StoreUnavailableError: as `prepare`.
        """
        found = await self.look()
        self._start_work(tasks, found)
        return self._pause(found)

    async def look(self) -> Look:
        """Looks once: declares deaths, and claims nothing. Safe to repeat, and beside other coordinators.

        Raises:
            ConfigurationError, StoreUnavailableError: as `prepare`.
        """
        if not self.prepared:
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
            self.detector.dead_after,
            self.detector.lost_connection_after,
        )

    async def _heirs(self, pool: str) -> tuple[int, int]:
        """How many living instances of a pool have room, and for how many sessions together, as the gauges saw it last."""
        view = self.gauges.last
        rows = await reads.instances(self.burial.part) if view is None else view.instances
        living = [row for row in rows if row.state == InstanceState.ALIVE and row.id not in self.events.deaths]
        free = [row.capacity - row.owned for row in living if row.pool == pool]
        return sum(room > 0 for room in free), sum(room for room in free if room > 0)

    @staticmethod
    def _graves(found: Look) -> list[str]:
        """Graves that may be claimed now: the newly dead first."""
        if found.transfers_held:
            return []
        return list(dict.fromkeys([*found.buried, *found.graves]))

    async def _restate_deaths(self) -> None:
        """States the known deaths again: another server, or another lineage, may have forgotten them."""
        data = self.part.executor.server, self.detector.past.lineage
        known = list(self.events.deaths) if data != self._data and any(self._data) else []
        for first in range(0, len(known), BATCH):
            await self.part.executor.run_many(
                [
                    calls.certify(
                        self.part.keys,
                        instance=dead,
                        cause="restated",
                        by=self.detector.by,
                        reason="the server or its data changed",
                        fenced_ttl=self.settings.fenced_ttl,
                    )
                    for dead in known[first : first + BATCH]
                ]
            )
        self._data = data

    async def slow_step(self) -> None:
        """One step of the slow half: the walk over the records, and the gauges. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        for name, piece in (("sweep", self.sweeper.step), ("tidy", self.sweeper.tidy), ("gauges", self._see)):
            try:
                await piece()
            except StoreUnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - the other pieces go on
                self.steady[name].failed(error, partition=self.part.keys.partition)
            else:
                self.steady[name].well()

    async def _see(self) -> None:
        await self.gauges.step()
        if (view := self.gauges.last) is not None:
            self.detector.learn(view.instances)

    async def run(self) -> None:
        """Looks until cancelled; while the store is away it waits with backoff and jitter, and declares no death.

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
                pause = await self.step(tasks)
            except StoreUnavailableError as error:
                self._down(error)
                pause = backoff(failures, random.random())  # noqa: S311 - jitter
                failures += 1
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - an error in one thing does not stop the others
                pause = self.steady["look"].failed(error, partition=self.part.keys.partition)
            else:
                self._back()
                failures = 0
                self.steady["look"].well()
            await anyio.sleep(pause)

    def _start_work(self, tasks: anyio.abc.TaskGroup, found: Look) -> None:
        """Starts a task for each grave that no task empties yet, and one for the leases that are due."""
        for grave in self._graves(found):
            self._start_burial(tasks, grave)
        if found.leases and not found.transfers_held and not self._keeping_leases:
            tasks.start_soon(self._keep_leases, found.leases)
            self._keeping_leases = True

    def _start_burial(self, tasks: anyio.abc.TaskGroup, grave: str) -> None:
        if grave in self._burying:
            return
        if len(self._burying) < MOST_BURIALS:
            tasks.start_soon(self._bury_one, tasks, grave)
            self._burying.add(grave)
        elif len(self._to_bury) < MOST_GRAVES_WAIT:
            self._to_bury[grave] = None

    def _died(self, instance: str) -> None:
        """An event told of a death: its sessions are claimed now instead of at the next look."""
        if self._tasks is not None and self.up:
            self._start_burial(self._tasks, instance)

    async def _bury_one(self, tasks: anyio.abc.TaskGroup, grave: str) -> None:
        try:
            await self.burial.step(grave)
        except Exception as error:  # noqa: BLE001 - the other graves are emptied
            if isinstance(error, StoreUnavailableError) and not concerns_one(error):  # it is found again by its key
                self._count(error)
                self._to_bury.clear()
            else:
                pause = self.steady["burial"].failed(error, instance=grave, partition=self.part.keys.partition)
                await anyio.sleep(pause)
        else:
            self.steady["burial"].well()
        finally:
            self._burying.discard(grave)
            if self._to_bury:
                following = next(iter(self._to_bury))
                del self._to_bury[following]
                self._start_burial(tasks, following)

    async def _keep_leases(self, sessions: Sequence[str]) -> None:
        try:
            await self.leases.step(sessions)
        except Exception as error:  # noqa: BLE001 - they stay due
            if isinstance(error, StoreUnavailableError) and not concerns_one(error):
                self._count(error)
            else:
                await anyio.sleep(self.steady["leases"].failed(error, partition=self.part.keys.partition))
        else:
            self.steady["leases"].well()
        finally:
            self._keeping_leases = False

    async def run_slow(self) -> None:
        """Runs the slow half until cancelled."""
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
                    self.steady["events"].well()
                    continue
            except StoreUnavailableError as error:
                self._count(error)
            except Exception as error:  # noqa: BLE001 - the next events are counted
                await anyio.sleep(self.steady["events"].failed(error, partition=self.part.keys.partition))
            await anyio.sleep(WAIT_SECONDS)

    def _count(self, error: StoreUnavailableError) -> None:
        self.metrics.store_errors.labels(known("store_errors", error.kind)).inc()

    def _down(self, error: StoreUnavailableError) -> None:
        self._count(error)
        self.detector.forget()
        if not self._told_down:
            log.error("store_unavailable", partition=self.part.keys.partition, kind=error.kind, detail=error.detail)
            self._told_down = True
        self.up = False
        self.gauges.drop()

    def _back(self) -> None:
        if self._told_down:
            log.warning("store_back", partition=self.part.keys.partition)
        self.up, self._told_down = True, False
