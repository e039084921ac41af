"""The line of a worker with the library whose process the sidecar cannot see: the end of the line is the end of the worker."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from coordinator import Worker, certify
from coordinator.sidecar.line import HeldLine
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.watched import Watched
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.sidecar.test_watched import KEYS, Start, beats_on, died, ready, record, said, start, watched
from tests.waiting import eventually, wait_until

__all__ = ["start"]

BLIND = "tests.sidecar.blind_sidecar"
LINE_ENDED = ("exited", "its line ended")


@pytest.fixture(scope="module")
def blind(server: RedisServer) -> Iterator[Sidecar]:
    """A sidecar that sees no process; it coordinates, and its hold is over."""
    made = Sidecar(server, "--coordinate", "--breaker-min", "1000", program=BLIND)
    with contextlib.closing(Client(made.path)) as client:
        wait_until(lambda: "hold_reason" not in client("GET", "/").text, 10)
    yield made
    made.close()


@pytest.fixture
def alone(start: Start) -> Callable[[str, str], Process]:
    """Starts a worker without an exit watcher of its own."""
    return lambda path, call: start(path, call, COORDINATOR_WATCH_EXIT="false")


class Line:
    """One that is held by hand.

    Attributes:
        status, body: of the answer; the first document of one that stays open.
    """

    def __init__(self, path: str, token: str, instances: list[str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)
        body = json.dumps({"instances": instances})
        head = (
            f"POST /v1/watched/line HTTP/1.1\r\nHost: x\r\nWorker-Token: {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall((head + body).encode())
        with http.client.HTTPResponse(self._socket) as answer:
            answer.begin()
            self.status = answer.status
            self.body: dict[str, Any] = json.loads(answer.readline() if answer.status == 200 else answer.read())

    def close(self) -> None:
        self._socket.close()


def test_the_end_of_the_line_is_a_certificate(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """SIGKILL, without an exit watcher, of a process that the sidecar cannot see: certified by the end of the line."""
    process = alone(blind.path, "killed")
    instance = ready(process)
    assert watched(blind) == 1
    at = time.time()
    process.send(signal.SIGKILL)
    assert died(server, instance) == LINE_ENDED
    client: Any = server.client()
    fields = [{k.decode(): v.decode() for k, v in one.items()} for _, one in client.xrange(KEYS.events)]
    [event] = [one for one in fields if one["type"] == "died" and one["instance"] == instance]
    print(f"SIGKILL to declared over the line: {int(event['at']) - at * 1000:.0f} ms")  # told, never checked
    wait_until(lambda: watched(blind) == 0)


def test_a_frozen_worker_holds_its_line(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """SIGSTOP ends no line: nothing is certified, and its silence tells of it."""
    process = alone(blind.path, "frozen")
    instance = ready(process)
    process.send(signal.SIGSTOP)
    try:
        assert died(server, instance)[0] not in ("exited", "operator")
        assert watched(blind) == 1
    finally:
        process.send(signal.SIGCONT)


async def test_a_good_bye_is_no_exit(blind: Sidecar, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose process lives on leaves: it is watched no more, and has left by its own word."""
    monkeypatch.setenv("RECOVERY_SOCKET", blind.path)
    for n in range(2):
        async with Worker(server.url, name="polite") as worker:
            await worker.open(f"polite-{n}", {})
            assert await anyio.to_thread.run_sync(watched, blind) == 1
        await eventually(lambda: watched(blind) == 0)
        assert record(server, worker.id)["cause"] == "left"
        certified = [line for line in blind.log.read_text().splitlines() if "exit_certified" in line]
        assert not [line for line in certified if worker.id in line]


