"""A sidecar that answers whatever a test says, on a unix socket and on loopback, for workers that have to live with it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

__all__ = ["Behaviour", "FakeSidecar", "Request", "cut", "fake_sidecar", "hang", "raw", "reply", "slow", "trickle"]

INSTANCE, TOKEN = "fake~{}", "token-{}"
TRUST_MS = 600
BEAT_SECONDS = 0.1
OPERATIONS = {
    "register": ("POST", r"/v1/workers"),
    "stream": ("GET", r"/v1/workers/[^/]+/events"),
    "alive": ("POST", r"/v1/workers/[^/]+/alive"),
    "sessions": ("GET", r"/v1/workers/[^/]+/sessions"),
    "open": ("PUT", r"/v1/sessions/[^/]+"),
    "close": ("DELETE", r"/v1/sessions/[^/]+"),
    "checkpoint": ("PUT", r"/v1/sessions/[^/]+/checkpoint"),
    "adopt": ("POST", r"/v1/sessions/[^/]+/adopt"),
    "release": ("POST", r"/v1/sessions/[^/]+/release"),
    "resumed": ("POST", r"/v1/sessions/[^/]+/resumed"),
    "let_go": ("POST", r"/v1/sessions/[^/]+/let-go"),
}


@dataclass(frozen=True)
class Request:
    """What was asked for, and when it had come."""

    operation: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float

    @property
    def session(self) -> str:
        return self.path.split("/")[3]

    @property
    def epoch(self) -> int:
        return int(self.headers["if-match"].strip('"'))


Behaviour = Callable[[socket.socket, Request], None]
"""Writes an answer to a connection, which is closed after it."""


def reply(status: int, document: Any = None, *, text: str = "", **headers: str) -> Behaviour:
    """An answer as it should be, of that status; ``text`` is a body that is no document."""
    body = (text or ("" if document is None else json.dumps(document))).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "", ""]).encode() + body)


def raw(data: bytes) -> Behaviour:
    """These bytes, whatever they are."""
    return lambda connection, _: connection.sendall(data)


def cut(behaviour: Behaviour, length: int) -> Behaviour:
    """The same, but the connection ends after so many bytes."""

    def answer(connection: socket.socket, request: Request) -> None:
        one, other = socket.socketpair()
        with one, other:
            behaviour(one, request)
            connection.sendall(other.recv(1 << 16)[:length])

    return answer


def slow(behaviour: Behaviour, seconds: float) -> Behaviour:
    """The same, later."""

    def answer(connection: socket.socket, request: Request) -> None:
        threading.Event().wait(seconds)
        behaviour(connection, request)

    return answer


def hang(connection: socket.socket, _: Request) -> None:
    """No answer, until whoever asks gives up."""
    connection.settimeout(60)
    while connection.recv(4096):
        pass


def trickle(connection: socket.socket, _: Request) -> None:
    """An answer that comes byte by byte, and never to its end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        threading.Event().wait(0.2)


