"""`coordinator supervise` of a program that uses the library: its own instances are certified, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually, wait_until

Start = Callable[..., Process]
PROGRAM = (sys.executable, "-m", "tests.supervisor.library_worker")


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """The store, looked at from outside."""
    return Bench(redis_client)


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a supervisor, whose name is its worker's too unless a call names another."""
    made: list[Process] = []

    def run(*calls: str, command: tuple[str, ...] = (), flags: tuple[str, ...] = (), **environment: str) -> Process:
        made.append(
            Process(
                "coordinator", "supervise", "--redis-url", url, *flags, "--", *(command or (*PROGRAM, url, *calls)),
                STDERR=str(tmp_path / f"log{len(made)}"), COORDINATOR_NAME="sup", COORDINATOR_LOG_FORMAT="json", **environment,
            )
        )  # fmt: skip
        return made[-1]

    yield run
    for process in made:
        process.close()


def instance(bench: Bench, name: str, partition: int = 0) -> dict[str, str]:
    """The record of an instance."""
    found: Any = bench.client.hgetall(Keys("recovery", partition).instance(name))
    return {k.decode(): v.decode() for k, v in found.items()}


def death(bench: Bench, name: str, partition: int = 0) -> tuple[str, str]:
    """Cause and reason, as soon as it is dead."""
    wait_until(lambda: instance(bench, name, partition).get("state") == "dead", description=f"{name} is dead")
    found = instance(bench, name, partition)
    return found["cause"], found["reason"]


def living(bench: Bench) -> set[str]:
    """Who beats."""
    return {raw.decode() for raw in bench.client.zrange(bench.keys.instances, 0, -1)}


def announced(process: Process) -> list[list[str]]:
    """What its log says was announced."""
    lines = [json.loads(line) for line in process.errors().splitlines() if '"worker_announced"' in line]
    return [line["instances"] for line in lines]


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ("exit 0", 0, ("exited", "exit status 0")),
        ("exit 1", 1, ("exited", "exit status 1")),
        ("raise", 1, ("exited", "RuntimeError")),
        ("leave", 0, ("left", "the worker ended")),
        ("SIGKILL", 137, ("exited", "killed by SIGKILL")),
        ("SIGSEGV", 139, ("exited", "killed by SIGSEGV")),
    ],
)
def test_its_own_instance_is_certified_with_how_it_ended(
    start: Start, bench: Bench, line: str, status: int, expected: tuple[str, str]
) -> None:
    """By itself where it still can, by its supervisor where it cannot; before the supervisor has ended."""
    process = start("call-1")
    [ready] = process.wait_for("ready")
    if line.startswith("SIG"):
        os.kill(ready["pid"], signal.Signals[line])
    else:
        process.write(f"{line}\n")
    wait_until(lambda: not process.alive)
    assert process.exit_status == status
    [[own]] = ready["instances"]
    found = instance(bench, own)
    assert (found["state"], found["cause"], found["reason"]) == ("dead", *expected)


async def test_its_calls_are_offered_at_once(start: Start, url: str, bench: Bench) -> None:
    """SIGKILL: by the certificate, and not by its lost connections."""
    async with coordinating(url):
        process = start("call-1")
        await eventually(lambda: process.told("ready"), 20)
        os.kill(process.told("ready")[0]["pid"], signal.SIGKILL)
        await eventually(lambda: bench.record("call-1")["state"] == "offered")
        assert bench.record("call-1")["cause"] == "exited"


def test_there_is_one_instance_with_one_name(start: Start, bench: Bench) -> None:
    """The one that was made for a worker which knows nothing of this is gone before the worker registers, and its room with it."""
    process = start("call-1")
    [ready] = process.wait_for("ready")
    [[own]] = ready["instances"]
    assert living(bench) == {own}
    assert own.startswith("sup~")


def test_every_worker_of_the_process_in_every_partition(start: Start, bench: Bench) -> None:
    """Two workers and three partitions: six certificates of one end."""
    process = start("call-1@one", "call-2@two", COORDINATOR_PARTITIONS="3")
    [ready] = process.wait_for("ready")
    os.kill(ready["pid"], signal.SIGKILL)
    wait_until(lambda: not process.alive)
    for ids in ready["instances"]:
        assert len(ids) == 3
        for partition, own in enumerate(ids):
            assert death(bench, own, partition) == ("exited", "killed by SIGKILL")


