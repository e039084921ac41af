"""Workers in three languages take each other's calls over."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.kubernetes import rendering
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.sidecar.examples import EXAMPLES, LANGUAGES, ExampleWorker, example, go_program, node_program
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)


def records(server: RedisServer, calls: list[str]) -> dict[str, dict[bytes, bytes]]:
    """The record of each call."""
    client: Any = server.client()
    return {call: client.hgetall(KEYS.session(call)) for call in calls}


def owners(server: RedisServer, calls: list[str]) -> set[str]:
    """Names of those that own them; 'nobody' for those without an owner."""
    found = records(server, calls).values()
    return {(r[b"owner"] or b"nobody").decode().partition("~")[0] for r in found}


@pytest.mark.parametrize(("dies", "heir"), [("go", "node"), ("node", "python"), ("python", "go"), ("go", "go")])
def test_one_dies_and_another_goes_on(sidecar: Sidecar, server: RedisServer, dies: str, heir: str) -> None:
    """SIGKILL of one: its calls are adopted by the other with their last data, and go on counting from there."""
    pool = f"{dies}-{heir}"
    calls = [f"{pool}-{n}" for n in range(5)]
    with (
        example(dies, sidecar.path, server.url, f"{dies}-{heir}-dies", *calls, pool=pool) as first,
        example(heir, sidecar.path, server.url, f"{dies}-{heir}-heir", pool=pool) as second,
    ):
        wait_until(lambda: all(int(r.get(b"checkpoint", b"0")) > 2 for r in records(server, calls).values()), 20)
        first.send(signal.SIGKILL)
        wait_until(lambda: owners(server, calls) == {f"{dies}-{heir}-heir"}, 20)
        taken = {call: json.loads(r[b"data"])["sequence"] for call, r in records(server, calls).items()}
        assert all(taken.values())
        wait_until(
            lambda: all(json.loads(r[b"data"])["sequence"] > taken[c] for c, r in records(server, calls).items()), 20
        )
        if heir != "python":
            adopted = {line["session"]: line["data"] for line in second.wait_for("adopted", len(calls))}
            assert {call: data["call_sid"] for call, data in adopted.items()} == {call: call for call in calls}


def test_a_hundred_calls_of_a_worker_in_go(sidecar: Sidecar, server: RedisServer) -> None:
    """kill -9: all are adopted, half by a worker in Go, half by one in Python, byte for byte what was last written."""
    calls = [f"hundred-{n}" for n in range(100)]
    with example("go", sidecar.path, server.url, "hundred-dies", *calls, pool="hundred") as dying:
        wait_until(lambda: all(int(r.get(b"checkpoint", b"0")) > 2 for r in records(server, calls).values()), 30)
        dying.send(signal.SIGKILL)
        wait_until(lambda: all(r[b"state"] == b"offered" for r in records(server, calls).values()), 20)
        written = {call: r[b"data"] for call, r in records(server, calls).items()}
        with (
            example("go", sidecar.path, server.url, "hundred-go", pool="hundred", capacity=50) as go,
            example("python", sidecar.path, server.url, "hundred-python", pool="hundred", capacity=50),
        ):
            wait_until(lambda: owners(server, calls) <= {"hundred-go", "hundred-python"}, 20)
            told = {line["session"]: line["data"] for line in go.wait_for("adopted", 50)}
            assert told == {call: json.loads(written[call]) for call in told}
            assert sum(owners(server, [call]) == {"hundred-python"} for call in calls) == 50


@pytest.mark.parametrize("language", ["go", "node"])
def test_a_worker_under_the_supervisor(server: RedisServer, language: str) -> None:
    """It finds the interface and itself in its environment; its end is certified with how it ended."""
    command = [go_program()] if language == "go" else [*node_program()]
    name = f"sup-{language}"
    process = Process(
        "coordinator",
        "supervise",
        "--redis-url",
        server.url,
        "--name",
        name,
        "--pool",
        name,
        "--",
        *command,
        f"{name}-call",
    )
    try:
        [ready] = process.wait_for("ready", timeout=30)
        client: Any = server.client()
        assert client.hget(KEYS.session(f"{name}-call"), "owner").decode() == ready["instance"]
        os.kill(ready["pid"], signal.SIGKILL)
        wait_until(lambda: not process.alive)
        assert process.exit_status == 137
        assert client.hmget(KEYS.instance(ready["instance"]), "cause", "reason") == [b"exited", b"killed by SIGKILL"]
    finally:
        process.close()


def test_a_worker_in_go_lives_through_a_restart_of_its_sidecar(server: RedisServer) -> None:
    """The sidecar is killed and started again: the same instance goes on with the same call."""
    with (
        closing(Sidecar(server)) as first,
        example("go", first.path, server.url, "survives", "survives-call", pool="survives") as go,
    ):
        epoch = records(server, ["survives-call"])["survives-call"][b"epoch"]
        first.process.send(signal.SIGKILL)
        second = Sidecar(server, path=first.path)
        try:
            attached = go.wait_for("attached", 2)
            assert attached[1]["sessions"] == ["survives-call"]
            before = int(records(server, ["survives-call"])["survives-call"][b"checkpoint"])
            wait_until(lambda: int(records(server, ["survives-call"])["survives-call"][b"checkpoint"]) > before)
            assert records(server, ["survives-call"])["survives-call"][b"epoch"] == epoch
        finally:
            second.close()


@contextmanager
def lonely(server: RedisServer, language: str, name: str, *calls: str) -> Iterator[tuple[ExampleWorker, Sidecar]]:
    """A worker that holds its calls, and its sidecar, which the test kills, and which has two seconds to be started again."""
    sidecar = Sidecar(server, "--pool", name, "--sidecar-restart", "2s")
    try:
        with example(language, sidecar.path, server.url, name, *calls, pool=name) as worker:
            assert isinstance(worker, ExampleWorker)
            worker.wait_for("held")
            yield worker, sidecar
    finally:
        sidecar.close()


def died_at_ms(server: RedisServer, worker: Process) -> int:
    """When its instance was declared dead, by the clock of this machine."""
    client: Any = server.client()
    key = KEYS.instance(worker.told("attached")[0]["instance"])
    wait_until(lambda: client.hget(key, "state") == b"dead", 20, "it is declared dead")
    return int(client.hget(key, "ended_at"))


def standings(worker: Process) -> list[dict[str, Any]]:
    """What it printed of its standing."""
    worker.told("held")
    return [line for line in worker.lines if line["what"] in ("held", "in_doubt")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_killed_sidecar_puts_its_worker_in_doubt(sidecar: Sidecar, server: RedisServer, language: str) -> None:
    """Nobody tells it: its trust ends, and nobody declared it dead before; it keeps its call, and does not speak for it."""
    with lonely(server, language, f"alone-{language}", f"alone-{language}-call") as (worker, own):
        assert worker.speaks_for() == [f"alone-{language}-call"]
        own.process.send(signal.SIGKILL)
        died = died_at_ms(server, worker)
        wait_until(lambda: standings(worker)[-1]["what"] == "in_doubt", description="it is in doubt")
        assert (standings(worker)[-1]["calls"], standings(worker)[-1]["may_speak"]) == (1, False)
        assert max(line["trusted_until_ms"] for line in standings(worker)) <= died
        assert (worker.speaks_for(), worker.silent_for()) == ([], [f"alone-{language}-call"])
        assert worker.told("lost") == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_worker_that_attaches_again_too_late(sidecar: Sidecar, server: RedisServer, language: str) -> None:
    """It was declared dead meanwhile: it treats each of its calls as lost, and starts over as another instance."""
    calls = [f"tardy-{language}-{n}" for n in range(3)]
    with lonely(server, language, f"tardy-{language}", *calls) as (worker, own):
        own.process.send(signal.SIGKILL)
        died_at_ms(server, worker)
        second = Sidecar(server, "--pool", f"tardy-{language}", path=own.path)
        try:
            lost = worker.wait_for("lost", len(calls))
            assert sorted(line["session"] for line in lost) == calls
            assert {"declared dead" in line["reason"] for line in lost} == {True}
            worker.wait_for("over")
            first, second_life = (line["instance"] for line in worker.wait_for("attached", 2))
            assert first != second_life
        finally:
            second.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_worker_that_stood_still_trusts_no_old_ping(
    worker: Callable[[str], Client], server: RedisServer, language: str
) -> None:
    """Pings waited for it while it was stopped, and its sidecar died: what it reads when it goes on makes it hold nothing."""
    other = worker(f"beside-{language}").stream()  # pings come at the same pace from its sidecar
    with lonely(server, language, f"stood-{language}", f"stood-{language}-call") as (stopped, own):
        stopped.send(signal.SIGSTOP)
        other.wait_for("ping", len(other.told("ping")) + 3)
        own.process.send(signal.SIGKILL)
        died = died_at_ms(server, stopped)
        stopped.send(signal.SIGCONT)
        [detached] = stopped.wait_for("detached")  # it has read everything
        assert detached["trusted_until_ms"] <= died
        wait_until(lambda: standings(stopped)[-1]["what"] == "in_doubt", description="it is in doubt")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_worker_whose_store_comes_back_holds_again(language: str) -> None:
    """In doubt when the store stands still, and again holding its call when the store goes on: it prints both."""
    own = RedisServer()
    try:
        with lonely(own, language, f"waits-{language}", f"waits-{language}-call") as (worker, _):
            own.pause()
            wait_until(lambda: standings(worker)[-1]["what"] == "in_doubt", description="it is in doubt")
            own.resume()
            wait_until(lambda: standings(worker)[-1]["what"] == "held", description="it holds again")
            assert worker.told("lost") == []
    finally:
        own.close()


def test_a_rolling_restart_of_sidecars_moves_the_calls(server: RedisServer) -> None:
    """SIGTERM to a sidecar: its worker's call moves to a worker behind another one, and it ends when that is done."""
    one, two = Sidecar(server, "--coordinate"), Sidecar(server)
    try:
        with (
            example("go", one.path, server.url, "rolls-1", "rolls-call", pool="rolls") as old,
            example("go", two.path, server.url, "rolls-2", pool="rolls") as new,
        ):
            one.process.send(signal.SIGTERM)
            [adopted] = new.wait_for("adopted")
            assert adopted["session"] == "rolls-call"
            [lost] = old.wait_for("lost")
            assert "handed over" in lost["reason"]
            wait_until(lambda: not one.process.alive, 20)
            assert one.process.exit_status == 0
            old.wait_for("over")
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_call_that_no_worker_can_serve(server: RedisServer, language: str) -> None:
    """Its data is not what these workers can read: each that adopts it gives it back, until it is dead-lettered with its data."""
    name = f"odd-{language}"
    odd = f"{name}-bytes"
    sidecar = Sidecar(server, "--coordinate", "--pool", name, "--breaker-min", "1000")
    other = Client(sidecar.path)
    try:
        with example(language, sidecar.path, server.url, name, f"{name}-good", pool=name) as worker:
            assert isinstance(worker, ExampleWorker)
            assert other.register(f"{name}-other").status_code == 201
            other.stream().wait_for("hello")
            assert other("PUT", f"/v1/sessions/{odd}", {"recovery_data_base64": "AAEC"}).status_code == 201
            other.close()
            wait_until(lambda: records(server, [odd])[odd][b"state"] == b"dead_lettered", 30, "it is given up on")
            assert records(server, [odd])[odd][b"data"] == b"\x00\x01\x02"
            assert {line["session"] for line in worker.told("unserved")} == {odd}
            assert worker.speaks_for() == [f"{name}-good"]
    finally:
        sidecar.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_wrong_token_of_a_supervisor(server: RedisServer, sidecar: Sidecar, language: str) -> None:
    """What its environment says of it is not true: it registers itself under its name, and takes calls."""
    wrong = {
        "RECOVERY_INSTANCE": f"wrong-{language}~01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "RECOVERY_WORKER_TOKEN": "of-somebody-else",
    }
    worker = ExampleWorker(language, f"wrong-{language}", socket=sidecar.path, variables=wrong)
    try:
        worker.wait_for("attached")
        assert worker.ring(f"wrong-{language}-call") == 201
        assert owners(server, [f"wrong-{language}-call"]) == {f"wrong-{language}"}
    finally:
        worker.close()


@pytest.mark.parametrize("socket", [False, True])
def test_the_worker_of_the_chart_is_started_as_here(tmp_path: Path, socket: bool) -> None:
    """The chart runs that file, with the variables that these tests give it."""
    objects = rendering.worker(tmp_path, {"redis": {"existingSecret": "r"}, "socket": {"enabled": socket}})
    [worker] = [c for c, _ in rendering.containers(objects) if c["name"] == "worker"]
    assert worker["command"][1:] == ["/app/worker.py"]
    [files] = [one["data"] for one in rendering.of_kind(objects, "ConfigMap")]
    assert files["worker.py"].strip() == (EXAMPLES / "kubernetes/files/worker.py").read_text().strip()
    started = ExampleWorker("kubernetes", "started", url="http://127.0.0.1:1", socket="/nowhere" if socket else "")
    started.close()
    assert {variable["name"] for variable in worker["env"]} == started.variables
