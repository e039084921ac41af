"""The composition root of ``coordinator run``: settings -> store -> loops; order of start and of stop."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.abc
import structlog
from prometheus_client import CollectorRegistry

from coordinator import clock, failpoints
from coordinator.daemon.partition_loop import PartitionConnections, PartitionLoop
from coordinator.daemon.pods import PodEvents
from coordinator.errors import first_error
from coordinator.ids import new_instance_id
from coordinator.metrics import Metrics
from coordinator.settings import Settings
from coordinator.signals import STOPS, heard
from coordinator.store import reads
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from coordinator.version import VERSION
from coordinator.web.access import Access, Guarded
from coordinator.web.bounds import allow_many_files
from coordinator.web.server import HttpServer, listen
from coordinator.web.status import application

__all__ = ["Daemon"]

log = structlog.get_logger()

TICK_SECONDS = 0.05


class Daemon:
    """A coordinator. Any number run side by side; they meet only in Redis.

    Args:
        settings: with a Redis URL.
        registry: where metrics are exported; by default one of its own.

    Raises:
        ConfigurationError: pods are to be watched, and this process cannot.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.id = new_instance_id(settings.name)
        self.metrics = Metrics(registry or CollectorRegistry(), VERSION)
        self._connector = Connector(
            settings.current_url,
            store_timeout=settings.store_timeout,
            observe=self.metrics.observe_request,
            durability=settings.replicated,
        )
        self.loops = [
            PartitionLoop(
                PartitionConnections.open(self._connector, keys),
                settings,
                self.metrics,
                by=self.id,
                loop_lag=lambda: self.loop_lag,
                other_primaries=partial(self._connector.other_primaries, keys.instances),
                first=lambda: self.loops[0],
            )
            for keys in (Keys(settings.prefix, p) for p in range(settings.partitions))
        ]
        self.pods: PodEvents | None = None
        if settings.pod_events:
            parts = [
                StorePartition(loop.part.keys, self._connector.executor(loop.part.keys.tag)) for loop in self.loops
            ]
            self.pods = PodEvents(settings, self.metrics, parts, self.views, self.id)
        self.loop_lag = 0.0
        self.http_port = 0
        self._stopping = False

    def not_ready(self) -> list[str]:
        """Why this process is not ready; empty when it is.

        When one partition's server does not answer, the others are still looked after, so only its metric tells of it.
        """
        reasons = ["stopping"] if self._stopping else []
        none_answers = not any(loop.up for loop in self.loops)
        return reasons + [
            f"partition {n}: {reason}"
            for n, loop in enumerate(self.loops)
            for reason in (["the store does not answer"] if none_answers else []) + loop.troubles
        ]

    async def run(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Runs until SIGTERM or SIGINT; a second signal ends it at once.

        Raises:
            ConfigurationError: a port is taken, or the store was made for another program.
        """
        failpoints.check()
        allow_many_files()
        where = None
        if self.settings.http_tcp != "off":
            where = listen(self.settings.http_host, self.settings.http_port)
            self.http_port = where.getsockname()[1]
        app = Guarded(application(self.metrics.registry, self.not_ready, self.views), Access(self.settings))
        server = HttpServer(app, [where] if where else [])
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._signals, tasks, server)  # from here on a signal is a clean stop
                log.info(
                    "coordinator_started", instance=self.id, version=VERSION, store=self._connector.describe(),
                    http=f"{self.settings.http_host}:{self.http_port}" if where else "", partitions=self.settings.partitions,
                )  # fmt: skip
                if where:
                    tasks.start_soon(server.run)
                tasks.start_soon(self.coordinate)
                task_status.started(self.http_port)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            if where:
                where.close()
            with anyio.CancelScope(shield=True):
                await self.aclose()
        log.info("coordinator_stopped", instance=self.id)

    async def coordinate(self) -> None:
        """Does the work itself, without HTTP and signals, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            for loop in self.loops:
                tasks.start_soon(loop.run)
                tasks.start_soon(loop.run_slow)
                tasks.start_soon(loop.run_events)
            if self.pods is not None:
                tasks.start_soon(self.pods.run)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connector.aclose()

    def views(self) -> list[reads.Overview | None]:
        """The last look at each partition; None for one whose store does not answer."""
        return [loop.gauges.last for loop in self.loops]

    async def _watch(self) -> None:
        """Measures how late this loop wakes, and keeps ``store_up``."""
        while True:
            asleep = clock.now()
            await anyio.sleep(TICK_SECONDS)
            self.loop_lag = max(0.0, clock.now() - asleep - TICK_SECONDS)
            self.metrics.store_up.set(all(loop.up for loop in self.loops))
            self.metrics.paused.set(0)

    async def _signals(
        self, tasks: anyio.abc.TaskGroup, server: HttpServer, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        with heard(*STOPS) as signals:
            task_status.started()
            async for name in signals:
                log.info("coordinator_stopping", instance=self.id, signal=name)
                self._stopping = True
                server.stop()
                tasks.cancel_scope.cancel()
                return
