"""`coordinator drain`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from coordinator.store import calls
from tests.store.harness import Bench
from tests.waiting import wait_until


@pytest.mark.parametrize("named", ["voice-1~1", "voice-1"])
def test_an_instance_is_told_by_id_or_name(run: Any, bench: Bench, named: str) -> None:
    """It is draining from now on, takes nothing new, and is told so on its mailbox; a second time changes nothing."""
    box = bench.client.pubsub()
    box.subscribe(bench.keys.mailbox("voice-1~1"))
    assert box.get_message(timeout=5)
    result = run("drain", named, "--json")
    assert result.exit_code == 0
    [row] = json.loads(result.stdout)["drains"]
    assert (row["instance"], row["outcome"], row["sessions"]) == ("voice-1~1", "draining", 1)
    assert box.get_message(timeout=5)["data"] == b"drain voice-1~1"
    assert bench.open("call-2", "voice-1~1").word == "DRAINING"
    [again] = json.loads(run("drain", named, "--json").stdout)["drains"]
    assert again["outcome"] == "draining_already"
    box.close()


def test_waiting_ends_with_what_is_left(run: Any, bench: Bench) -> None:
    """With --wait: exit status 1 while calls are left when the time is over, 0 when none are."""
    wait = ("voice-1", "--wait", "--drain-timeout", "300ms")
    assert run("drain", *wait).exit_code == 1
    bench.close("call-1", "voice-1~1", int(bench.record("call-1")["epoch"]))
    assert run("drain", *wait).exit_code == 0


@pytest.mark.parametrize(
    ("state", "owner_state", "status"), [("active", "alive", 0), ("active", "dead", 1), ("offered", "", 1)]
)
def test_a_call_is_settled_at_a_living_owner(url: str, bench: Bench, state: str, owner_state: str, status: int) -> None:
    """With --wait, as its call leaves it: 0 only when a living instance owns the call."""
    bench.join("voice-2~1")
    command = [
        *(
            sys.executable,
            "-m",
            "coordinator",
            "drain",
            "voice-1",
            "--wait",
            "--drain-timeout",
            "2s",
            "--redis-url",
            url,
        )
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        before = looks(bench)
        wait_until(lambda: looks(bench) > before + 2)
        owner = "voice-2~1" if owner_state else ""
        bench.client.hset(bench.keys.session("call-1"), mapping={"state": state, "owner": owner})
        if owner_state == "dead":
            bench.certify(owner)
        bench.client.srem(bench.keys.owned("voice-1~1"), "call-1")
        out, _ = process.communicate(timeout=120)
    assert process.returncode == status
    assert ("1 call has no living owner" in out) == (status == 1)


def looks(bench: Bench) -> int:
    """How often anybody asked what an instance owns."""
    stats: Any = bench.client.info("commandstats")
    return int(stats.get("cmdstat_smembers", {}).get("calls", 0))


def test_it_tells_where_each_call_went(url: str, bench: Bench) -> None:
    """With --wait a line a call, and the same in JSON: handed over, and to whom."""
    bench.join("voice-2~1")
    command = [sys.executable, "-m", "coordinator", "drain", "voice-1", "--wait", "--json", "--redis-url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bench.client.hget(bench.keys.instance("voice-1~1"), "state") == b"draining")
        epoch = int(bench.record("call-1")["epoch"])
        ask = calls.ask(bench.keys, session="call-1", instance="voice-2~1", owner="voice-1~1", request="r", lease=9)
        assert bench.run(ask).word == "OK"
        before = looks(bench)
        wait_until(lambda: looks(bench) > before + 1)  # it has looked at what is owned before the call goes
        go = calls.let_go(
            bench.keys, session="call-1", instance="voice-1~1", heir="voice-2~1", epoch=epoch, pool="default"
        )
        assert bench.run(go).word == "OK"
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    [row] = json.loads(out)["drains"]
    assert row["calls"] == [{"session": "call-1", "state": "active", "owner": "voice-2~1"}]


def test_an_unknown_or_dead_instance(run: Any, bench: Bench) -> None:
    """Nobody of that id or name lives: exit status 1."""
    result = run("drain", "nobody")
    assert (result.exit_code, result.stderr) == (1, "coordinator: no living instance has the id or name nobody\n")
    bench.certify("voice-1~1")
    assert run("drain", "voice-1").exit_code == 1


def test_nonsense_is_wrong_usage(run: Any, bench: Bench) -> None:
    """What can be neither id nor name is exit status 2, and names the value."""
    result = run("drain", "two words")
    assert result.exit_code == 2
    assert "two words" in result.output
