"""Connections that mean no good, or are just slow."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordinator.sidecar.server import SidecarProtocol, when_closed
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

Make = Callable[..., Client]


@pytest.fixture
def connect(sidecar: Sidecar) -> Iterator[Callable[[], socket.socket]]:
    """Raw connections to the unix socket."""
    made: list[socket.socket] = []

    def open_one() -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made[-1].settimeout(20)
        made[-1].connect(sidecar.path)
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def rest(connection: socket.socket) -> bytes:
    """All that comes until it is closed."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def test_slow_requests_are_cut_off(connect: Callable[[], socket.socket], worker: Make) -> None:
    """A head or a body that never comes to its end is closed after a while; meanwhile others are served."""
    head, body, nothing = connect(), connect(), connect()
    head.sendall(b"GET /v1/drain HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    body.sendall(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert worker()("GET", "/v1/drain").status_code == 200
    assert rest(head) == b""
    assert b" 201 " not in rest(body)
    assert rest(nothing) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"y" * 70_000 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
        b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /v1/drain HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ],
    ids=["big head", "no http", "tls", "negative length", "bad chunk", "two hosts"],
)
def test_what_is_no_request_is_refused(connect: Callable[[], socket.socket], worker: Make, request_: bytes) -> None:
    """400 or a closed connection, and the sidecar goes on."""
    connection = connect()
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(request_)
    answer = rest(connection)
    assert not answer or answer.split()[1] in (b"400", b"431")
    assert worker()("GET", "/v1/drain").status_code == 200


def test_a_body_without_end_is_not_kept(connect: Callable[[], socket.socket], worker: Make) -> None:
    """Chunk after chunk: 413 as soon as it is too large."""
    connection = connect()
    connection.sendall(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(200):
            connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
    assert rest(connection).split()[1] == b"413"
    assert worker()("GET", "/v1/drain").status_code == 200


def test_pipelined_requests_are_answered_in_order(connect: Callable[[], socket.socket]) -> None:
    """Several requests in one go."""
    connection = connect()
    paths = [b"/v1/drain", b"/v1/nothing", b"/healthz", b"/v1/sessions/never"]
    connection.sendall(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths[:-1]))
    connection.sendall(b"GET " + paths[-1] + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = rest(connection)
    found = [part.split()[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert found == [b"200", b"404", b"200", b"404"]


def test_half_closed_connections_do_no_harm(connect: Callable[[], socket.socket], worker: Make) -> None:
    """The client says that it sends no more: an answer or an end, and no trace in the log."""
    for _ in range(20):
        connection = connect()
        connection.sendall(b"GET /v1/offers?wait=1s HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        rest(connection)
    assert worker()("GET", "/v1/drain").status_code == 200


def test_requests_that_are_given_up_leave_nothing(connect: Callable[[], socket.socket], worker: Make) -> None:
    """Long polls whose clients went away end with them: the worker that they were for is not kept alive by them."""
    client = worker("giveup-1")
    for _ in range(10):
        connection = connect()
        request = f"GET /v1/offers?wait=60s HTTP/1.1\r\nHost: x\r\nWorker-Token: {client.token}\r\n\r\n"
        connection.sendall(request.encode())
        connection.close()
    wait_until(lambda: client("GET", f"/v1/workers/{client.instance}/sessions").status_code == 410, 15)


def test_only_names_of_loopback_are_hosts(sidecar: Sidecar) -> None:
    """Over TCP a foreign Host header, as of a page that rebinds its name, is refused."""
    for host, status in (
        ("localhost", b"200"),
        (f"127.0.0.1:{sidecar.http_port}", b"200"),
        ("evil.example", b"421"),
        ("", b"421"),
    ):
        with socket.create_connection(("127.0.0.1", sidecar.http_port), timeout=10) as connection:
            connection.sendall(f"GET /openapi.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert rest(connection).split()[1] == status, host


def test_who_asks_late_is_told_at_once() -> None:
    """A connection that ended before anybody asked: the answer is not waited for, and so a dead worker is not kept alive."""
    told: list[str] = []
    scope: dict[str, Any] = {"state": {}}
    protocol = SidecarProtocol.__new__(SidecarProtocol)
    when_closed(scope, lambda: told.append("early"))
    assert told == []
    protocol.scope = scope  # type: ignore[assignment]
    protocol.tell_closed()
    when_closed(scope, lambda: told.append("late"))
    assert told == ["early", "late"]


def test_white_space_is_no_document(connect: Callable[[], socket.socket]) -> None:
    """An empty body stands for an empty object; one of white space is no JSON: 400."""
    connection = connect()
    connection.sendall(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\n")
    assert rest(connection).split()[1] == b"400"
