"""What the sidecar costs: ``python -m benchmarks.sidecar [streams]``.

The round trip of a checkpoint over its unix socket beside the library's direct call, in one run; and its memory, processor time and
connections with 1,000 open streams.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio

from coordinator import Worker
from coordinator.cli.figures import percentile
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar

DATA = {"call_sid": "CA0123456789", "sequence": 42, "note": "x" * 200}
ROUND_TRIPS = 2000
WATCH_SECONDS = 5.0


class Link:
    """Requests on one kept connection."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """One request; its answer may be left unread, as a stream's is."""
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(text)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + text)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and document of the answer."""
        self.send(method, path, body, **headers)
        status, size = int(self._file.readline().split()[1]), 0
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        text = self._file.read(size)
        return status, json.loads(text) if text else None

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def read(self) -> None:
        """Takes what is there."""
        self._socket.recv(65536, socket.MSG_DONTWAIT)


def figures(pid: int) -> tuple[float, float, int]:
    """Resident MB, seconds of processor time, threads."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    times = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
    return int(status["VmRSS"].split()[0]) / 1024, sum(map(int, times)) / 100, int(status["Threads"])


def round_trips(server: RedisServer, sidecar: Sidecar) -> None:
    """Checkpoints, one after the other, both ways in turn."""
    client = Client(sidecar.path)
    client.register("bench")
    stream = client.stream()
    epoch = client.open("over-http", DATA)
    link = Link(sidecar.path)
    headers = {"Worker_Token": client.token, "If_Match": f'"{epoch}"'}

    async def both() -> tuple[list[float], list[float]]:
        direct, over_http = [], []
        async with Worker(server.url, name="direct") as worker:
            session = await worker.open("direct", DATA)
            for _ in range(ROUND_TRIPS):
                began = time.perf_counter()
                await session.checkpoint(DATA)
                direct.append(time.perf_counter() - began)
                began = time.perf_counter()
                status, _ = link.ask("PUT", "/v1/sessions/over-http/checkpoint", {"recovery_data": DATA}, **headers)
                over_http.append(time.perf_counter() - began)
                assert status == 204, status  # noqa: S101 - else it is not what is measured
        return direct, over_http

    direct, over_http = anyio.run(both)
    for name, values in (("library", direct), ("sidecar", over_http)):
        p50, p99 = ((percentile(values, share) or 0.0) * 1000 for share in (0.5, 0.99))
        print(f"checkpoint by {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(f"ratio of the medians: {(percentile(over_http, 0.5) or 0) / (percentile(direct, 0.5) or 1):.1f}")
    stream.close()
    client.close()


def streams(server: RedisServer, sidecar: Sidecar, count: int) -> None:
    """So many workers with their streams open, read and not answered."""
    before, _, _ = figures(sidecar.process.pid)
    link, made = Link(sidecar.path), list[Link]()
    selector, over = selectors.DefaultSelector(), threading.Event()

    def read() -> None:
        while not over.is_set():
            for key, _ in selector.select(0.1):
                key.fileobj.read()  # type: ignore[union-attr]

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(count):
        status, known = link.ask("POST", "/v1/workers", {"name": f"w{n}"})
        assert status == 201, known  # noqa: S101
        one = Link(sidecar.path)
        one.send("GET", f"/v1/workers/{known['instance']}/events", Worker_Token=known["worker_token"])
        selector.register(one, selectors.EVENT_READ)
        made.append(one)
    _, began, _ = figures(sidecar.process.pid)
    time.sleep(WATCH_SECONDS)
    after, ended, threads = figures(sidecar.process.pid)
    clients: Any = server.client().info("clients")
    over.set()
    reader.join()
    print(
        f"{count} streams: {after:.0f} MB ({before:.0f} without, {(after - before) * 1024 / count:.0f} KB each), "
        f"{(ended - began) / WATCH_SECONDS * 100:.0f} % of a processor, {threads} threads, "
        f"{clients['connected_clients'] - 1} connections to Redis"
    )


def main(*arguments: str) -> None:
    """Prints the figures."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    server = RedisServer()
    try:
        for what in (round_trips, lambda s, c: streams(s, c, int(arguments[0]) if arguments else 1000)):
            sidecar = Sidecar(server, "--wedged-after", "60s")
            what(server, sidecar)
            sidecar.process.close()
            sidecar.close()
    finally:
        server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
