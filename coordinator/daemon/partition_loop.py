"""One partition's loop: look, bury, keep leases, sleep until the next deadline. Partitions never wait for each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import anyio
import structlog

from coordinator import clock
from coordinator.daemon.burial import Burial
from coordinator.daemon.detector import Detector
from coordinator.daemon.events import EventReader
from coordinator.daemon.gauges import PartitionGauges
from coordinator.daemon.lease_keeper import LeaseKeeper
from coordinator.daemon.sweeper import Sweeper
from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.ids import new_lineage
from coordinator.metrics import Metrics
from coordinator.policy import backoff, sleep_seconds
from coordinator.settings import Settings
from coordinator.store import PROTOCOL, calls
from coordinator.store.executor import StorePartition

__all__ = ["PartitionLoop"]

log = structlog.get_logger()

SLOW_SECONDS = 1.0
"""Between two steps of the slow half: sweep, events, gauges."""
EVENTS_SECONDS = 0.25


class PartitionLoop:
    """Everything that a coordinator does in one partition.

    Attributes:
        up: whether the store answered last time.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        metrics: Metrics,
        *,
        by: str,
        loop_lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.part, self.settings, self.metrics = part, settings, metrics
        self.detector = Detector(part, settings, by, loop_lag)
        self.burial = Burial(part, settings, by)
        self.leases = LeaseKeeper(part, settings, by)
        self.sweeper = Sweeper(part, settings)
        self.events = EventReader(part, settings, metrics, by)
        self.gauges = PartitionGauges(part, settings, metrics)
        self.up = False
        self._told_down = False
        self._lineage = ""
        self._server = ""

    async def prepare(self) -> None:
        """Makes the partition, or checks that it was made for a program like this.

        Raises:
            ConfigurationError: another number of partitions, or a protocol that this program does not speak.
            StoreUnavailableError: the store did not answer.
        """
        answer = await self.part.executor.run(
            calls.init(
                self.part.keys,
                partitions=self.settings.partitions,
                protocol=PROTOCOL,
                lineage=new_lineage(),
                hold_ms=round(self.settings.dead_after * 1000),
                previous=self._lineage,
            )
        )
        if answer.word == "PARTITIONS":
            raise ConfigurationError(
                f"partitions: {self.settings.partitions} is set, but this store was made with {answer.int('partitions')}; "
                "the number is fixed at first start"
            )
        if answer.word == "PROTOCOL":
            raise ConfigurationError(
                f"the store speaks protocol {answer.int('protocol')}, this program {PROTOCOL} and its neighbours: update it"
            )
        self._lineage = answer.text("lineage")

    async def step(self) -> float:
        """One look and all that it finds to do.

        Returns:
            Seconds to sleep until the next look.

        Raises:
            ConfigurationError, StoreUnavailableError: as `prepare`.
        """
        if not self._lineage:
            await self.prepare()
        with self.metrics.scan.time():
            look = await self.detector.step()
        if not look.known:
            await self.prepare()
            return 0.001
        self.metrics.last_scan.labels(self.part.keys.partition).set_to_current_time()
        await self._restate_deaths()
        if not look.transfers_held:
            await self._bury((*look.buried, *(g for g in look.graves if g not in look.buried)))
            await self.leases.step(look.leases)
        self.events.deaths.update(dict.fromkeys(look.buried, clock.now()))
        s = self.settings
        return sleep_seconds(look.now_ms, look.next_ms, self.detector.seen, clock.now(), s.dead_after, s.max_scan_gap)

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

    async def run(self) -> None:
        """Steps until cancelled; waits with backoff and jitter while the store is away, and declares nobody.

        Raises:
            ConfigurationError: the store is not one that this program can work with.
        """
        failures = 0
        while True:
            try:
                pause = await self.step()
            except StoreUnavailableError as error:
                self._down(error)
                pause = backoff(failures, random.random())  # noqa: S311 - jitter
                failures += 1
            else:
                self._back()
                failures = 0
            await anyio.sleep(pause)

    async def run_slow(self) -> None:
        """The slow half until cancelled."""
        next_slow = clock.now()
        while True:
            if self.up:
                try:
                    await self.events.step()
                    if clock.now() >= next_slow:
                        next_slow = clock.now() + SLOW_SECONDS
                        await self.slow_step()
                except StoreUnavailableError as error:
                    self.metrics.store_errors.labels(error.kind).inc()
                    self.gauges.drop()
            await anyio.sleep(EVENTS_SECONDS)

    def _down(self, error: StoreUnavailableError) -> None:
        self.metrics.store_errors.labels(error.kind).inc()
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
