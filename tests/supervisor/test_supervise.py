"""`coordinator supervise`: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.keyring import KeyRing
from coordinator.store.keys import Keys
from coordinator.worker.sealer import OPENING, Place, Sealer
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)

SHELL = 'echo \'{"what": "up"}\'; '
Start = Callable[..., Process]


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a supervisor."""
    made: list[Process] = []

    def run(*arguments: str, name: str = "sup") -> Process:
        log = str(tmp_path / f"log{len(made)}")
        made.append(
            Process(
                "coordinator",
                "supervise",
                "--redis-url",
                url,
                "--name",
                name,
                "--log-format",
                "json",
                *arguments,
                STDERR=log,
            )
        )
        return made[-1]

    yield run
    for process in made:
        process.close()


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """The store, looked at from outside."""
    bench = Bench(redis_client)
    bench.init(hold_ms=1)
    return bench


def state(bench: Bench, session: str) -> str:
    """Of a session; '' when there is none."""
    return bench.record(session).get("state", "") if bench.client.exists(bench.keys.session(session)) else ""


def instance_of(bench: Bench, name: str) -> dict[str, str]:
    """The newest instance of a name."""
    raw: Any = bench.client.hget(bench.keys.names, name)
    found: Any = bench.client.hgetall(bench.keys.instance(raw.decode())) if raw else {}
    return {k.decode(): v.decode() for k, v in found.items()}


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        ("exit 0", 0, "exit status 0"),
        ("exit 7", 7, "exit status 7"),
        ("kill -9 $$", 137, "killed by SIGKILL"),
        ("kill -SEGV $$", 139, "killed by SIGSEGV"),
    ],
)
def test_the_end_is_certified_with_how(start: Start, bench: Bench, command: str, status: int, reason: str) -> None:
    """A worker that knows nothing of this project: its exit status is ours, and the certificate says it."""
    process = start("--session", "call-1", "--", "sh", "-c", command)
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == status
    told = instance_of(bench, "sup")
    assert (told["state"], told["cause"], told["reason"]) == ("dead", "exited", reason)
    assert bench.members(bench.keys.graves)


async def test_its_calls_are_offered_at_once(start: Start, url: str, bench: Bench) -> None:
    """kill -9 of the worker: its call waits for others long before silence could tell."""
    async with coordinating(url):
        process = start(
            "--session", "call-1", "--", "sh", "-c", SHELL + 'echo "{\\"what\\": \\"pid\\", \\"pid\\": $$}"; read x'
        )
        await eventually(lambda: process.told("pid"))
        await eventually(lambda: bench.client.hget(bench.keys.detector, "hold_until_ms") is not None)
        os.kill(process.told("pid")[0]["pid"], signal.SIGKILL)
        await eventually(lambda: state(bench, "call-1") == "offered")
        assert bench.record("call-1")["cause"] == "exited"


def test_the_worker_knows_what_it_serves(start: Start, bench: Bench) -> None:
    """Who it is, where the interface is, and its calls with their data are in its environment."""
    code = (
        "import json, os, socket\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['RECOVERY_SOCKET'])\n"
        "s.sendall(b'PUT /v1/sessions/mine HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\nWorker-Token: '\n"
        "  + os.environ['RECOVERY_WORKER_TOKEN'].encode() + b'\\r\\n\\r\\n')\n"
        "status = int(s.recv(65536).split()[1])\n"
        "print(json.dumps({'what': 'told', 'status': status, 'instance': os.environ['RECOVERY_INSTANCE'],\n"
        "  'sessions': json.loads(os.environ['RECOVERY_SESSIONS'])}), flush=True)\n"
        "input()\n"
    )
    process = start("--session", "named", "--", sys.executable, "-c", code)
    [told] = process.wait_for("told")
    assert told["status"] == 201
    assert [s["session"] for s in told["sessions"]] == ["named"]
    assert bench.record("mine")["owner"] == told["instance"]
    assert bench.record("named")["owner"] == told["instance"]


