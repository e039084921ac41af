"""A sidecar that coordinates too, as a process, with a Redis of its own; one for the tests of a file."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.redis_users import as_user
from tests.sidecar.client import Client
from tests.waiting import wait_until


class Sidecar:
    """The process, where it listens, and the server that it uses, as its own user.

    Args:
        server: or its URL.
        files: that it may have open; default as many as this process.
        ready: wait until it is.
        program: the module that is started.
    """

    def __init__(
        self,
        server: RedisServer | str,
        *flags: str,
        path: str = "",
        files: int = 0,
        ready: bool = True,
        program: str = "coordinator",
    ) -> None:
        store = server if isinstance(server, str) else server.url
        url = as_user(store, "coordinating-sidecar" if "--coordinate" in flags else "worker")
        self._folder = tempfile.TemporaryDirectory(prefix="rc-sidecar-")
        self.path = path or str(Path(self._folder.name) / "sidecar.sock")
        self.log = Path(self._folder.name) / "log"
        command = [
            sys.executable, "-m", program, "sidecar", "--redis-url", url, "--http-port", "0",
            "--http-socket", self.path, "--log-format", "json", "--drain-timeout", "2s", *flags,
        ]  # fmt: skip
        if files:
            command = ["sh", "-c", f'ulimit -n {files}; exec "$0" "$@"', *command]
        self.process = Process(program=command, STDERR=str(self.log))
        client = Client(self.path)
        with contextlib.closing(client):
            wait_until(self._listens, 20, "the sidecar listens")
            if ready:
                wait_until(lambda: client("GET", "/readyz").status_code == 200, 20, "the sidecar is ready")

    def _started(self) -> dict[str, Any]:
        for line in self.log.read_text().splitlines():
            if '"sidecar_started"' in line:
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError("it has not started")

    @property
    def http_port(self) -> int:
        """Of loopback."""
        return int(self._started()["http"].rpartition(":")[2])

    @property
    def drain_port(self) -> int:
        """Of the hook."""
        return int(self._started()["drain_port"])

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:  # httpx would leak those that are refused
            return probe.connect_ex(self.path) == 0

    def close(self) -> None:
        if self.process.alive:
            self.process.send(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not self.process.alive, 10)
        self.process.close()
        self._folder.cleanup()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """The Redis of this file's tests."""
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sidecar(server: RedisServer) -> Iterator[Sidecar]:
    """One sidecar for all tests of a file, which kill many; the hold at its start is over."""
    made = Sidecar(server, "--coordinate", "--breaker-min", "1000", "--api-token", "one,two", "--drain-port", "0")
    with contextlib.closing(Client(made.path)) as client:
        wait_until(lambda: "hold_reason" not in client("GET", "/").text, 10)
    yield made
    made.close()


@pytest.fixture
def worker(sidecar: Sidecar) -> Iterator[Callable[[str], Client]]:
    """Makes clients that are closed at the end."""
    made: list[Client] = []

    def make(name: str = "", **fields: object) -> Client:
        made.append(Client(sidecar.path))
        if name:
            assert made[-1].register(name, **fields).status_code == 201
        return made[-1]

    yield make
    for client in made:
        client.close()
