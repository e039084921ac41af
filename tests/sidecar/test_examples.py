"""Workers in three languages take each other's calls over."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.sidecar.conftest import Sidecar
from tests.sidecar.examples import example, go_program, node_program
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
            example("python", sidecar.path, server.url, "hundred-python", pool="hundred"),
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
    patient = ("--dead-after", "20s", "--lost-connection-after", "15s")
    first = Sidecar(server, *patient)
    with example("go", first.path, server.url, "survives", "survives-call", pool="survives") as go:
        epoch = records(server, ["survives-call"])["survives-call"][b"epoch"]
        first.process.send(signal.SIGKILL)
        second = Sidecar(server, *patient, path=first.path)
        try:
            attached = go.wait_for("attached", 2)
            assert attached[1]["sessions"] == ["survives-call"]
            before = int(records(server, ["survives-call"])["survives-call"][b"checkpoint"])
            wait_until(lambda: int(records(server, ["survives-call"])["survives-call"][b"checkpoint"]) > before)
            assert records(server, ["survives-call"])["survives-call"][b"epoch"] == epoch
        finally:
            second.close()
            first.close()


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
