"""The composition root of ``coordinator sidecar``: settings -> store -> workers -> HTTP; order of start and of stop."""

from __future__ import annotations

import ipaddress
import resource
import signal
import socket
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.abc
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.responses import JSONResponse
from starlette.routing import Route

from coordinator.daemon.daemon import Daemon
from coordinator.daemon.http import HttpServer, application, listen
from coordinator.errors import StoreUnavailableError, first_error
from coordinator.ids import new_instance_id
from coordinator.settings import Settings
from coordinator.sidecar.access import Access
from coordinator.sidecar.api import Api
from coordinator.sidecar.dispatch import Dispatcher
from coordinator.sidecar.draining import Draining
from coordinator.sidecar.openapi import document
from coordinator.sidecar.prestop import PreStop
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.server import bounded_server, listen_on_path
from coordinator.version import VERSION
from coordinator.worker.hub import Hubs

__all__ = ["Sidecar"]

log = structlog.get_logger()

BASE64 = 4 / 3
BODY_BYTES = 8 * 1024
"""Of a body beside its recovery data."""
OPEN_FILES = 65536


class Sidecar:
    """Stands for the workers of one pod, or of one machine.

    Args:
        settings: with a Redis URL.
        coordinate: be a coordinator too.
        only_socket: listen on the unix socket, and nowhere else.
    """

    def __init__(self, settings: Settings, *, coordinate: bool = False, only_socket: bool = False) -> None:
        self.settings, self._only_socket = settings, only_socket
        self.id = new_instance_id(settings.name)
        self.metrics = CollectorRegistry()
        self.daemon = Daemon(settings, self.metrics) if coordinate else None
        self._hubs: Hubs
        self._failures = Counter(
            "recovery_sidecar_failures", "Requests and workers that met a defect.", ["operation"], registry=self.metrics
        )
        self._up = False
        self.http_port = self.drain_port = 0
        self.registry: Registry
        self._draining: Draining

    def _sockets(self, stack: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
        """Of the interface, and of the hook."""
        s = self.settings
        if self._only_socket:
            return [stack.enter_context(listen_on_path(s.http_socket))], []
        if not _is_loopback(s.http_host) and not s.api_tokens():
            log.info("only_health_from_elsewhere", http_host=s.http_host, reason="api_token is not set")
        found = [stack.enter_context(listen(s.http_host, s.http_port))]
        self.http_port = found[0].getsockname()[1]
        if s.http_socket:
            found.append(stack.enter_context(listen_on_path(s.http_socket)))
        if not s.drain_tokens():
            return found, []
        hook = stack.enter_context(listen("0.0.0.0", s.drain_port))  # noqa: S104 - a kubelet asks by the pod's address
        self.drain_port = hook.getsockname()[1]
        return found, [hook]

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, and after that until nothing is left to hand over.

        Raises:
            ConfigurationError: an address is taken, or the store was made for another program.
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
        """Serves until cancelled; workers that it still stands for then leave.

        Raises:
            ConfigurationError: an address is taken, or the store was made for another program.
        """
        _allow_many_files()
        with ExitStack() as stack:
            sockets, hooks = self._sockets(stack)
            self._hubs = Hubs(self.settings)
            servers: list[HttpServer] = []
            try:
                async with (
                    anyio.create_task_group() as hubs,
                    anyio.create_task_group() as workers,
                    anyio.create_task_group() as tasks,
                ):
                    hubs.start_soon(self._hubs.run)
                    self.registry = Registry(self.settings, self._hubs, workers, self._failures)
                    self._draining = Draining(self.registry, tasks)
                    servers.append(bounded_server(self._application(), sockets))
                    if hooks:
                        servers.append(bounded_server(PreStop(self.settings, self._draining), hooks))
                    for one in servers:
                        tasks.start_soon(one.run)
                    tasks.start_soon(self._tick)
                    tasks.start_soon(self._look_at_store)
                    if self.daemon is not None:
                        tasks.start_soon(self.daemon.coordinate)
                    log.info(
                        "sidecar_started", instance=self.id, version=VERSION, store=self._hubs.describe(),
                        http="" if self._only_socket else f"{self.settings.http_host}:{self.http_port}",
                        socket=self.settings.http_socket, drain_port=self.drain_port, partitions=self.settings.partitions,
                        coordinates=self.daemon is not None,
                    )  # fmt: skip
                    task_status.started()
            finally:
                for server in servers:
                    server.stop()
                with anyio.CancelScope(shield=True):
                    await self._hubs.aclose()
                    if self.daemon is not None:
                        await self.daemon.aclose()

    def not_ready(self) -> list[str]:
        """Why this process is not ready; empty when it is."""
        reasons = ["draining"] if self._draining.started else []
        return reasons + ([] if self._up else ["the store does not answer"])

    def _application(self) -> Any:
        api = Api(self.settings, self.registry, self._draining, self._hubs.parts, by=self.id)
        workers = Gauge("recovery_sidecar_workers", "Workers that this sidecar stands for.", registry=self.metrics)
        workers.set_function(lambda: len(self.registry.workers))
        rest = application(self.metrics, self.not_ready, lambda: self.daemon.views() if self.daemon else [])
        openapi = document(api.table)

        async def served(_: Any) -> JSONResponse:
            return JSONResponse(openapi)

        rest.router.routes.append(Route("/openapi.json", served))
        most = round(self.settings.max_data_bytes * BASE64) + BODY_BYTES
        return Dispatcher(api.table, Access(self.settings), rest, most, self._failures)

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(self.settings.heartbeat_interval)
            for hosted in self.registry.workers:
                hosted.tick()

    async def _look_at_store(self) -> None:
        while True:
            try:
                for part in self._hubs.parts:
                    await part.executor.command("HGET", part.keys.meta, "lineage")
                self._up = True
            except StoreUnavailableError:
                self._up = False
            await anyio.sleep(1.0)

    async def _signals(self, tasks: anyio.abc.TaskGroup, *, task_status: anyio.abc.TaskStatus[anyio.Event]) -> None:
        started = anyio.Event()
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started(started)
            async for number in signals:
                name = signal.Signals(number).name
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


def _allow_many_files() -> None:
    """Each stream is an open file: as many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
