"""Keeps an exit watcher beside a worker: a small process that sees this one end, and certifies its instances within milliseconds.

Without it lost connections tell of the end, after ``lost_connection_after``. The watcher has a process group of its own and is no
child of this process. It is told over a socket what to send where (`coordinator.worker.exit_program`), so that no secret stands in
its arguments or environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import structlog

from coordinator import clock
from coordinator.forked import in_a_child, let_go_of
from coordinator.policy import backoff
from coordinator.printable import printable, told
from coordinator.store import calls
from coordinator.store.endpoint import Endpoint
from coordinator.store.executor import StorePartition

__all__ = ["ExitWatcher", "why_unable"]

log = structlog.get_logger()

PROGRAM = Path(__file__).with_name("exit_program.py")
LOOK_SECONDS = 1.0
"""Pause between two looks at whether a partition is served by another server, or with another password."""
STEADY_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0
PASSED_ON = ("LD_LIBRARY_PATH", "PYTHONHOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "OPENSSL_MODULES")
"""All that a Python interpreter and its TLS may need of the environment; anything else may be a secret."""
MOST_BYTES = 4096
CONSEQUENCE = "lost connections tell of its end"

START_SECONDS = 10.0
BY = "exit watcher"


def why_unable() -> str:
    """Why no other process can see this one end and tell of it; '' when one can."""
    if not hasattr(os, "pidfd_open"):
        return "this system has no pidfd"
    if os.getpid() == 1:
        return (
            "this is process 1 of its container, with which every process there ends; a sidecar, coordinator supervise "
            "or shareProcessNamespace sees its end"
        )
    if not sys.executable or getattr(sys, "frozen", False) or not PROGRAM.is_file():
        return "there is no Python interpreter to start it with"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open is refused: {error.strerror}"
    return ""


class ExitWatcher:
    """The exit watcher of one worker. Its methods raise nothing: a worker lives without it, too.

    Args:
        instances: returns each partition, with the worker's present id there.
    """

    def __init__(self, instances: Callable[[], Sequence[tuple[StorePartition, str]]]) -> None:
        self._instances = instances
        self._process = os.getpid()
        self._changed = anyio.Event()
        self._control: socket.socket | None = None
        self._servers: list[dict[str, Any]] = []
        self._ids: list[str] = []
        self._watched: list[str] = []
        self._told = ""

    @classmethod
    def where_it_works(cls, instances: Callable[[], Sequence[tuple[StorePartition, str]]]) -> ExitWatcher | None:
        """An exit watcher; None where it could not help, which is logged."""
        if reason := why_unable():
            log.info("exit_not_watched", by=BY, reason=reason, consequence=CONSEQUENCE)
            return None
        return cls(instances)

    def changed(self) -> None:
        """The worker has another id, or is registered in another partition."""
        self._changed.set()

    async def run(self) -> None:
        """Starts it, and again when it ends, until cancelled. A child that this process forks starts none."""
        failures = 0
        while os.getpid() == self._process:
            began = clock.now()
            try:
                await self._inform(await self._start())
                self._not_watched("it ended, and is started again")
            except Exception as error:  # noqa: BLE001 - a worker lives without it, too
                self._not_watched(told(error))
            self._hang_up()
            failures = 0 if clock.now() - began > STEADY_SECONDS else failures + 1
            await anyio.sleep(backoff(failures, random.random(), most=LONGEST_PAUSE_SECONDS))  # noqa: S311 - jitter

    def left(self) -> None:
        """Says good-bye: the worker has ended, and its process need not be watched any more. Safe to repeat."""
        if self._control is not None and os.getpid() == self._process:
            with contextlib.suppress(OSError):
                self._control.send(b'{"bye": true}\n')
        self._hang_up()

    def _hang_up(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()

    def _not_watched(self, reason: str) -> None:
        if not self._told:  # else it is the same in other words
            log.warning("exit_not_watched", by=BY, reason=reason, consequence=CONSEQUENCE)
        self._told, self._watched = reason, []

    def _is_watched(self) -> None:
        if self._watched != self._ids:
            # After trouble it is news; else it is as it should be.
            (log.info if self._told else log.debug)("exit_watched", by=BY, instances=self._ids)
        self._told, self._watched = "", self._ids

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            in_a_child(end, let_go_of)
        ours.setblocking(False)
        self._control = ours
        await anyio.to_thread.run_sync(_start, theirs, abandon_on_cancel=True)  # a slow interpreter holds up no worker
        return ours

    async def _inform(self, control: socket.socket) -> None:
        """Tells it what to certify where, and again when that changes. Returns when it has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, control, tasks.cancel_scope)
            before: list[Any] = []
            while True:
                self._changed = anyio.Event()
                at = [(part.executor.endpoint, part, instance) for part, instance in self._instances()]
                known = [(endpoint, part, instance) for endpoint, part, instance in at if endpoint is not None]
                if known != before:
                    before = known
                    self._servers, self._ids = _servers(known), [instance for _, _, instance in known]
                    said = json.dumps({"servers": self._servers}).encode() + b"\n"
                    await asyncio.get_running_loop().sock_sendall(control, said)
                with anyio.move_on_after(LOOK_SECONDS):
                    await self._changed.wait()

    async def _listen(self, control: socket.socket, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(OSError):
            while said := await asyncio.get_running_loop().sock_recv(control, MOST_BYTES):
                told_last = json.loads(said.splitlines()[-1])
                connected = told_last["connected"]
                if connected < len(self._servers):
                    why = printable(str(told_last.get("why", "")))
                    self._not_watched(f"it reaches {connected} of {len(self._servers)} servers: {why}")
                elif len(self._ids) == len(self._instances()):  # else some partitions are not connected yet
                    self._is_watched()
        scope.cancel()


def _servers(known: Sequence[tuple[Endpoint, StorePartition, str]]) -> list[dict[str, Any]]:
    """What the program is told: each server once, with the certificates that it is to be sent."""
    servers: list[dict[str, Any]] = []
    for endpoint, part, instance in known:
        place = endpoint.described()
        server = next((one for one in servers if place.items() <= one.items()), None)
        if server is None:
            servers.append(server := {**place, "certificates": []})
        call = calls.certify(part.keys, instance=instance, cause="exited", by=BY, reason="")
        words = [word.decode() if isinstance(word, bytes) else str(word) for word in call.eval()]
        server["certificates"].append(
            {"words": words, "server_at": call.place("server"), "reason_at": call.place("reason")}
        )
    return servers


def _start(control: socket.socket) -> None:
    """Starts the program, and closes its end of the socket here; returns when it has left this process's children.

    Raises:
        OSError, subprocess.SubprocessError: it could not be started.
    """
    with control:
        started = _begin(control)
    try:
        started.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
        raise


def _begin(control: socket.socket) -> subprocess.Popen[bytes]:
    pidfd = os.pidfd_open(os.getpid())
    try:
        arguments = [str(number) for number in (os.getpid(), pidfd, control.fileno())]
        return subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", str(PROGRAM), *arguments],
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            pass_fds=(pidfd, control.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(pidfd)
