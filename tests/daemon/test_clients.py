"""Clients that mean no good at a coordinator's HTTP port."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.waiting import wait_until

FILES = 300


@pytest.fixture
def narrow(redis_server: RedisServer, url: str, tmp_path: Path) -> Iterator[Process]:
    """A coordinator that may have few files open."""
    made = Process(
        program=[
            "sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"', sys.executable, "-m", "coordinator", "run",
            "--redis-url", url, "--http-port", "0", "--log-format", "json",
        ],
        STDERR=str(tmp_path / "log"),
    )  # fmt: skip
    wait_until(lambda: said(made, "coordinator_started"), 20)
    yield made
    made.close()


def said(process: Process, event: str) -> list[dict[str, Any]]:
    return [found for line in process.errors().splitlines() if (found := json.loads(line))["event"] == event]


def get(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := one.recv(65536):
                found += part
    return found


@pytest.mark.parametrize("text", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX"], ids=["silent", "slow"])
def test_health_is_answered_beside_more_connections_than_files(narrow: Process, text: bytes) -> None:
    """Health, readiness and metrics are answered, scans go on, the log stays small, and files are left for the store."""
    port = int(said(narrow, "coordinator_started")[0]["http"].rpartition(":")[2])
    made: list[socket.socket] = []

    def last_scan() -> float:
        for line in get(port, "/metrics").decode().splitlines():
            if line.startswith("recovery_last_scan_timestamp_seconds{"):
                return float(line.split()[1])
        return 0.0

    try:
        wait_until(lambda: get(port, "/readyz").startswith(b"HTTP/1.1 200"), 20)
        for _ in range(2 * FILES):
            one = socket.create_connection(("127.0.0.1", port), timeout=20)
            made.append(one)
            with contextlib.suppress(ConnectionError):
                one.sendall(text)
        assert get(port, "/healthz").startswith(b"HTTP/1.1 200")
        before = last_scan()
        wait_until(lambda: last_scan() > before, 20)
        assert get(port, "/readyz").startswith(b"HTTP/1.1 200")
        assert len(list(Path(f"/proc/{narrow.pid}/fd").iterdir())) < FILES - 50
        assert len(said(narrow, "clients_bounded")) in (1, 2)
        assert len(narrow.errors()) < 10_000
    finally:
        for one in made:
            one.close()


def test_no_address_is_made_from_a_clients_host(narrow: Process) -> None:
    """A path with a slash too many is not found: it leads to no other place."""
    port = int(said(narrow, "coordinator_started")[0]["http"].rpartition(":")[2])
    assert get(port, "/healthz/").startswith(b"HTTP/1.1 404")
