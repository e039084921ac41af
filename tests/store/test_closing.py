"""What stays of a call that ended: who had it and when, and none of its recovery data."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from coordinator import Session, Worker
from coordinator.store import calls
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually

MARK = b"what nobody may read when the call is over"


@pytest.fixture
def owned(bench: Bench) -> int:
    """A session of the first of two instances; its epoch."""
    bench.init()
    bench.join("a~1")
    bench.join("b~1")
    return bench.open("s", "a~1", MARK).int("epoch")


def found(client: Any, mark: bytes) -> list[str]:
    """Keys in which a text stands."""
    return [key.decode() for key in client.scan_iter(count=1000) if mark in (client.dump(key) or b"")]


def test_its_recovery_data_goes_at_once_and_the_rest_stays_for_a_while(bench: Bench, owned: int) -> None:
    """The record keeps owner, epoch and times until it expires; a second close answers the same."""
    bench.checkpoint("s", "a~1", owned, 1, MARK)
    assert bench.close("s", "a~1", owned).word == "OK"
    record = bench.record("s")
    assert (record["state"], record["owner"], record["epoch"], record["pool"]) == (
        "closed",
        "a~1",
        str(owned),
        "default",
    )
    assert "data" not in record
    assert 0 < bench.client.pttl(bench.keys.session("s")) <= 60_000
    assert bench.close("s", "a~1", owned).word == "OK"
    assert found(bench.client, MARK) == []


def test_nothing_of_it_comes_back_with_a_new_call_of_the_same_id(bench: Bench, owned: int) -> None:
    """The id is opened again: the data is the new call's, under a higher epoch."""
    bench.close("s", "a~1", owned)
    answer = bench.open("s", "b~1", b"new")
    assert (answer.bytes("data"), answer.int("existing")) == (b"new", 0)
    assert answer.int("epoch") > owned


def test_a_closed_call_that_the_store_forgot_is_stated_again(bench: Bench, owned: int) -> None:
    """Lost writes bring a closed record back, its owner under a newer epoch still serves: it gets its own data, and no expiry."""
    bench.close("s", "a~1", owned)
    bench.server_id = "another"
    bench.beat("a~1")
    assert bench.reassert("s", "a~1", owned + 5, 2, b"mine").word == "OK"
    record = bench.record("s")
    assert (record["state"], record["data"]) == ("active", "mine")
    assert bench.client.pttl(bench.keys.session("s")) == -1


def test_a_dead_letter_that_a_person_closes_keeps_none_either(bench: Bench, owned: int) -> None:
    """Purged: the same as closed."""
    bench.certify("a~1")
    bench.claim("a~1", ["s"])
    bench.decline("s", "b~1", int(bench.record("s")["epoch"]), max_offers=1)
    assert bench.run(calls.purge(bench.keys, session="s", closed_ttl=60)).word == "OK"
    assert found(bench.client, MARK) == []
    assert bench.record("s")["state"] == "closed"


async def test_a_call_that_was_offered_adopted_and_closed_leaves_no_data_anywhere(url: str, bench: Bench) -> None:
    """From a dead worker to an heir that hangs up: neither record nor stream nor event has the data any more."""
    seen: list[Any] = []

    async def hang_up(session: Session) -> None:
        seen.append(session.recovery_data)

    async with coordinating(url), Worker(url, name="b") as heir, anyio.create_task_group() as tasks:
        bench.join("a~1")
        bench.open("call", "a~1", MARK)
        bench.certify("a~1")
        tasks.start_soon(heir.serve, hang_up)
        await eventually(lambda: bench.record("call").get("state") == "closed")
        assert seen == [MARK]
        assert found(bench.client, MARK) == []
        tasks.cancel_scope.cancel()