class FakeSidecar:
    """Serves one worker, in good order where the test says nothing else.

    Attributes:
        path, port: where it listens.
        owned: sessions that are the worker's: epoch and recovery data.
        previous_owners: of sessions that were another instance's before.
        requests: all that came.
        without_token: those of them that a sidecar would not have answered, since they do not say who asks.
        trust_ms, alone_ms: what `hello`, pings and the answers to `alive` say.
        beating: whether pings are sent.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rc-fake-")
        self.path = str(Path(self._folder.name) / "sidecar.sock")
        self.owned: dict[str, tuple[int, Any]] = {}
        self.previous_owners: dict[str, str] = {}
        self.requests: list[Request] = []
        self.without_token: list[Request] = []
        self.trust_ms, self.alone_ms, self.beating = TRUST_MS, 0, True
        self._still = threading.Event()
        self._still.set()
        self._instances = 0
        self._answers: dict[str, list[Behaviour]] = defaultdict(list)
        self._always: dict[str, Behaviour] = {}
        self._events: list[bytes] = []
        self._streams = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(self.path)
        loopback = socket.socket()
        loopback.bind(("127.0.0.1", 0))
        self.port = int(loopback.getsockname()[1])
        self._listeners = [unix, loopback]
        for listener in self._listeners:
            listener.listen(128)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    # -- what a test says ----------------------------------------------------------------------------------------------

    def answer(self, operation: str, *behaviours: Behaviour) -> None:
        """The next requests are answered so, each once; after them all is well again."""
        self._answers[operation] += behaviours

    def always(self, operation: str, behaviour: Behaviour | None) -> None:
        """All further requests are answered so; None: well again."""
        if behaviour is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = behaviour

    def left(self, operation: str) -> int:
        """How many of these answers were not given yet."""
        return len(self._answers[operation])

    def say(self, *events: dict[str, Any] | bytes) -> None:
        """Events, or lines that are none, on the open stream."""
        with self._lock:
            self._events += [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in events]

    def stand_still(self) -> None:
        """It says nothing, and answers nothing."""
        self._still.clear()

    def go_on(self) -> None:
        """It does all that came meanwhile."""
        self._still.set()

    @property
    def waiting(self) -> int:
        """How much of that is not said yet."""
        return len(self._events)

    def end_stream(self) -> None:
        """The stream that is open ends."""
        self._streams += 1

    def of(self, operation: str, session: str = "") -> list[Request]:
        """Requests of that kind so far."""
        found = [r for r in list(self.requests) if r.operation == operation]
        return [r for r in found if r.session == session] if session else found

    def wait_for(self, operation: str, count: int = 1, session: str = "", timeout: float = 20) -> list[Request]:
        """The requests of a kind, as soon as there are so many."""
        wait_until(
            lambda: len(self.of(operation, session)) >= count, timeout, f"{count} requests {operation} {session}"
        )
        return self.of(operation, session)

    # -- serving -------------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        with connection, contextlib.suppress(OSError, ValueError):
            request = self._read(connection)
            self._still.wait()
            if request is not None:
                self.requests.append(request)
                if request.operation != "register" and not request.headers.get("worker-token"):
                    self.without_token.append(request)
                waiting = self._answers[request.operation]
                ordinary = self._always.get(request.operation) or getattr(self, f"_do_{request.operation}")
                behaviour = waiting.pop(0) if waiting else ordinary
                behaviour(connection, request)
        self._connections.discard(connection)

    @staticmethod
    def _read(connection: socket.socket) -> Request | None:
        file = connection.makefile("rb")
        words = file.readline().decode().split()
        if len(words) < 2:
            return None
        headers = {}
        while (line := file.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", ""):
            text = b""
            while size := int(file.readline(), 16):
                text += file.read(size)
                file.readline()
        else:
            text = file.read(int(headers.get("content-length", "0")))
        for name, (method, pattern) in OPERATIONS.items():
            if words[0] == method and re.fullmatch(pattern, words[1]):
                return Request(name, words[1], headers, json.loads(text) if text else None, time.time())
        raise ValueError(words)

    def _do_register(self, connection: socket.socket, request: Request) -> None:
        self._instances += 1
        self.owned.clear()
        known = {
            "instance": INSTANCE.format(self._instances),
            "worker_token": TOKEN.format(self._instances),
            "heartbeat_ms": 100,
        }
        reply(201, known)(connection, request)

    def _hello(self, request: Request) -> dict[str, Any]:
        return {
            "event": "hello",
            "instance": request.path.split("/")[3],
            "trust_ms": self.trust_ms,
            "alone_ms": self.alone_ms,
            "sessions": sorted(self.owned),
        }

    def _do_stream(self, connection: socket.socket, request: Request) -> None:
        self._streams += 1
        mine, number, beat = self._streams, 0, 0.0
        with self._lock:
            self._events.clear()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n\r\n"
        connection.sendall(head + _chunk(json.dumps(self._hello(request)).encode() + b"\n"))
        while self._streams == mine and not self._over.is_set():
            with self._lock:
                lines, self._events = self._events, []
            if self.beating and time.monotonic() > beat:
                number, beat = number + 1, time.monotonic() + BEAT_SECONDS
                lines.append(
                    json.dumps(
                        {"event": "ping", "ping": number, "trust_ms": self.trust_ms, "alone_ms": self.alone_ms}
                    ).encode()
                    + b"\n"
                )
            for line in lines:
                connection.sendall(_chunk(line))
            threading.Event().wait(0.005)
            self._still.wait()

    def _do_alive(self, connection: socket.socket, request: Request) -> None:
        reply(204, Trust_Ms=str(self.trust_ms), Alone_Ms=str(self.alone_ms))(connection, request)

    def session(self, session: str) -> dict[str, Any]:
        epoch, data = self.owned[session]
        shown = {"recovery_data": data} if isinstance(data, dict) else {"recovery_data_base64": "AA=="}
        before = self.previous_owners.get(session, "")
        return {"session": session, "epoch": epoch, "held": True, "may_speak": True, "previous_owner": before, **shown}

    def _do_sessions(self, connection: socket.socket, request: Request) -> None:
        reply(200, {"instance": "", "sessions": [self.session(s) for s in list(self.owned)]})(connection, request)

    def _do_open(self, connection: socket.socket, request: Request) -> None:
        known = request.session in self.owned
        self.owned.setdefault(request.session, (1000, request.body["recovery_data"]))
        reply(200 if known else 201, self.session(request.session))(connection, request)

    def _do_adopt(self, connection: socket.socket, request: Request) -> None:
        self.owned.setdefault(request.session, (2000, {"call_sid": request.session, "sequence": 7}))
        reply(200, self.session(request.session))(connection, request)

    def _do_checkpoint(self, connection: socket.socket, request: Request) -> None:
        reply(204 if request.session in self.owned else 412)(connection, request)

    def _do_close(self, connection: socket.socket, request: Request) -> None:
        found = self.owned.get(request.session)
        if found is not None and (request.epoch or found[0]) >= found[0]:
            del self.owned[request.session]
            reply(204)(connection, request)
        else:
            reply(412)(connection, request)

    _do_release = _do_close

    def _do_resumed(self, connection: socket.socket, request: Request) -> None:
        reply(204)(connection, request)

    _do_let_go = _do_resumed

    def close(self) -> None:
        self._over.set()
        self._still.set()
        for one in [*self._listeners, *self._connections]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._folder.cleanup()


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextmanager
def fake_sidecar() -> Iterator[FakeSidecar]:
    """One that ends with the test; each request but a registration has shown a worker's token."""
    made = FakeSidecar()
    try:
        yield made
        assert made.without_token == []
    finally:
        made.close()
