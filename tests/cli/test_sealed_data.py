"""Commands that show recovery data: opened where they have the key, else told by the key's id."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.keyring import KeyRing
from coordinator.store import calls
from coordinator.worker.sealer import OPENING, Place, Sealer
from tests.store.harness import Bench

RING = KeyRing.generate("k1")
CANARY = '{"said":"canary"}'


@pytest.fixture
def show(url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with these keys; ``call`` is a sealed call, ``letter`` a dead letter of the same kind."""
    bench = Bench(redis_client)
    bench.init(hold_ms=1)
    bench.join("a~1")
    sealer = Sealer("recovery", KeyRing.parse(RING))
    for session in ("call", "letter"):
        sealed = sealer.seal(Place(session, "acme", OPENING), CANARY.encode(), "json")
        bench.run(
            calls.open(
                bench.keys, session=session, instance="a~1", request=bench.request(), floor=0, pool="default", tenant="acme",
                requires="", **sealed,
            )
        )  # fmt: skip
    bench.release("letter", "a~1", int(bench.record("letter")["epoch"]))
    bench.end_lease("letter")
    bench.expire("letter", give_up_after_ms=-1)
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)

    def run(keys: str, *command: str) -> Any:
        monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS", keys)
        return CliRunner().invoke(app, [*command])

    return run


@pytest.mark.parametrize("command", [("session", "call"), ("dead-letters", "show", "letter")], ids=" ".join)
def test_data_is_shown_by_who_has_the_key(show: Any, command: tuple[str, ...]) -> None:
    """With --data and the key as it was written; without the key its id, and never the sealed bytes; else nothing of it."""
    assert json.loads(show(RING, *command, "--data", "--json").stdout)["data"] == CANARY
    for keys in ("", KeyRing.generate("k2")):
        assert json.loads(show(keys, *command, "--data", "--json").stdout)["data"] == {"sealed_with": "k1"}
        if command[0] == "session":
            assert json.loads(show(keys, *command, "--json").stdout)["sealed_with"] == "k1"
    assert "canary" not in show(RING, *command).stdout


def test_sealed_data_that_was_changed_is_told(show: Any, redis_client: redis.Redis) -> None:
    """What is wrong stands in the place of the data; the command goes on."""
    redis_client.hset("{recovery:0}:session:call", "tenant", "globex")
    found = json.loads(show(RING, "session", "call", "--data", "--json").stdout)
    assert found["data"]["sealed_with"] == "k1"
    assert "changed since" in found["data"]["fault"]


def test_a_sealed_dead_letter_is_replayed(show: Any, redis_client: redis.Redis) -> None:
    """By a command without keys: it moves what it cannot read."""
    before = redis_client.hget("{recovery:0}:session:letter", "data")
    assert show("", "dead-letters", "replay", "letter").exit_code == 0
    record = redis_client.hmget("{recovery:0}:session:letter", "state", "data")
    assert record == [b"offered", before]
    redis_client.flushall()