def test_a_worker_that_started_over_is_certified_under_its_new_id(start: Start, bench: Bench) -> None:
    """It was declared dead, and lives on as another instance: that one's end is told, too."""
    process = start("call-1")
    [ready] = process.wait_for("ready")
    [[first]] = ready["instances"]
    bench.certify(first, "operator")
    wait_until(lambda: living(bench) not in (set(), {first}))
    [second] = living(bench)
    assert second != first
    wait_until(lambda: [second] in announced(process))
    os.kill(ready["pid"], signal.SIGKILL)
    wait_until(lambda: not process.alive)
    assert death(bench, second) == ("exited", "killed by SIGKILL")
    assert death(bench, first) == ("operator", "told so")


def test_a_worker_behind_a_shell_is_certified_by_its_own_end(start: Start, bench: Bench, url: str) -> None:
    """What counts is the process that announced itself: the shell around it lives on."""
    script = f'{" ".join(PROGRAM)} {url} call-1; echo \'{{"what": "after"}}\'; read x'
    process = start(command=("sh", "-c", script))
    [ready] = process.wait_for("ready")
    os.kill(ready["pid"], signal.SIGKILL)
    [[own]] = ready["instances"]
    assert death(bench, own) == ("exited", f"process {ready['pid']} ended")
    process.wait_for("after")
    assert process.alive


def test_a_worker_that_outlives_the_shell_around_it_is_not_certified(start: Start, bench: Bench, url: str) -> None:
    """The shell ends, and with it the supervisor; the worker beats on, and nobody has stated its end."""
    script = f"{' '.join(PROGRAM)} {url} call-1 </dev/null & read x; exit 4"
    process = start(command=("sh", "-c", script))
    [ready] = process.wait_for("ready")
    [[own]] = ready["instances"]
    try:
        process.write("\n")
        wait_until(lambda: not process.alive)
        assert process.exit_status == 4
        deadline = bench.client.zscore(bench.keys.instances, own)
        wait_until(lambda: bench.client.zscore(bench.keys.instances, own) > deadline, description="it beats on")
        assert instance(bench, own)["state"] == "alive"
    finally:
        os.kill(ready["pid"], signal.SIGKILL)


def test_a_child_of_the_worker_neither_keeps_it_alive_nor_ends_it(start: Start, bench: Bench) -> None:
    """A fork has copies of its connections: its own end is nobody's, and the worker's end is seen although it lives."""
    process = start("call-1")
    [ready] = process.wait_for("ready")
    [[own]] = ready["instances"]
    children = []
    try:
        for n in (1, 2):
            process.write("fork\n")
            children.append(process.wait_for("forked", n)[-1]["pid"])
        os.kill(children[0], signal.SIGKILL)
        wait_until(
            lambda: (
                not Path(f"/proc/{children[0]}/cmdline").exists()
                or not Path(f"/proc/{children[0]}/cmdline").read_bytes()
            )
        )
        process.write("ids\n")
        [told] = process.wait_for("ids")
        assert told["instances"] == [[own]]
        assert instance(bench, own)["state"] == "alive"
        os.kill(ready["pid"], signal.SIGKILL)
        assert death(bench, own) == ("exited", "killed by SIGKILL")
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_a_killed_supervisor_certifies_nothing(start: Start, url: str, bench: Bench) -> None:
    """Its worker dies with it, and is found as one that nobody watched."""
    async with coordinating(url):
        process = start("call-1")
        await eventually(lambda: process.told("ready"), 20)
        owner = bench.record("call-1")["owner"]
        await eventually(lambda: bench.client.hget(bench.keys.instance(owner), "presence") == b"1")
        process.send(signal.SIGKILL)
        await eventually(lambda: bench.record("call-1")["state"] == "offered")
        assert bench.record("call-1")["cause"] == "lost_connection"


def test_a_failed_worker_is_started_again_under_its_name(start: Start, bench: Bench) -> None:
    """With --restart: the name is free at once, since the end of the first is certified; the second announces itself, too."""
    process = start("call-1", flags=("--restart",))
    [first] = process.wait_for("ready")
    process.write("exit 1\n")
    assert death(bench, first["instances"][0][0]) == ("exited", "exit status 1")
    wait_until(lambda: len(announced(process)) >= 2, 20)
    assert announced(process)[0] == first["instances"][0] != announced(process)[1]


def test_calls_of_the_supervisor_stay_its_own(start: Start, bench: Bench) -> None:
    """With --session the supervisor's instance has a call: it stays beside the worker's, and both end with the process."""
    process = start("call-1@other", flags=("--session", "named"))
    [ready] = process.wait_for("ready")
    [[own]] = ready["instances"]
    [supervisors] = living(bench) - {own}
    assert bench.record("named")["owner"] == supervisors
    os.kill(ready["pid"], signal.SIGKILL)
    wait_until(lambda: not process.alive)
    assert death(bench, own) == death(bench, supervisors) == ("exited", "killed by SIGKILL")