async def test_new_ids_are_told_on_the_side(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """Fenced, a worker goes on under another id: the line stays, and its end certifies the new one."""
    process = await anyio.to_thread.run_sync(alone, blind.path, "anew")
    before = await anyio.to_thread.run_sync(ready, process)
    await certify(before, "by mistake", url=server.url)
    await eventually(lambda: f'"{before[:-1]}' in blind.log.read_text() and len(announced(blind, "anew")) == 2)
    [instance] = announced(blind, "anew")[-1]
    assert instance != before
    await eventually(lambda: record(server, instance).get("state") == "alive")
    process.send(signal.SIGKILL)
    assert await anyio.to_thread.run_sync(died, server, instance) == LINE_ENDED


def announced(sidecar: Sidecar, name: str) -> list[list[str]]:
    """The ids that a worker of this name announced, in turn."""
    lines = [json.loads(line) for line in sidecar.log.read_text().splitlines() if '"worker_announced"' in line]
    return [one["instances"] for one in lines if one["instances"][0].startswith(f"of-{name}~")]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_the_end_of_the_sidecar_certifies_nothing(
    blind: Sidecar, server: RedisServer, alone: Any, how: signal.Signals
) -> None:
    """The line is back when the sidecar is, no call moved meanwhile, and then SIGKILL is certified again."""
    first = Sidecar(server, program=BLIND)
    process = alone(first.path, f"kept-{how.name.lower()}")
    instance = ready(process)
    first.process.send(how)
    wait_until(lambda: not first.process.alive)
    beats_on(server, instance)
    second = Sidecar(server, path=first.path, program=BLIND)
    with contextlib.closing(first), contextlib.closing(second):
        wait_until(lambda: watched(second) == 1, 20)
        beats_on(server, instance)
        assert record(server, instance)["state"] == "alive"
        assert len(said(process, "exit_not_watched")) == 1
        assert "exit_certified" not in first.log.read_text() + second.log.read_text()
        process.send(signal.SIGKILL)
        assert died(server, instance) == LINE_ENDED


def test_a_frozen_sidecar_keeps_no_worker_and_ends_none(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """It answers seconds too late: the worker works meanwhile, and the line that waited is the one that counts."""
    own = Sidecar(server, program=BLIND)
    with contextlib.closing(own):
        own.process.send(signal.SIGSTOP)
        try:
            process = alone(own.path, "patient")
            instance = ready(process)
            beats_on(server, instance)
            wait_until(lambda: "no answer within" in "".join(str(one) for one in said(process, "exit_not_watched")))
        finally:
            own.process.send(signal.SIGCONT)
        wait_until(lambda: watched(own) == 1)
        beats_on(server, instance)
        assert record(server, instance)["state"] == "alive"
        process.send(signal.SIGKILL)
        assert died(server, instance) == LINE_ENDED


def test_a_forked_child_holds_no_line(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """A child that lives on has a copy of everything else: its parent is certified all the same."""
    process = alone(blind.path, "parent")
    instance = ready(process)
    process.write("fork\n")
    child = process.wait_for("forked")[0]["pid"]
    try:
        process.send(signal.SIGKILL)
        assert died(server, instance) == LINE_ENDED
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_that_is_seen_is_watched_itself(sidecar: Sidecar, server: RedisServer) -> None:
    """There the end of a line says nothing, since the end of the process says more."""
    before = watched(sidecar)
    line = Line(sidecar.path, "seen", ["seen~1"])
    line.close()
    assert (line.status, line.body) == (200, {"event": "watched", "by": "process"})
    with contextlib.closing(Client(sidecar.path)) as client:
        client.token = "seen"
        assert client("POST", "/v1/watched", {"instances": ["seen~2"]}).status_code == 204
        assert watched(sidecar) == before + 1
        assert client("POST", "/v1/watched", {"instances": []}).status_code == 204
    wait_until(lambda: watched(sidecar) == before)


def test_nobody_has_the_instance_of_another_certified(blind: Sidecar, server: RedisServer, alone: Any) -> None:
    """A line with a stranger's instance ends: it was not registered with the token that the line shows."""
    instance = ready(alone(blind.path, "victim"))
    line = Line(blind.path, "of-a-stranger", [instance])
    line.close()
    assert (line.status, line.body) == (200, {"event": "watched", "by": "line"})
    wait_until(lambda: "the instance is not the announcer's own" in blind.log.read_text())
    assert record(server, instance)["state"] == "alive"


def test_without_a_line_there_is_nothing_to_watch(blind: Sidecar) -> None:
    """A process that cannot be seen is told to hold one; while it does it may name other ids."""
    with contextlib.closing(Client(blind.path)) as client:
        client.token = "unseen"
        answer = client("POST", "/v1/watched", {"instances": ["unseen~1"]})
        assert (answer.status_code, "POST /v1/watched/line" in answer.json()["detail"]) == (403, True)
        with contextlib.closing(Line(blind.path, "unseen", ["unseen~1"])):
            assert client("POST", "/v1/watched", {"instances": ["unseen~2"]}).status_code == 204
        wait_until(lambda: client("POST", "/v1/watched", {"instances": ["unseen~3"]}).status_code == 403)


def test_lines_have_room_of_their_own(server: RedisServer) -> None:
    """Above it the answer is 503, for lines alone, and the end of one makes room."""
    narrow = Sidecar(server, program=BLIND, files=420)
    with contextlib.ExitStack() as stack:
        stack.callback(narrow.close)

        def hold() -> Line:
            made = Line(narrow.path, f"token-{len(lines)}", [f"crowd~{len(lines)}"])
            stack.callback(made.close)
            lines.append(made)
            return made

        lines: list[Line] = []
        wait_until(lambda: hold().status == 503)
        assert watched(narrow) == len(lines) - 1
        lines[0].close()
        wait_until(lambda: hold().status == 200)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_holds_no_line(blind: Sidecar) -> None:
    """The socket is for its user and group: the kernel refuses any other."""
    Path(blind.path).parent.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as other:
        os.setegid(12345)
        os.seteuid(12345)
        try:
            with pytest.raises(PermissionError):
                other.connect(blind.path)
        finally:
            os.seteuid(0)
            os.setegid(0)


# -- which end of it counts --------------------------------------------------------------------------------------------


def scope_of(pid: int = 0) -> dict[str, Any]:
    return {"client": ("unix", pid), "state": {}}


def over(scope: dict[str, Any], *, by_peer: bool) -> None:
    """What the listener does at the end of a connection."""
    scope["state"].update({"recovery.gone": True, "recovery.closed_by_peer": by_peer})
    scope["state"]["recovery.when_closed"]()


class Recorder(Watched):
    """States ends in a list."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__([None], tasks, "here")  # type: ignore[list-item]
        self.stated: list[tuple[str, str]] = []

    async def _certify_patiently(self, part: object, instance: str, token_hash: str, reason: str) -> None:
        self.stated.append((instance, reason))


async def test_a_line_that_this_side_ends_says_nothing() -> None:
    """As for want of room: the worker is forgotten until it holds another, whose end by the worker counts."""
    async with anyio.create_task_group() as tasks:
        recorder, first, second = Recorder(tasks), scope_of(), scope_of()
        recorder.announce("hash", ["a~1"], HeldLine(first))
        over(first, by_peer=False)
        with pytest.raises(Problem, match="hold a line"):
            recorder.announce("hash", ["a~2"], None)
        await eventually(lambda: not len(recorder))
        recorder.announce("hash", ["a~3"], HeldLine(second))
        over(second, by_peer=True)
        await eventually(lambda: not len(recorder))
        assert recorder.stated == [("a~3", "its line ended")]


async def test_a_newer_line_takes_the_place_of_an_older_one() -> None:
    """The end of the older one says nothing any more, whoever ends it."""
    async with anyio.create_task_group() as tasks:
        recorder, first, second = Recorder(tasks), scope_of(), scope_of()
        recorder.announce("hash", ["a~1"], HeldLine(first))
        recorder.announce("hash", ["a~1"], HeldLine(second))
        over(first, by_peer=True)
        await anyio.wait_all_tasks_blocked()
        assert (recorder.stated, len(recorder)) == ([], 1)
        over(second, by_peer=True)
        await eventually(lambda: not len(recorder))
        assert recorder.stated == [("a~1", "its line ended")]


async def test_a_line_is_one_process_s() -> None:
    """While it is held another process with the same token is refused."""
    async with anyio.create_task_group() as tasks:
        recorder, first = Recorder(tasks), scope_of(7)
        recorder.announce("hash", ["a~1"], HeldLine(first))
        with pytest.raises(Problem, match="process 7 announced itself"):
            recorder.announce("hash", ["a~1"], HeldLine(scope_of(8)))
        recorder.announce("hash", [], None)
        await eventually(lambda: not len(recorder))
        assert recorder.stated == [("a~1", "it left")]
