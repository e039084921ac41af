"""Clients that mean no good beside a healthy worker: at a sidecar with few files, so that few of them are enough."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from coordinator.settings import load
from coordinator.sidecar.access import SidecarAccess
from coordinator.sidecar.app import App
from coordinator.sidecar.routing import Table
from coordinator.sidecar.server import ROOMS, kind_of
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

FILES = 420
"""A quarter of it is more than a listener has room for idle connections."""
HEAD = b"GET /v1/drain HTTP/1.1\r\nHost: localhost\r\n"
BODY = b"POST /v1/workers/x~1/alive HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def narrow(server: RedisServer) -> Iterator[Sidecar]:
    """The sidecar; its worker's stream is the proof that the worker lives."""
    made = Sidecar(server, "--api-token", "one", "--drain-port", "0", files=FILES)
    yield made
    made.close()


@pytest.fixture
def crowd(narrow: Sidecar) -> Iterator[Callable[..., list[socket.socket]]]:
    """Opens so many connections over TCP or the unix socket that say so much."""
    made: list[socket.socket] = []

    def open_them(count: int, text: bytes = b"", port: int = 0, path: str = "") -> list[socket.socket]:
        found = []
        for _ in range(count):
            one = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
            one.settimeout(20)
            made.append(one)
            one.connect(path or ("127.0.0.1", port or narrow.http_port))
            with contextlib.suppress(ConnectionError):
                one.sendall(text)
            found.append(one)
        return found

    yield open_them
    for one in made:
        one.close()


def ask(port: int, request: bytes) -> bytes:
    """The answer to a request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        one.sendall(request + b"Connection: close\r\n\r\n")
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := one.recv(65536):
                found += part
    return found


def healthy(sidecar: Sidecar) -> bool:
    return ask(sidecar.http_port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("text", [b"", HEAD, BODY], ids=["silent", "slow head", "slow body"])
@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_healthy_worker_keeps_its_call(
    narrow: Sidecar, crowd: Callable[..., list[socket.socket]], over: str, text: bytes
) -> None:
    """More connections than there is room for, that never ask: health, pings, requests and the stream go on, on every listener."""
    client = Client(narrow.path)
    name = f"voice-{over}-{len(text)}"
    with contextlib.closing(client):
        assert client.register(name).status_code == 201
        stream = client.stream()
        stream.wait_for("ping")
        epoch = client.open(f"call-{name}", {"n": 1})
        pings = len(stream.told("ping"))
        for round_ in range(5):
            crowd(FILES // 2, text, path=narrow.path if over == "unix" else "")
            assert healthy(narrow)
            checkpoint = partial(
                client,
                "PUT",
                f"/v1/sessions/call-{name}/checkpoint",
                {"recovery_data": {"n": round_}},
                If_Match=f'"{epoch}"',
            )
            try:
                answer = checkpoint()
            except httpx.RemoteProtocolError:  # its connection was between two requests when room was made
                answer = checkpoint()
            assert answer.status_code == 204
        stream.wait_for("ping", pings + 4)
        assert not any(stream.told(kind) for kind in ("lost", "ended", "joined"))
        files = len(list(Path(f"/proc/{narrow.process.pid}/fd").iterdir()))
        assert files < FILES
    assert narrow.process.alive


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/healthz", "health"),
        ("/readyz?x", "health"),
        ("/v1/workers/voice-1~01/alive", "alive"),
        ("/v1/workers/voice-1~01/events", "streams"),
        ("/v1/workers/voice-1~01/sessions", "requests"),
        ("/v1/offers?wait=25s&max=2", "waits"),
        ("/v1/offers?WAIT=25s", "waits"),
        ("/v1/offers?%57%61it=25s", "waits"),
        ("/v1/offers?max=2", "requests"),
        ("/v1/sessions/alive/adopt?max=1&wait=3s", "waits"),
        ("/v1/sessions/alive", "requests"),
        ("/v1/sessions/events", "requests"),
        ("/v1/drain?wait=1", "drains"),
        ("/v1/watched/line", "lines"),
        ("/v1/watched", "requests"),
        ("/v1/workers", "requests"),
        ("/metrics", "requests"),
    ],
)
def test_each_request_has_its_kind(target: str, kind: str) -> None:
    """What keeps a worker alive, what waits, and what may take long do not share a room."""
    path, _, query = target.encode().partition(b"?")
    assert kind_of({"raw_path": path, "query_string": query}) == kind
    assert kind in ROOMS


def test_long_polls_take_no_room_from_others(narrow: Sidecar, crowd: Callable[..., list[socket.socket]]) -> None:
    """When as many wait as may, one more is told to ask again; health, pings and plain requests are answered."""
    client = Client(narrow.path)
    with contextlib.closing(client):
        assert client.register("polled", pid=os.getpid()).status_code == 201
        poll = f"GET /v1/offers?wait=60s HTTP/1.1\r\nHost: localhost\r\nWorker-Token: {client.token}\r\n".encode()

        def full() -> bool:
            crowd(20, poll + b"\r\n")
            with socket.create_connection(("127.0.0.1", narrow.http_port), timeout=0.2) as one:
                one.sendall(poll + b"\r\n")
                with contextlib.suppress(TimeoutError):
                    answer = one.recv(4096)
                    assert answer.startswith(b"HTTP/1.1 503"), answer
                    assert b"\r\nretry-after: " in answer.lower()
                    return True
            return False

        wait_until(full, 20)
        assert healthy(narrow)
        alive = client("POST", f"/v1/workers/{client.instance}/alive")
        assert alive.status_code == 204
        assert client("GET", f"/v1/workers/{client.instance}/sessions").status_code == 200


def test_one_worker_leaves_others_half_of_each_room(narrow: Sidecar, crowd: Callable[..., list[socket.socket]]) -> None:
    """It is told to ask again when it polls as often as one may; another worker's polls wait, and are answered."""
    greedy, modest = Client(narrow.path), Client(narrow.path)
    with contextlib.closing(greedy), contextlib.closing(modest):
        for name, client in (("greedy", greedy), ("modest", modest)):
            assert client.register(name, pid=os.getpid()).status_code == 201
        poll = f"GET /v1/offers?wait=60s HTTP/1.1\r\nHost: localhost\r\nWorker-Token: {greedy.token}\r\n".encode()

        def refused() -> bool:
            one = crowd(1, poll + b"\r\n", path=narrow.path)[0]  # where the other worker asks, too
            one.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                answer = one.recv(4096)
                assert answer.startswith(b"HTTP/1.1 503"), answer
                assert b"\r\nretry-after: " in answer.lower()
                return True
            return False

        wait_until(refused, 60)
        assert refused(), "what was refused has made no room"
        for _ in range(3):
            assert modest("GET", "/v1/offers?wait=100ms").status_code == 200
        assert greedy("GET", "/v1/offers").status_code == 200, "what does not wait has another room"


