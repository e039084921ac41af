"""Workers with the library beside a sidecar: they beat for themselves, and it states their end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from coordinator import Worker
from coordinator.settings import load
from coordinator.sidecar.server import SO_PEERPIDFD, peer_of
from coordinator.store.keys import Keys
from coordinator.worker.announcer import Announcer
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)
ANNOUNCE = """
import http.client, json, os, socket, sys
path, token, instance = sys.argv[1:]
class Link(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
link = Link("x")
link.request("POST", "/v1/watched", json.dumps({"instances": [instance]}), {"Worker-Token": token})
print(json.dumps({"what": "answered", "status": link.getresponse().status}), flush=True)
sys.stdin.readline()
"""
Start = Callable[..., Process]


@pytest.fixture
def start(server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a program with a worker of the library, which finds a socket in its environment."""
    made: list[Process] = []

    def run(path: str, call: str, **environment: str) -> Process:
        command = [sys.executable, "-m", "tests.supervisor.library_worker", server.url, f"{call}@of-{call}"]
        log = str(tmp_path / f"log{len(made)}")
        made.append(Process(program=command, STDERR=log, RECOVERY_SOCKET=path, **environment))
        return made[-1]

    yield run
    for process in made:
        process.close()


@pytest.fixture
def announce() -> Iterator[Callable[..., Process]]:
    """Starts a process that announces an instance by hand, and lives until it reads a line."""
    made: list[Process] = []

    def run(path: str, token: str, instance: str) -> Process:
        made.append(Process(program=[sys.executable, "-c", ANNOUNCE, path, token, instance]))
        return made[-1]

    yield run
    for process in made:
        process.close()


def ready(process: Process) -> str:
    """The instance id of its worker, once it serves."""
    [line] = process.wait_for("ready")
    [[instance]] = line["instances"]
    return str(instance)


def watched(sidecar: Sidecar) -> int:
    """How many processes it watches."""
    with contextlib.closing(Client(sidecar.path)) as client:
        [line] = [
            one for one in client("GET", "/metrics").text.splitlines() if one.startswith("recovery_sidecar_watched ")
        ]
        return round(float(line.split()[1]))


def record(server: RedisServer, instance: str) -> dict[str, str]:
    """Of an instance."""
    found: Any = server.client().hgetall(KEYS.instance(instance))
    return {name.decode(): value.decode() for name, value in found.items()}


def died(server: RedisServer, instance: str) -> tuple[str, str]:
    """Cause and reason, as soon as it is dead."""
    wait_until(lambda: record(server, instance).get("state") == "dead", description=f"{instance} is dead")
    found = record(server, instance)
    return found["cause"], found["reason"]


def beats_on(server: RedisServer, instance: str) -> None:
    """It lives, and its heartbeats come, three of them."""
    client: Any = server.client()
    for _ in range(3):
        deadline = client.zscore(KEYS.instances, instance)
        wait_until(lambda before=deadline: client.zscore(KEYS.instances, instance) > before)  # type: ignore[misc]


def said(process: Process, event: str) -> list[dict[str, Any]]:
    """Lines of its log."""
    lines = [line for line in process.errors().splitlines() if event in line]
    return [{"line": line} for line in lines]


def test_the_end_of_its_process_is_a_certificate(sidecar: Sidecar, server: RedisServer, start: Start) -> None:
    """SIGKILL: by the sidecar that it found in its environment."""
    process = start(sidecar.path, "killed")
    instance = ready(process)
    process.send(signal.SIGKILL)
    assert died(server, instance) == ("exited", f"process {process.pid} ended")
    client: Any = server.client()
    wait_until(lambda: client.hget(KEYS.session("killed"), "state") == b"offered")


def test_the_setting_comes_before_the_environment(sidecar: Sidecar, server: RedisServer, start: Start) -> None:
    """WATCHER_SOCKET names another one, or none at all."""
    before = watched(sidecar)
    by_setting = start("/no/such/socket", "by-setting", COORDINATOR_WATCHER_SOCKET=sidecar.path)
    instance = ready(by_setting)
    alone = start(sidecar.path, "by-nobody", COORDINATOR_WATCHER_SOCKET="none")
    lonely = ready(alone)
    assert watched(sidecar) == before + 1
    for process in (by_setting, alone):
        process.send(signal.SIGKILL)
    assert died(server, instance)[0] == "exited"
    assert died(server, lonely)[0] == "lost_connection"
    assert Announcer.of(load(watcher_socket="none"), list) is None


def test_a_sidecar_that_was_started_again_is_told_again(sidecar: Sidecar, server: RedisServer, start: Start) -> None:
    """Its death moves nothing: the worker beats for itself; and the next one states its end."""
    first = Sidecar(server)
    process = start(first.path, "told-again")
    instance = ready(process)
    wait_until(lambda: watched(first) == 1)
    first.process.send(signal.SIGKILL)
    wait_until(lambda: not first.process.alive)
    second = Sidecar(server, path=first.path)
    with contextlib.closing(first), contextlib.closing(second):
        wait_until(lambda: watched(second) == 1, 20)
        assert record(server, instance)["state"] == "alive"
        assert len(said(process, "exit_not_watched")) == 1
        process.send(signal.SIGKILL)
        assert died(server, instance) == ("exited", f"process {process.pid} ended")


def test_a_sidecar_that_ends_in_order_ends_nobody(sidecar: Sidecar, server: RedisServer, start: Start) -> None:
    """It stands for no such worker: it states nothing, and the worker lives on."""
    own = Sidecar(server)
    with contextlib.closing(own):
        process = start(own.path, "lives-on")
        instance = ready(process)
        wait_until(lambda: watched(own) == 1)
        own.process.send(signal.SIGTERM)
        wait_until(lambda: not own.process.alive)
    client: Any = server.client()
    deadline = client.zscore(KEYS.instances, instance)
    wait_until(lambda: client.zscore(KEYS.instances, instance) > deadline)
    assert record(server, instance)["state"] == "alive"


def test_nobody_has_the_instance_of_another_certified(
    sidecar: Sidecar, server: RedisServer, start: Start, announce: Callable[..., Process]
) -> None:
    """Whoever announces it must have registered it: the end of a stranger states nothing, whatever token it shows."""
    instance = ready(start(sidecar.path, "victim"))
    with contextlib.closing(Client(sidecar.path)) as client:
        assert client.register("hosted-victim", pid=os.getpid()).status_code == 201
        before = watched(sidecar)
        strangers = [announce(sidecar.path, f"token-{n}", one) for n, one in enumerate((instance, client.instance))]
        assert [process.wait_for("answered")[0]["status"] for process in strangers] == [204, 204]
        assert watched(sidecar) == before + 2
        for process in strangers:
            process.send(signal.SIGKILL)
        wait_until(lambda: watched(sidecar) == before)
        assert sidecar.log.read_text().count("the instance is not the announcer's own") == 2
        assert record(server, instance)["state"] == record(server, client.instance)["state"] == "alive"


def test_a_token_is_one_process_s(sidecar: Sidecar, announce: Callable[..., Process]) -> None:
    """While the first lives another one's announcement with it is refused; the same process may say it again."""
    first = announce(sidecar.path, "the-token", "nobody~1")
    assert first.wait_for("answered")[0]["status"] == 204
    assert announce(sidecar.path, "the-token", "nobody~2").wait_for("answered")[0]["status"] == 409
    first.send(signal.SIGKILL)
    wait_until(lambda: not first.alive)
    wait_until(lambda: announce(sidecar.path, "the-token", "nobody~2").wait_for("answered")[0]["status"] == 204)


async def test_a_worker_that_left_is_watched_no_longer(
    sidecar: Sidecar, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process lives on, and may have one worker after another: none of them is kept in mind."""
    monkeypatch.setenv("RECOVERY_SOCKET", sidecar.path)
    before = await anyio.to_thread.run_sync(watched, sidecar)
    for n in range(3):
        async with Worker(server.url, name="brief") as worker:
            await worker.open(f"brief-{n}", {})
            assert await anyio.to_thread.run_sync(watched, sidecar) == before + 1
    await eventually(lambda: watched(sidecar) == before)
    assert record(server, worker.id)["cause"] == "left"


@pytest.mark.parametrize(
    ("token", "body", "status", "words"),
    [
        ("", {"instances": ["a~1"]}, 401, "Worker-Token"),
        ("t", {"instances": ["a~1", "a~2"]}, 422, "2 ids for 1 partitions"),
        ("t", {"instances": ["no id"]}, 422, "instances"),
        ("t", {}, 422, "instances"),
    ],
)
def test_a_wrong_announcement(sidecar: Sidecar, token: str, body: Any, status: int, words: str) -> None:
    """One sentence, and nothing is watched."""
    before = watched(sidecar)
    with contextlib.closing(Client(sidecar.path)) as client:
        client.token = token
        answer = client("POST", "/v1/watched", body)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True)
    assert watched(sidecar) == before


def test_over_tcp_nobody_is_seen(sidecar: Sidecar) -> None:
    """The other end of a unix socket is known; that of a port is not."""
    with httpx.Client(base_url=f"http://127.0.0.1:{sidecar.http_port}") as client:
        answer = client.post("/v1/watched", json={"instances": ["a~1"]}, headers={"Worker-Token": "t"})
        assert (answer.status_code, "unix socket" in answer.json()["detail"]) == (403, True)


def test_an_end_is_stated_when_the_store_is_back(sidecar: Sidecar) -> None:
    """The process ends while the store stands still: the certificate waits for it."""
    own = RedisServer()
    beside = Sidecar(own, "--coordinate")
    try:
        command = [sys.executable, "-m", "tests.supervisor.library_worker", own.url, "patient@patient"]
        process = Process(program=command, RECOVERY_SOCKET=beside.path)
        with contextlib.closing(process):
            instance = ready(process)
            own.pause()
            process.send(signal.SIGKILL)
            wait_until(lambda: not process.alive)
            with contextlib.closing(Client(beside.path)) as client:
                wait_until(lambda: client("GET", "/readyz").status_code == 503)
            own.resume()
            assert died(own, instance) == ("exited", f"process {process.pid} ended")
    finally:
        beside.close()
        own.close()


# -- what watches is away, old or slow ---------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[list[bytes]]:
    """A unix socket at which everybody is answered the same, or nothing; the requests that came."""
    asked: list[bytes] = []
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    kept: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listening.accept()[0])
                asked.append(kept[-1].recv(65536))
                if answer is not None:
                    kept[-1].sendall(answer)
                    kept[-1].close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (listening, *kept):
            one.close()


def test_a_worker_lives_without_it_and_says_so_once(
    sidecar: Sidecar, server: RedisServer, start: Start, tmp_path: Path
) -> None:
    """There is nobody at the socket: one line, one trial after another, and when there is somebody it is told."""
    path = tmp_path / "later.sock"
    process = start(str(path), "alone")
    instance = ready(process)
    with answering(path, b"HTTP/1.1 200 OK\r\n\r\n") as asked:
        wait_until(lambda: len(asked) > 2, 20)
    body = json.loads(asked[0].rpartition(b"\r\n\r\n")[2])
    assert (asked[0].split()[:2], body) == ([b"POST", b"/v1/watched/line"], {"instances": [instance]})
    [line] = said(process, "exit_not_watched")
    assert "No such file" in line["line"]
    assert record(server, instance)["state"] == "alive"


def test_one_that_refuses_is_not_asked_again_and_again(server: RedisServer, start: Start, tmp_path: Path) -> None:
    """One that knows neither call: the worker serves, says so once with the answer, and waits for long."""
    path = tmp_path / "old.sock"
    answer = b'HTTP/1.1 404 Not Found\r\nContent-Length: 31\r\n\r\n{"detail": "no path like that"}'
    with answering(path, answer) as asked:
        process = start(str(path), "refused")
        instance = ready(process)
        assert [one.split()[1] for one in asked] == [b"/v1/watched/line", b"/v1/watched"]
        beats_on(server, instance)
        assert len(asked) == 2
    [line] = said(process, "exit_not_watched")
    assert "it answered 404: no path like that" in line["line"]


@pytest.mark.parametrize(
    ("what", "answer", "most"),
    [("silent", None, 1), ("closing", b"", 3), ("no-http", b"\x00\x01\x02 what\r\n\r\n", 3)],
)
def test_one_that_does_not_answer_keeps_no_worker_waiting(
    server: RedisServer, start: Start, tmp_path: Path, what: str, answer: bytes | None, most: int
) -> None:
    """It takes connections, and says nothing of use: the worker registers all the same, and asks no mute one twice."""
    path = tmp_path / "mute.sock"
    with answering(path, answer) as asked:
        process = start(str(path), what)
        instance = ready(process)
        wait_until(lambda: len(asked) >= most)
        assert record(server, instance)["state"] == "alive"
        if answer is None:
            beats_on(server, instance)
            assert len(asked) == 1
    assert len(said(process, "exit_not_watched")) == 1


# -- who is at the other end -------------------------------------------------------------------------------------------

PEER = """
import json, socket, sys, anyio
from functools import partial
from coordinator.sidecar.server import PEER, peer_of, peer_process

async def main():
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        print(json.dumps({"what": "listening"}), flush=True)
        connection, _ = listening.accept()
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        process = peer_process({"state": {PEER: partial(peer_of, connection, int.from_bytes(raw[:4], sys.byteorder))}})
        print(json.dumps({"what": "seen", "pid": process.pid, "ended": process.has_ended}), flush=True)
        await process.ended()
        print(json.dumps({"what": "ended"}), flush=True)

anyio.run(main)
"""


def test_a_process_of_another_namespace_is_seen(tmp_path: Path) -> None:
    """As in a pod whose containers share a volume and no process numbers: its number is unknown, and its end is seen."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets this user make no namespace of process numbers")
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError:
            pytest.skip("this kernel has no SO_PEERPIDFD (Linux 6.5)")
    path = str(tmp_path / "peer.sock")
    with contextlib.closing(Process(program=[*apart, sys.executable, "-c", PEER, path])) as watching:
        watching.wait_for("listening")
        client = subprocess.Popen(
            [sys.executable, "-c", f"import socket; s = socket.socket(1); s.connect({path!r}); input()"],
            stdin=subprocess.PIPE,
        )
        [seen] = watching.wait_for("seen")
        assert (seen["pid"], seen["ended"]) == (0, False)
        client.kill()
        client.communicate()
        watching.wait_for("ended")


class _OldKernel:
    def getsockopt(self, *_: object) -> int:
        raise OSError(92, "Protocol not available")


def test_an_older_kernel_tells_the_number() -> None:
    """Without SO_PEERPIDFD a process is watched by its number, if it has one here."""
    with peer_of(_OldKernel(), os.getpid()) as process:  # type: ignore[union-attr]
        assert (process.pid, process.has_ended) == (os.getpid(), False)
    assert peer_of(_OldKernel(), 0) is None
