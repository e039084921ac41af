"""``coordinator quarantine``: what did not parse, and what a person does about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.store.setting_aside import set_aside
from tests.cli.test_doctor import doctor
from tests.store.harness import Bench


def run(url: str, *arguments: str) -> tuple[int, str]:
    """Exit status and all that was printed."""
    done = CliRunner(env={"COORDINATOR_REDIS_URL": url}).invoke(app, arguments)
    return done.exit_code, done.output


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition."""
    made = Bench(redis_client)
    made.init()
    made.end_hold()
    return made


@pytest.fixture
def broken(bench: Bench) -> Bench:
    """A call of a dead owner whose `requires` is no JSON, and an instance's labels."""
    for name in ("a~1", "b~1"):
        bench.join(name)
    bench.open("call-1", "a~1", b'{"sequence": 7}')
    bench.certify("a~1")
    client: Any = bench.client
    client.hset(bench.keys.session("call-1"), "requires", "abc")
    client.hset(bench.keys.instance("b~1"), "labels", "abc")
    for kind, name, field in (("session", "call-1", "requires"), ("instance", "b~1", "labels")):
        bench.run(
            set_aside(
                bench.keys, kind=kind, name=name, wanted="hash", fault=f"{field} is broken", broken={field: b"abc"},
                owner="a~1",
            )
        )  # fmt: skip
    return bench


def test_it_is_listed_with_the_reason(url: str, broken: Bench) -> None:
    """Name and fault of each, exit status 1; in JSON too."""
    status, text = run(url, "quarantine", "list")
    assert status == 1
    assert "session:call-1" in text
    assert "requires is broken" in text
    _, text = run(url, "quarantine", "list", "--json")
    assert {row["name"] for row in json.loads(text)["set_aside"]} == {"session:call-1", "instance:b~1"}


def test_nothing_to_list(url: str, bench: Bench) -> None:
    """Exit status 0, and a sentence."""
    assert run(url, "quarantine", "list") == (0, "nothing was set aside\n")


def test_the_fields_are_shown_as_they_were(url: str, broken: Bench) -> None:
    """The broken one too; recovery data only when it is asked for."""
    status, text = run(url, "quarantine", "show", "session:call-1", "--json")
    assert status == 0
    fields = json.loads(text)["fields"]
    assert (fields["requires"], fields["owner"], fields["data"]) == ("abc", "a~1", "15 B")
    _, text = run(url, "quarantine", "show", "session:call-1", "--json", "--data")
    assert json.loads(text)["fields"]["data"] == '{"sequence": 7}'


def test_a_key_of_another_type_is_named_where_it_is_kept(url: str, bench: Bench) -> None:
    """Its value is no field of a record, so the command says under which key it lies, as it was."""
    bench.client.set(bench.keys.session("call-9"), b"\x1b[2Jtext")
    bench.run(set_aside(bench.keys, kind="session", name="call-9", wanted="hash", fault="is a string", broken={}))
    _, text = run(url, "quarantine", "show", "session:call-9", "--json")
    key = json.loads(text)["key"]
    assert bench.client.get(key) == b"\x1b[2Jtext"
    status, text = run(url, "quarantine", "show", "session:call-9")
    assert (status, key in text, "string" in text) == (0, True, True)


def test_a_repaired_call_is_offered_again(url: str, broken: Bench) -> None:
    """It is a dead letter with its data; after the repair it is replayed with the value that was given."""
    assert broken.record("call-1")["state"] == "dead_lettered"
    status, text = run(url, "quarantine", "repair", "session:call-1", "--set", 'requires=["gpu"]')
    assert (status, text) == (0, "session:call-1: 1 fields written\n")
    assert run(url, "dead-letters", "replay", "call-1")[0] == 0
    record = broken.record("call-1")
    assert (record["state"], record["requires"], record["data"]) == ("offered", '["gpu"]', '{"sequence": 7}')
    assert run(url, "quarantine", "repair", "session:call-1", "--set", "pool=x")[0] == 1


def test_a_call_that_goes_on_is_not_repaired(url: str, broken: Bench) -> None:
    """It was replayed, and has an owner again: nothing is written over what that one says, and the list can be cleared."""
    broken.client.hset(broken.keys.session("call-1"), "requires", "[]")
    assert run(url, "dead-letters", "replay", "call-1")[0] == 0
    before = broken.record("call-1")
    status, text = run(url, "quarantine", "repair", "session:call-1", "--set", "pool=other")
    assert status == 1
    assert "the call goes on (offered)" in text
    assert broken.record("call-1") == before
    assert run(url, "quarantine", "drop", "session:call-1")[0] == 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("requires=abc", "'abc' is not a JSON list of texts (requires)"),
        ("nothing=1", "'nothing=1' is not FIELD=VALUE with a field of a session"),
        ("pool", "'pool' is not FIELD=VALUE"),
        ("epoch=5", "epoch is written by the protocol alone in a session"),
        ("state=closed", "state is written by the protocol alone in a session"),
    ],
)
def test_a_value_that_does_not_parse_is_refused(url: str, broken: Bench, word: str, told: str) -> None:
    """One sentence with the value and the rule, exit status 2, and nothing is lost."""
    status, text = run(url, "quarantine", "repair", "session:call-1", "--set", word)
    assert status == 2
    assert told in text
    assert run(url, "quarantine", "show", "session:call-1")[0] == 0


def test_what_was_dropped_is_gone(url: str, broken: Bench) -> None:
    """Its fields too; a second time there is none of that name."""
    assert run(url, "quarantine", "drop", "instance:b~1") == (0, "instance:b~1: dropped\n")
    assert run(url, "quarantine", "drop", "instance:b~1")[0] == 1
    assert not broken.client.exists(broken.keys.set_aside("instance:b~1"))


def test_doctor_counts_it(url: str, broken: Bench) -> None:
    """A warning that names the command."""
    _, findings = doctor(url)
    assert findings["quarantine"]["level"] == "warn"
    assert findings["quarantine"]["advice"] == "coordinator quarantine list"
