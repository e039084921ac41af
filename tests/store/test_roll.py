"""The roll of an instance: scripts keep it as sessions change hands, and a beat compares it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.store import calls
from coordinator.worker.ledger import mark
from tests.store.harness import LEASE, Bench

A, B = "a~1", "b~1"


@pytest.fixture
def opened(two: Bench) -> Bench:
    """Two instances, the first with an open session."""
    two.open("s", A, b"data")
    return two


def agrees(bench: Bench) -> bool:
    """Whether each living instance's roll is that of the records that name it as owner."""
    rolls = dict.fromkeys((A, B), 0)
    record = bench.record("s")
    if record.get("state") in ("active", "handing_over"):
        rolls[record["owner"]] = mark("s", int(record["epoch"]))
    dead = [i for i in rolls if bench.client.hget(bench.keys.instance(i), "state") == b"dead"]
    return all(bench.roll(i) == roll for i, roll in rolls.items() if i not in dead)


def _epoch(bench: Bench) -> int:
    return int(bench.record("s")["epoch"])


def _let_go(bench: Bench) -> None:
    bench.run(calls.ask(bench.keys, session="s", instance=B, owner=A, request="ask", lease=LEASE))
    answer = bench.run(
        calls.let_go(
            bench.keys, session="s", instance=A, heir=B, epoch=_epoch(bench), pool="default", data=b"", sequence=0
        )
    )
    assert answer.word == "OK"


def _renew(bench: Bench) -> None:
    epoch = _epoch(bench)
    assert bench.reassert("s", A, epoch).word == "OK"
    assert bench.run(calls.renew(bench.keys, session="s", instance=A, epoch=epoch)).int("epoch") > epoch


def _take_back(bench: Bench) -> None:
    """In a hold the first owner states a higher epoch than the rival's, who has it in the store."""
    _let_go(bench)
    epoch = _epoch(bench)
    bench.server_id = "promoted"
    bench.beat(A)
    assert bench.reassert("s", A, epoch + 1).word == "AGAIN"
    assert bench.reassert("s", A, epoch + 1, rival=B).word == "OK"


def _older(bench: Bench) -> None:
    """The store has an older epoch of the same owner."""
    assert bench.reassert("s", A, _epoch(bench) + 5).word == "OK"


def _forgotten(bench: Bench) -> None:
    """The record is gone, its mark with it, as after writes that were lost."""
    epoch = _epoch(bench)
    bench.client.delete(bench.keys.session("s"), bench.keys.owned(A))  # as if the opening was never written
    bench.client.hdel(bench.keys.instance(A), "roll")
    assert bench.reassert("s", A, epoch).word == "OK"


def _repair(bench: Bench) -> None:
    bench.client.srem(bench.keys.owned(A), "s")
    assert bench.run(calls.repair(bench.keys, session="s", owner=A, dead_after=60)).word == "OK"


def _adopt(bench: Bench) -> None:
    bench.release("s", A, _epoch(bench))
    assert bench.adopt("s", B, None).word == "OK"


@pytest.mark.parametrize(
    "move",
    [
        lambda b: b.open("s", A),
        lambda b: b.close("s", A, _epoch(b)),
        lambda b: b.release("s", A, _epoch(b)),
        lambda b: (b.certify(A), b.claim(A, ["s"]), b.adopt("s", B, None)),
        _adopt, _let_go, _renew, _take_back, _older, _forgotten, _repair,
    ],
    ids=["open", "close", "release", "claim", "adopt", "let_go", "renew", "take_back", "older", "forgotten", "repair"],
)  # fmt: skip
def test_the_roll_follows_what_changes_hands(opened: Bench, move: Callable[[Bench], object]) -> None:
    """Each script that changes an owner or an epoch leaves every living instance's roll as the records say."""
    assert agrees(opened)
    move(opened)
    assert agrees(opened)


def test_as_many_sessions_but_others_are_an_unequal_roll(opened: Bench) -> None:
    """An unknown opening beside an unknown end leaves the count as it was: the beat says RESYNC all the same."""
    believed = f"1 {mark('s', _epoch(opened))}"
    opened.close("s", A, _epoch(opened))
    opened.open("t", A)
    assert opened.beat(A, roll=believed).word == "RESYNC"
    assert opened.beat(A, roll=opened.called(A)).word == "OK"


def test_the_same_session_under_another_epoch_is_an_unequal_roll(opened: Bench) -> None:
    """A renewal whose answer was lost is found by the next beat."""
    believed = f"1 {mark('s', _epoch(opened))}"
    _renew(opened)
    assert opened.beat(A, roll=believed).word == "RESYNC"


def test_a_roll_that_nobody_kept_is_set_right_once_it_was_compared(opened: Bench) -> None:
    """A program of an older version let go to it without its roll: it states the roll that it found, unless that moved."""
    right = opened.roll(A)
    opened.client.hset(opened.keys.instance(A), "roll", "17")
    assert opened.run(calls.agree(opened.keys, instance=A, seen="16", roll=right, sessions=[])).word == "CHANGED"
    assert opened.run(calls.agree(opened.keys, instance=A, seen="17", roll=right, sessions=[])).word == "OK"
    assert opened.run(calls.agree(opened.keys, instance=A, seen="17", roll=right, sessions=[])).word == "OK"
    assert opened.beat(A, roll=f"1 {right}").word == "OK"
    opened.certify(A)
    assert opened.run(calls.agree(opened.keys, instance=A, seen="", roll=0, sessions=[])).word == "FENCED"
    assert opened.run(calls.agree(opened.keys, instance="ghost~1", seen="", roll=0, sessions=[])).word == "UNKNOWN"
    assert not opened.client.exists(opened.keys.instance("ghost~1"))


def test_an_index_that_names_what_is_not_its_own_is_set_right(opened: Bench) -> None:
    """Entries without a record, or of a closed one, go when the instance has compared; its own stay."""
    opened.open("t", A)
    opened.close("t", A, int(opened.record("t")["epoch"]))
    opened.client.sadd(opened.keys.owned(A), "ghost", "t")
    call = calls.agree(
        opened.keys, instance=A, seen=str(opened.roll(A)), roll=opened.roll(A), sessions=["ghost", "t", "s"]
    )
    assert opened.run(call).word == "OK"
    assert opened.owned(A) == {"s"}
