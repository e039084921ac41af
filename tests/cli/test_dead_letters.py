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


UNFIT = {
    "nested": {"data": '{"a":' * 963 + "1" + "}" * 963, "encoding": "json"},
    "torn": {"data": '{"a":', "encoding": "json"},
    "number": {"data": '{"a":9007199254740992}', "encoding": "json"},
    "requires": {"requires": "abc"},
    "tenant": {"tenant": "a\x1b"},
    "pool": {"pool": "a b"},
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_no_worker_could_read_is_not_offered_again(run: Any, bench: Bench, what: str) -> None:
    """It stays a dead letter with all that it has, one sentence says why, and the others are offered."""
    key = bench.keys.session("call-1")
    bench.client.hset(key, mapping=UNFIT[what])
    before = bench.client.hgetall(key)

    one, all_of_them = run("replay", "call-1"), run("replay", "--all", "--json")

    assert one.exit_code == all_of_them.exit_code == 1
    assert "call-1 was not offered again: no worker could read it" in one.stderr
    rows = {row["session"]: row for row in json.loads(all_of_them.stdout)["sessions"]}
    assert (rows["call-1"]["answer"], rows["call-2"]["answer"]) == ("UNFIT", "OK")
    assert what in rows["call-1"]["fault"] or "recovery data" in rows["call-1"]["fault"]
    assert bench.client.hgetall(key) == before
    assert state_of(bench, "call-2") == "offered"


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


def opened_again(bench: Bench) -> str:
    """call-1 is opened again by a living instance; the dead letter's epoch."""
    epoch = bench.record("call-1")["epoch"]
    assert bench.open("call-1", "living~1", b"new", letter_epoch=epoch).word == "OK"
    return epoch


def test_a_letter_whose_id_was_opened_again(run: Any, bench: Bench) -> None:
    """It is listed with its epoch, shown with its own data, refused while its id is a live call, and purged alone."""
    epoch = opened_again(bench)
    rows = {row["id"]: row for row in json.loads(run("list", "--json").stdout)["dead_letters"]}
    assert (rows["call-1"]["epoch"], rows["call-1"]["opened_again"]) == (int(epoch), True)
    assert json.loads(run("show", "call-1", "--json", "--data").stdout)["data"] == "data 1"
    assert run("show", "call-1", "--epoch", "7", "--json").exit_code == 1
    refused = run("replay", "call-1")
    assert refused.exit_code == 1
    assert "opened again, and is active now" in refused.output
    assert run("purge", "call-1", "--epoch", epoch).exit_code == 0
    assert bench.record("call-1")["data"] == "new"
    assert state_of(bench, "call-1") == "active"


def test_a_letter_comes_back_when_its_id_is_free(run: Any, bench: Bench) -> None:
    """The second call of that id ended: the first is offered again, with its data."""
    opened_again(bench)
    bench.end_hold()
    bench.close("call-1", "living~1", int(bench.record("call-1")["epoch"]))
    assert run("replay", "call-1").exit_code == 0
    assert (state_of(bench, "call-1"), bench.record("call-1")["data"]) == ("offered", "data 1")
