"""What clients that mean no good can take: ``python -m benchmarks.clients [idle] [slow] [opened a second]``.

A sidecar with a worker, and a coordinator; then to each of them in turn 10,000 connections that say nothing and 2,000
that say a byte a second, opened again when they are closed. Meanwhile `/healthz` and the worker's requests are timed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.sidecar import figures
from coordinator.cli.figures import percentile
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

IDLE, SLOW, A_SECOND = 10_000, 2_000, 2_000
WATCH_SECONDS = 20.0
SLOW_HEAD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def attack(port: int, idle: int, slow: int, a_second: int) -> None:
    """Keeps so many connections open until it is killed; says once a second how many there are, and how many it opened."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    selector, opened = selectors.EpollSelector(), 0
    silent, talking = set[socket.socket](), set[socket.socket]()
    began = told = time.monotonic()
    while True:
        while len(silent) + len(talking) < idle + slow and opened < a_second * (time.monotonic() - began):
            one = socket.socket()
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
            opened += 1
            selector.register(one, selectors.EVENT_READ)
            if len(talking) < slow:
                talking.add(one)
                with contextlib.suppress(OSError):
                    one.send(SLOW_HEAD)
            else:
                silent.add(one)
        for key, _ in selector.select(0.01):  # nobody has anything to say to them: they were closed
            gone: Any = key.fileobj
            selector.unregister(gone)
            silent.discard(gone)
            talking.discard(gone)
            gone.close()
        if time.monotonic() - told > 1:
            told = time.monotonic()
            for one in talking:
                with contextlib.suppress(OSError):
                    one.send(b"y")
            print(json.dumps({"open": len(silent) + len(talking), "opened": opened}), flush=True)


class Timed:
    """How long something takes, again and again."""

    def __init__(self, what: str, ask: Any) -> None:
        self.what, self._ask = what, ask
        self.seconds: list[float] = []
        self.failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            began = time.perf_counter()
            try:
                self._ask()
            except (OSError, AssertionError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            self.seconds.append(time.perf_counter() - began)

    def stop(self) -> str:
        """The figures."""
        self._over.set()
        self._thread.join()
        p50, p99 = ((percentile(self.seconds, share) or 0.0) * 1000 for share in (0.5, 0.99))
        text = f"{self.what}: {len(self.seconds)} asked, p50 {p50:.1f} ms, p99 {p99:.0f} ms, longest {max(self.seconds) * 1000:.0f} ms"
        return text + (f", {len(self.failed)} FAILED ({self.failed[0]})" if self.failed else ", none failed")


def over_tcp(port: int, path: str, **headers: str) -> None:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        assert answer.status == 200, answer.status  # noqa: S101 - else it is a failure
        answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def under(port: int, pid: int, counts: list[int]) -> Iterator[None]:
    """With such clients at a port; prints what they did to the process."""
    before, began, _ = figures(pid)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clients", "attack", str(port), *map(str, counts)], stdout=subprocess.PIPE
    ) as crowd:
        try:
            yield
        finally:
            crowd.kill()
            assert crowd.stdout is not None  # noqa: S101
            lines = crowd.stdout.read().splitlines()
    last = json.loads(lines[-1]) if lines else {}
    after, ended, _ = figures(pid)
    print(
        f"  {last.get('opened')} connections opened, {last.get('open')} open at the end: {after - before:+.0f} MB "
        f"({before:.0f} before), {(ended - began) / WATCH_SECONDS * 100:.0f} % of a processor"
    )


def main(*arguments: str) -> None:
    """Prints the figures."""
    counts = [int(text) for text in arguments] + [IDLE, SLOW, A_SECOND][len(arguments) :]
    server = RedisServer()
    sidecar = Sidecar(server)
    daemon = Process(
        "coordinator",
        "run",
        "--redis-url",
        server.url,
        "--http-port",
        "0",
        "--log-format",
        "json",
        STDERR=f"{sidecar.log}.daemon",
    )
    client = Client(sidecar.path)
    try:
        client.register("voice-1")
        stream = client.stream()
        stream.wait_for("ping")
        client.open("call", {"sequence": 1})
        sessions, port = f"/v1/workers/{client.instance}/sessions", sidecar.http_port
        print(f"{counts[0]} idle and {counts[1]} slow connections at the sidecar's port, {counts[2]} opened a second")
        timed = [
            Timed("/healthz", lambda: over_tcp(port, "/healthz")),
            Timed(
                "the worker's requests at the same port", lambda: over_tcp(port, sessions, Worker_Token=client.token)
            ),
            Timed("the worker's requests over the unix socket", lambda: client("GET", sessions).raise_for_status()),
        ]
        with under(port, sidecar.process.pid, counts):
            time.sleep(WATCH_SECONDS)
            for one in timed:
                print(f"  {one.stop()}")
        told = [one for kind in ("lost", "in_doubt", "ended", "joined") for one in stream.told(kind)]
        print(
            f"  the worker {'lives' if not told else f'was told {told}'}; the log has {sidecar.log.stat().st_size} bytes"
        )

        def daemon_port() -> int:
            for line in sidecar.log.with_name("log.daemon").read_text().splitlines():
                if '"coordinator_started"' in line:
                    return int(json.loads(line)["http"].rpartition(":")[2])
            return 0

        wait_until(daemon_port, 20)
        port = daemon_port()
        print("the same at the coordinator's port")
        health = Timed("/healthz", lambda: over_tcp(port, "/healthz"))
        with under(port, daemon.pid, counts):
            time.sleep(WATCH_SECONDS)
            print(f"  {health.stop()}")
        print(f"  the log has {sidecar.log.with_name('log.daemon').stat().st_size} bytes")
    finally:
        client.close()
        daemon.close()
        sidecar.close()
        server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["attack"]:
        attack(*map(int, sys.argv[2:]))
    else:
        main(*sys.argv[1:])
