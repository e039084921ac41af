"""Raw sockets against a sidecar and a coordinator; `make fuzz` sends thousands of connections."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from typing import Any

import pytest

from tests.acceptance.processes import Process
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.web.programs import port_of, resident_mb
from tests.web.requests_made import made

EXAMPLES = int(os.environ.get("RAW_EXAMPLES", "500"))
SECONDS = 30.0
"""After which an answer, or the end of a connection that says no more, is a hang: requests have ten."""
HEADS = re.compile(rb"(?:^|\n)HTTP/1\.1 (\d{3}) .*?\r\n\r\n", re.DOTALL)
GROWTH_MB = 60


def said_to(seed: int, connection: socket.socket) -> bytes:
    """All that is answered to what the seed makes."""
    sent, found = made(seed), b""
    connection.settimeout(SECONDS)
    with contextlib.suppress(ConnectionError):  # it may be closed in the middle; what was answered is read all the same
        for part in sent.parts:
            connection.sendall(part)
    with contextlib.suppress(ConnectionError):
        if sent.ends == "waits":
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                found += connection.recv(65536)
            connection.settimeout(SECONDS)
        if sent.ends == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return found
        with contextlib.suppress(OSError):  # closed by the other side: there is no way left to say it
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            found += part
    return found


def connect(where: Any) -> socket.socket:
    found = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    found.settimeout(SECONDS)
    found.connect(where)
    return found


def sends(where: Any, seeds: range) -> set[int]:
    """Sends them all; the statuses that were answered. No server's error is among them, and nothing hangs."""
    statuses = set()
    for seed in seeds:
        with connect(where) as connection:
            try:
                answer = said_to(seed, connection)
            except TimeoutError:
                pytest.fail(f"seed {seed}: nothing came for {SECONDS:g} s, to {made(seed)}")
        for head in HEADS.finditer(answer):
            status = int(head[1])
            statuses.add(status)
            allowed = status < 500 or (status == 503 and b"\r\nretry-after: " in head[0].lower())
            assert allowed, f"seed {seed}: {head[0]!r} to {made(seed)}"
    return statuses


def looks_well(where: Any) -> None:
    with connect(where) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("which", ["tcp", "unix"])
def test_no_bytes_harm_a_sidecar(sidecar: Sidecar, which: str) -> None:
    """Whatever comes is answered, or closed: no server's error, no hang, no defect, no memory kept; a worker keeps its call."""
    client = Client(sidecar.path)
    with contextlib.closing(client):
        assert client.register(f"voice-{which}", pid=os.getpid()).status_code == 201
        epoch = client.open(f"call-{which}", {"n": 1})
        where: Any = ("127.0.0.1", sidecar.http_port) if which == "tcp" else sidecar.path
        sends(where, range(20))
        before = resident_mb(sidecar.process.pid)
        statuses = sends(where, range(20, 20 + EXAMPLES))
        assert statuses >= {200, 400, 404}
        looks_well(where)
        assert resident_mb(sidecar.process.pid) - before < GROWTH_MB
        checkpoint = client(
            "PUT", f"/v1/sessions/call-{which}/checkpoint", {"recovery_data": {"n": 2}}, If_Match=f'"{epoch}"'
        )
        assert checkpoint.status_code == 204
        failures = [
            line
            for line in client("GET", "/metrics").text.splitlines()
            if line.startswith("recovery_sidecar_failures_total{")
        ]
        assert failures == []
    assert sidecar.process.alive
    assert "Traceback" not in sidecar.log.read_text()


@pytest.mark.timeout(1800)
def test_no_bytes_harm_the_hook(sidecar: Sidecar) -> None:
    """The same at the drain port, where every answer without a token is 401 or 400, 403 at most."""
    statuses = sends(("127.0.0.1", sidecar.drain_port), range(EXAMPLES // 2))
    assert statuses <= {100, 400, 401, 403, 431}
    assert sidecar.process.alive
    assert "Traceback" not in sidecar.log.read_text()


@pytest.mark.timeout(1800)
def test_no_bytes_harm_a_coordinator(daemon: Process) -> None:
    """The same at its health, metrics and status page."""
    where = ("127.0.0.1", port_of(daemon.errors()))
    sends(where, range(20))
    before = resident_mb(daemon.pid)
    assert sends(where, range(20, 20 + EXAMPLES)) >= {200, 400, 404}
    looks_well(where)
    assert resident_mb(daemon.pid) - before < GROWTH_MB
    assert daemon.alive
    assert "Traceback" not in daemon.errors()
