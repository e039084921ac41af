"""`dead-letters`: list, show, replay, purge."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from tests.store.harness import Bench


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `dead-letters` in this process on the server of the test."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    return lambda *args: CliRunner().invoke(app, ["dead-letters", *args])


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition with two dead letters, call-1 and call-2, and one live call."""
    bench = Bench(redis_client)
    bench.init()
    bench.join("dead~1")
    bench.join("living~1")
    for n in (1, 2):
        bench.open(f"call-{n}", "dead~1", b"data %d" % n)
    bench.open("call-3", "living~1")
    bench.certify("dead~1")
    bench.claim("dead~1", ["call-1", "call-2"], max_recoveries=0)
    return bench


def state_of(bench: Bench, session: str) -> str:
    return str(bench.client.hget(bench.keys.session(session), "state").decode())


def test_list_has_an_exit_status_for_scripts(run: Any, bench: Bench) -> None:
    """Exit status 1 while there are dead letters, each with its reason."""
    result = run("list", "--json")

    assert result.exit_code == 1
    assert [(row["id"], row["reason"]) for row in json.loads(result.stdout)["dead_letters"]] == [
        ("call-1", "max_recoveries"),
        ("call-2", "max_recoveries"),
    ]


def test_an_empty_list(run: Any) -> None:
    """Exit status 0 when there are none."""
    assert run("list").exit_code == 0


def test_show(run: Any, bench: Bench) -> None:
    """A dead letter is shown, with its data only when asked for."""
    assert "data" not in json.loads(run("show", "call-1", "--json").stdout)
    assert json.loads(run("show", "call-1", "--data", "--json").stdout)["data"] == "data 1"


def test_show_of_what_is_no_dead_letter(run: Any, bench: Bench) -> None:
    """A live call is no dead letter: exit status 1."""
    assert run("show", "call-3").exit_code == 1


def test_replay_of_one(run: Any, bench: Bench) -> None:
    """The one is offered again, the other stays."""
    result = run("replay", "call-1")

    assert result.exit_code == 0
    assert (state_of(bench, "call-1"), state_of(bench, "call-2")) == ("offered", "dead_lettered")


def test_replay_of_all(run: Any, bench: Bench) -> None:
    """All are offered again, with their data in the offer."""
    result = run("replay", "--all", "--json")

    assert json.loads(result.stdout)["done"] == 2
    entries = bench.client.xrange(bench.keys.offers("default"))
    assert {fields[b"data"] for _, fields in entries} == {b"data 1", b"data 2"}


def test_replay_of_what_is_no_dead_letter(run: Any, bench: Bench) -> None:
    """A live call is not touched: exit status 1, and why."""
    result = run("replay", "call-3")

    assert result.exit_code == 1
    assert "call-3 was not offered again: it is active" in result.stderr
    assert state_of(bench, "call-3") == "active"


def test_purge_of_one_takes_its_data(run: Any, bench: Bench) -> None:
    """The record is closed, its data gone."""
    assert run("purge", "call-1").exit_code == 0
    assert state_of(bench, "call-1") == "closed"
    assert bench.client.hget(bench.keys.session("call-1"), "data") is None


def test_purge_of_all_wants_a_yes(run: Any, bench: Bench) -> None:
    """Without --yes nothing is deleted: exit status 2."""
    assert run("purge", "--all").exit_code == 2
    assert state_of(bench, "call-1") == "dead_lettered"

    assert run("purge", "--all", "--yes").exit_code == 0
    assert {state_of(bench, "call-1"), state_of(bench, "call-2")} == {"closed"}
    assert run("list").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["replay"], ["replay", "call-1", "--all"], ["purge"], ["purge", "call-1", "--all"]]
)
def test_one_or_all(run: Any, bench: Bench, arguments: Any) -> None:
    """Neither nor both is wrong usage."""
    assert run(*arguments).exit_code == 2
    assert state_of(bench, "call-1") == "dead_lettered"