def test_the_hook_is_answered_beside_a_crowd(narrow: Sidecar, crowd: Callable[..., list[socket.socket]]) -> None:
    """Idle connections at its own port or at the others leave preStop its room."""
    crowd(FILES // 2, HEAD, narrow.drain_port)
    crowd(FILES // 2, HEAD)
    answer = ask(narrow.drain_port, b"GET /prestop HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n")
    assert answer.startswith(b"HTTP/1.1 401")


def test_one_line_of_log_for_all_of_them(narrow: Sidecar, crowd: Callable[..., list[socket.socket]]) -> None:
    """What clients cause is logged once for each kind and listener, and then counted."""
    crowd(FILES // 2)
    lines = [json.loads(line) for line in narrow.log.read_text().splitlines()]
    said = [(line["listener"], line["why"]) for line in lines if line["event"] == "clients_bounded"]
    assert said
    assert len(lines) < 60
    assert "Traceback" not in narrow.log.read_text()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"PUT /v1/sessions/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET /v1/drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n", 403),
        (b"GET /v1/drain HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nAuthorization: Bearer one\r\n", 403),
    ],
    ids=["both lengths", "origin", "origin with a token"],
)
def test_what_hides_a_request_or_comes_from_a_page_is_refused(narrow: Sidecar, head: bytes, status: int) -> None:
    """At the interface and at the hook alike, also with a token."""
    for port in (narrow.http_port, narrow.drain_port):
        answer = ask(port, head)
        assert int(answer.split()[1]) == status
        assert b"application/problem+json" in answer


async def test_a_defect_that_each_request_meets_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """All are counted, and the log has one traceback."""

    async def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    registry = CollectorRegistry()
    failures = Counter("recovery_sidecar_failures", "x", ["operation"], registry=registry)
    access = SidecarAccess(load(redis_url="redis://x"))
    nobody: Any = None  # no operation is asked for, so no gate is
    app = App(Table(), access, nobody, broken, 100, failures)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message.get("status", 500))

    scope: Any = {"type": "http", "method": "GET", "raw_path": b"/healthz", "headers": []}
    for _ in range(50):
        await app(scope, broken, send)
    assert set(sent) == {500}
    assert registry.get_sample_value("recovery_sidecar_failures_total", {"operation": "unknown"}) == 50
    assert capsys.readouterr().out.count("request_failed") == 1