def test_sealed_data_is_opened_for_the_worker(start: Start, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor has the key, and its worker, which has not, is told the data of the call that it serves."""
    keys = KeyRing.generate("k1")
    monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS", keys)
    sealed = Sealer("recovery", KeyRing.parse(keys)).seal(Place("call-1", "", OPENING), b'{"n":1}', "json")
    bench.join("before~1")
    opened = bench.open("call-1", "before~1", sealed["data"])
    bench.client.hset(bench.keys.session("call-1"), "encoding", sealed["encoding"])
    bench.release("call-1", "before~1", opened.int("epoch"))
    code = (
        "import json, os\n"
        "print(json.dumps({'what': 'up', 'sessions': json.loads(os.environ['RECOVERY_SESSIONS']),\n"
        "  'keys': os.environ.get('COORDINATOR_ENCRYPTION_KEYS')}), flush=True)\n"
        "input()\n"
    )
    [told] = start("--session", "call-1", "--", sys.executable, "-c", code).wait_for("up")
    assert told["sessions"][0]["recovery_data"] == {"n": 1}
    assert not told["keys"]


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "QUIT", "TERM", "INT"])
def test_signals_are_passed_on(start: Start, bench: Bench, name: str) -> None:
    """The worker gets what its supervisor gets, and the supervisor ends as the worker does."""
    process = start("--", "bash", "-c", f"trap 'exit 42' {name}; {SHELL} while :; do sleep 0.01; done")
    process.wait_for("up")
    process.send(signal.Signals[f"SIG{name}"])
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == 42


def test_it_dies_with_its_supervisor(start: Start, bench: Bench) -> None:
    """kill -9 of the supervisor: the worker, for which nobody beats any more, does not go on beside its successor."""
    process = start("--", "sh", "-c", 'echo "{\\"what\\": \\"pid\\", \\"pid\\": $$}"; exec sleep 600')
    [line] = process.wait_for("pid")
    process.send(signal.SIGKILL)

    def gone() -> bool:
        path = Path(f"/proc/{line['pid']}/stat")
        return not path.exists() or path.read_text().split()[2] == "Z"

    wait_until(gone)


def test_what_the_worker_leaves_behind_is_reaped(start: Start, bench: Bench) -> None:
    """Orphaned grandchildren do not stay as zombies."""
    script = 'sh -c \'sh -c "exit 3" & echo "{\\"what\\": \\"left\\", \\"pid\\": $!}"\'; read x'
    process = start("--", "sh", "-c", script)
    [line] = process.wait_for("left")
    wait_until(lambda: not Path(f"/proc/{line['pid']}").exists())
    assert process.alive


async def test_a_failed_worker_is_started_again(start: Start, url: str, bench: Bench) -> None:
    """With --restart: a new instance, which is given its calls with their data and a higher epoch."""
    async with coordinating(url):
        script = 'printf "{\\"what\\": \\"up\\", \\"sessions\\": %s}\\n" "$RECOVERY_SESSIONS"; read x; exit 1'
        process = start("--restart", "--session", "call-1", "--", "sh", "-c", script)
        await eventually(lambda: process.told("up"))
        bench.end_hold()
        first = instance_of(bench, "sup")
        process.write("\n")
        await eventually(lambda: len(process.told("up")) == 2)
        before, after = (line["sessions"][0] for line in process.told("up"))
        assert after["epoch"] > before["epoch"]
        assert after["recovered"]
        assert instance_of(bench, "sup")["started_at"] > first["started_at"]


def test_success_ends_its_calls_if_asked(start: Start, bench: Bench) -> None:
    """With --close-on-success exit status 0 closes its calls; nobody is offered them."""
    process = start("--close-on-success", "--session", "call-1", "--", "true")
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == 0
    assert state(bench, "call-1") == "closed"


def test_a_worker_whose_calls_are_gone_is_stopped(start: Start, bench: Bench) -> None:
    """It knows nothing of epochs: when its only call is somebody else's it is ended."""
    process = start("--session", "call-1", "--", "sh", "-c", SHELL + "exec sleep 600")
    process.wait_for("up")
    bench.join("other~1")
    record = bench.record("call-1")
    assert bench.release("call-1", record["owner"], int(record["epoch"])).word == "OK"
    assert bench.adopt("call-1", "other~1", None).word == "OK"
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == 128 + signal.SIGTERM


def test_a_call_of_another_is_refused(start: Start, bench: Bench) -> None:
    """It is owned by a living instance that does not hand it over: exit status 1, and nothing is started."""
    bench.join("other~1")
    bench.open("call-1", "other~1")
    process = start("--session", "call-1", "--lease", "300ms", "--", "sh", "-c", SHELL)
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == 1
    assert process.told("up") == []
    assert bench.record("call-1")["owner"] == "other~1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument"),
        (("--", "/no/such/program"), "'/no/such/program' cannot be started: no such program"),
        (("--session", "two words", "--", "true"), "two words"),
    ],
)
def test_wrong_use(url: str, redis_client: redis.Redis, arguments: tuple[str, ...], message: str) -> None:
    """Exit status 2 and one line."""
    command = [sys.executable, "-m", "coordinator", "supervise", "--redis-url", url, "--name", "wrong", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_before_the_worker_is_started(bench: Bench, start: Start) -> None:
    """It waits for its name to become free: it ends at once, and starts nothing."""
    bench.join("sup~1")
    bench.client.hset(bench.keys.instance("sup~1"), "trust_ms", "60000")
    process = start("--", "sh", "-c", SHELL + "exec sleep 600")
    wait_until(lambda: "sidecar_started" in process.errors())
    process.send(signal.SIGTERM)
    wait_until(lambda: not process.alive, 30, "it ended")
    assert process.exit_status == 128 + signal.SIGTERM
    assert process.told("up") == []
