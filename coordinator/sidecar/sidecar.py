"""The composition root of ``coordinator sidecar``: settings -> store -> workers -> HTTP; order of start and of stop."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack
from typing import Any, Protocol

import anyio
import anyio.abc
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.responses import JSONResponse
from starlette.routing import Route

from coordinator import clock
from coordinator.daemon.daemon import Daemon
from coordinator.errors import ConfigurationError, StoreUnavailableError, first_error
from coordinator.ids import new_instance_id
from coordinator.settings import Settings
from coordinator.sidecar.access import SidecarAccess
from coordinator.sidecar.api import table_of
from coordinator.sidecar.app import App
from coordinator.sidecar.draining import SidecarDrain
from coordinator.sidecar.gate import CallerGate
from coordinator.sidecar.hosting import addresses_of
from coordinator.sidecar.left_behind import LeftBehind
from coordinator.sidecar.openapi import document
from coordinator.sidecar.prestop import PreStop
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.server import api_server, hook_server, listen_on_path
from coordinator.sidecar.watched import Watched
from coordinator.signals import STOPS, heard
from coordinator.store import lookups
from coordinator.store.deployment import check_number, check_partition
from coordinator.store.executor import StorePartition
from coordinator.store.rights import check_rights
from coordinator.version import VERSION
from coordinator.web.bounds import allow_many_files
from coordinator.web.server import HttpServer, listen
from coordinator.web.status import application
from coordinator.worker.runtime import WorkerRuntime

__all__ = ["Parent", "Sidecar"]

log = structlog.get_logger()

BASE64 = 4 / 3
RIGHTS_SECONDS = 5.0
"""Pause between two looks at the rights of the Redis user."""
BODY_BYTES = 8 * 1024
"""Bytes of a body beside its recovery data."""


class Parent(Protocol):
    """The program that started the worker, and dies with it."""

    def how_ended(self, pid: int) -> str:
        """How a process ended; '' when it is not known."""

    async def announced(self) -> None:
        """A worker that beats for itself has announced itself."""


class Sidecar:
    """Stands for the workers of one pod, or of one machine.

    Args:
        settings: with a Redis URL.
        coordinate: run a coordinator too.
        parent: the parent of its only worker. Then the sidecar listens only on the unix socket, and dies with its worker.
    """

    def __init__(self, settings: Settings, *, coordinate: bool = False, parent: Parent | None = None) -> None:
        self.settings, self._parent = settings, parent
        settings.key_source()  # faults of the keys are reported now, and all workers share them
        self._hosted_settings = settings.for_sidecar() if parent is None else settings
        self.id = new_instance_id(settings.name)
        self.metrics = CollectorRegistry()
        self.daemon = Daemon(settings, self.metrics) if coordinate else None
        self._runtime: WorkerRuntime
        self._failures = Counter(
            "recovery_sidecar_failures", "Requests and workers that met a defect.", ["operation"], registry=self.metrics
        )
        self._up, self._lacks, self._differs = False, "", ""
        self.http_port = self.drain_port = 0
        self.registry: Registry
        self.watched: Watched
        self._draining: SidecarDrain

    def _sockets(self, stack: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
        """The sockets of the interface, and those of the hook."""
        s = self.settings
        if self._parent is not None:
            return [stack.enter_context(listen_on_path(s.http_socket))], []
        if s.http_tcp != "all" and not s.http_socket:
            raise ConfigurationError(f"http_tcp: {s.http_tcp} leaves workers no way in: set http_socket, too")
        found = []
        if s.http_tcp != "off":
            if not _is_loopback(s.http_host) and not s.api_tokens():
                log.info("only_health_from_elsewhere", http_host=s.http_host, reason="api_token is not set")
            found.append(stack.enter_context(listen(s.http_host, s.http_port)))
            self.http_port = found[0].getsockname()[1]
        if s.http_socket:
            found.append(stack.enter_context(listen_on_path(s.http_socket, shared=s.http_socket_shared)))
        if not s.drain_tokens():
            return found, []
        hook = listen("0.0.0.0", s.drain_port, "drain_port")  # noqa: S104 - a kubelet asks by the pod's address
        stack.enter_context(hook)
        self.drain_port = hook.getsockname()[1]
        return found, [hook]

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, and after that until nothing is left to hand over.

        Raises:
            ConfigurationError: an address is taken, the store was made for another program, or a right is missing.
        """
        try:
            async with anyio.create_task_group() as tasks:
                stopped = await tasks.start(self._signals, tasks)
                await tasks.start(self.run_api)
                stopped.set()
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        log.info("sidecar_stopped", instance=self.id)

    async def run_api(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves until cancelled. Then its workers are left to the next sidecar, and those of a parent leave.

        Raises:
            ConfigurationError: an address is taken, the store was made for another program, or a right is missing.
        """
        allow_many_files()
        with ExitStack() as stack:
            sockets, hooks = self._sockets(stack)
            self._runtime = WorkerRuntime(self._hosted_settings)
            servers: list[HttpServer] = []
            try:
                async with (
                    anyio.create_task_group() as runtime,
                    anyio.create_task_group() as workers,
                    anyio.create_task_group() as tasks,
                ):
                    runtime.start_soon(self._runtime.run)
                    addresses = addresses_of(self.settings) if self._parent is None else ()
                    self.registry = Registry(self._hosted_settings, self._runtime, workers, self._failures, addresses)
                    how_ended = self._parent.how_ended if self._parent is not None else lambda pid: ""
                    self.watched = Watched(self._runtime.parts, tasks, self.id, how_ended)
                    self._draining = SidecarDrain(self.registry, tasks)
                    count = len(sockets) + len(hooks)
                    servers.append(api_server(self._application(), sockets, self._most_body, count))
                    if hooks:
                        servers.append(hook_server(PreStop(self.settings, self._draining), hooks, count))
                    for one in servers:
                        tasks.start_soon(one.run)
                    left_behind = LeftBehind(self.registry, self._runtime.parts, addresses, self.id, self._failures)
                    tasks.start_soon(left_behind.take_up)
                    tasks.start_soon(self._tick)
                    tasks.start_soon(self._look_at_store)
                    if self.daemon is not None:
                        tasks.start_soon(self.daemon.coordinate)
                    log.info(
                        "sidecar_started", instance=self.id, version=VERSION, store=self._runtime.describe(),
                        http=f"{self.settings.http_host}:{self.http_port}" if self.http_port else "",
                        socket=self.settings.http_socket, drain_port=self.drain_port, partitions=self.settings.partitions,
                        coordinates=self.daemon is not None,
                    )  # fmt: skip
                    task_status.started()
            finally:
                for server in servers:
                    server.stop()
                with anyio.CancelScope(shield=True):
                    await self._runtime.aclose()
                    if self.daemon is not None:
                        await self.daemon.aclose()

    def not_ready(self) -> list[str]:
        """Why this process is not ready; empty when it is."""
        reasons = ["draining"] if self._draining.started else []
        reasons += [] if self._up else ["the store does not answer"]
        reasons += [one for one in (self._differs, self._lacks) if one]
        reasons += [f"offers are not read: {one}" for one in self._runtime.refused]
        return reasons + ([] if self.daemon is None else [f"coordinator: {one}" for one in self.daemon.not_ready()])

    def _application(self) -> Any:
        announced = self._parent.announced if self._parent is not None else None
        table = table_of(
            self.settings, self.registry, self._draining, self.watched, self._runtime.parts, self.id, announced
        )
        workers = Gauge("recovery_sidecar_workers", "Workers that this sidecar stands for.", registry=self.metrics)
        workers.set_function(lambda: len(self.registry.workers))
        watched = Gauge(
            "recovery_sidecar_watched",
            "Workers that beat for themselves and whose end this sidecar states.",
            registry=self.metrics,
        )
        watched.set_function(lambda: len(self.watched))
        rest = application(self.metrics, self.not_ready, lambda: self.daemon.views() if self.daemon else [])
        openapi = document(table, worker_token_optional=self.settings.worker_token_optional)

        async def served(_: Any) -> JSONResponse:
            return JSONResponse(openapi)

        rest.router.routes.append(Route("/openapi.json", served))
        access = SidecarAccess(self.settings)
        return App(table, access, CallerGate(access, self.registry), rest, self._most_body, self._failures)

    @property
    def _most_body(self) -> int:
        return round(self.settings.max_data_bytes * BASE64) + BODY_BYTES

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(self.settings.heartbeat_interval)
            for hosted in self.registry.workers:
                hosted.presence.tick()

    async def _look_at_store(self) -> None:
        """Looks at the store until cancelled, and at its rights once the store answers for the first time.

        A partition that does not answer is reported, and fails only its own calls. When none answers, nothing can be done.

        Raises:
            ConfigurationError: the server or the rights do not suffice.
        """
        looked, said = set[int](), dict[int, str]()
        rights_at = 0.0
        while True:
            rights_due = clock.now() - rights_at > RIGHTS_SECONDS
            away: dict[int, StoreUnavailableError] = {}
            lacks = ""
            for part in self._runtime.parts:
                try:
                    if part is self._runtime.parts[0]:
                        await self._look_at_number()
                    if self._differs:  # the user may lack rights for partitions that do not exist
                        break
                    if part.keys.partition not in looked:
                        await check_partition(part, "worker", without_info=self.settings.without_info)
                        looked.add(part.keys.partition)
                    await lookups.lineage_of(part)
                    if rights_due:
                        lacks = await self._lacks_in(part) or lacks
                except StoreUnavailableError as error:
                    away[part.keys.partition] = error
            if rights_due and not away and not self._differs:
                self._tell_of_rights(lacks)
                rights_at = clock.now()
            self._up = len(away) < len(self._runtime.parts)
            for partition, fault in away.items():
                if said.get(partition) != fault.kind:
                    log.warning(
                        "store_unavailable",
                        instance=self.id,
                        partition=partition,
                        kind=fault.kind,
                        detail=fault.detail,
                    )
            for partition in said.keys() - away.keys():
                log.info("store_available", instance=self.id, partition=partition)
            said = {partition: fault.kind for partition, fault in away.items()}
            await anyio.sleep(1.0)

    async def _look_at_number(self) -> None:
        """Reads the number of partitions from partition 0. A wrong number is logged, and the sidecar goes on."""
        before = self._differs
        try:
            await check_number(self._runtime.parts[0], self.settings.partitions)
            self._differs = ""
        except ConfigurationError as error:
            self._differs = str(error)
        if self._differs and self._differs != before:
            log.error("partitions_differ", instance=self.id, reason=self._differs)

    async def _lacks_in(self, part: StorePartition) -> str:
        """The rights that are missing there; '' for none."""
        try:
            await check_rights(part.executor, part.keys, "worker")
        except ConfigurationError as error:
            return str(error)
        return ""

    def _tell_of_rights(self, lacks: str) -> None:
        """Logs rights that were taken away while the sidecar runs, which goes on."""
        before, self._lacks = self._lacks, lacks
        if lacks and lacks != before:
            log.warning("rights_lacking", instance=self.id, reason=lacks)
        elif before and not lacks:
            log.info("rights_are_back", instance=self.id)

    async def _signals(self, tasks: anyio.abc.TaskGroup, *, task_status: anyio.abc.TaskStatus[anyio.Event]) -> None:
        started = anyio.Event()
        with heard(*STOPS) as signals:
            task_status.started(started)
            async for name in signals:
                if not started.is_set():
                    tasks.cancel_scope.cancel()
                    return
                if self._draining.started:
                    left = sum(len(h.worker.sessions) for h in self.registry.workers)
                    log.info("sidecar_still_draining", instance=self.id, signal=name, sessions=left)
                    tasks.start_soon(self._stop_when_drained, tasks)
                    continue
                log.info("sidecar_stopping", instance=self.id, signal=name, workers=len(self.registry.workers))
                self._draining.start(self.settings.drain_timeout, name)
                tasks.start_soon(self._stop_when_drained, tasks)

    async def _stop_when_drained(self, tasks: anyio.abc.TaskGroup) -> None:
        await self._draining.done()
        for hosted in self.registry.workers:
            await hosted.leave()
        tasks.cancel_scope.cancel()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
