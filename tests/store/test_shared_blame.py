"""What the scripts keep of who died with whom: who is blamed, convicted, kept apart, and in whose turn he is offered."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordinator.store import calls
from tests.store.harness import LEASE, Bench

HEIR = "heir~1"


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition with an heir."""
    made = Bench(redis_client)
    made.init()
    made.end_hold()
    made.join(HEIR)
    return made


def orphaned_once(bench: Bench, count: int = 4) -> list[str]:
    """So many calls that died with their first owner and were adopted by the heir."""
    names = [f"s{n}" for n in range(count)]
    bench.join("first~1")
    for name in names:
        bench.open(name, "first~1", b"data")
    bench.certify("first~1")
    bench.claim("first~1", names)
    for name in names:
        assert bench.adopt(name, HEIR, None).word == "OK"
    return names


def judge(bench: Bench, grave: str = HEIR, **verdict: Any) -> str:
    """The verdict is told; its answer."""
    told = {"blamed_from_ms": 0, "convict": "", "apart": 0, "probation": 0, **verdict}
    return bench.run(calls.blame(bench.keys, grave=grave, **told)).word


def claim(bench: Bench, names: list[str], *, grave: str = HEIR, heirs: int = 1, max_recoveries: int = 3) -> Any:
    """The dead one's calls are offered."""
    return bench.run(
        calls.claim(
            bench.keys, grave=grave, sessions=names, pool="default", lease=LEASE, max_recoveries=max_recoveries,
            recovery_window=600, heirs=heirs, room=100,
        )
    )  # fmt: skip


def blamed(bench: Bench, instance: str) -> set[str]:
    """Whom it owns of those that died before."""
    return bench.members(bench.keys.blamed(instance))


def test_who_died_before_is_listed_with_its_owner(bench: Bench) -> None:
    """An adopted call that lost an owner before is listed; one that was opened, or given up in order, is not."""
    names = orphaned_once(bench, 2)
    bench.open("fresh", HEIR)
    assert blamed(bench, HEIR) == set(names)


@pytest.mark.parametrize("end", ["close", "release"])
def test_who_ends_or_goes_is_not_listed_any_more(bench: Bench, end: str) -> None:
    """A call that ended, or that its owner gave up, dies with nobody any more."""
    [name] = orphaned_once(bench, 1)
    assert getattr(bench, end)(name, HEIR, int(bench.record(name)["epoch"])).word == "OK"
    assert blamed(bench, HEIR) == set()


def test_a_handover_takes_it_along(bench: Bench) -> None:
    """A call that died before and is handed over is listed with its new owner."""
    [name] = orphaned_once(bench, 1)
    bench.join("next~1")
    epoch = int(bench.record(name)["epoch"])
    ask = calls.ask(bench.keys, session=name, instance="next~1", owner=HEIR, request="r", lease=LEASE)
    assert bench.run(ask).word == "OK"
    go = calls.let_go(bench.keys, session=name, instance=HEIR, heir="next~1", epoch=epoch, pool="default")
    assert bench.run(go).word == "OK"
    assert (blamed(bench, HEIR), blamed(bench, "next~1")) == (set(), {name})


def test_the_list_ends_with_the_grave(bench: Bench) -> None:
    """Nothing of it is left when all was claimed."""
    names = orphaned_once(bench, 2)
    bench.certify(HEIR)
    claim(bench, names)
    bench.run(calls.settle(bench.keys, grave=HEIR, fenced_ttl=60))
    assert not bench.client.exists(bench.keys.blamed(HEIR))


def test_only_the_convict_becomes_a_dead_letter(bench: Bench) -> None:
    """Four calls have died too often: the one to blame is given up on, the others are offered."""
    names = orphaned_once(bench)
    bench.certify(HEIR)
    judge(bench, convict="s2")
    answer = claim(bench, names, max_recoveries=1)
    assert (answer.int("offered"), answer.int("dead_lettered")) == (3, 1)
    assert {name: bench.record(name)["state"] for name in names} == {
        **dict.fromkeys(names, "offered"),
        "s2": "dead_lettered",
    }


def test_without_a_convict_nobody_does(bench: Bench) -> None:
    """As long as several may have done it all are offered, however often they died."""
    names = orphaned_once(bench)
    bench.certify(HEIR)
    judge(bench, apart=1)
    assert claim(bench, names, max_recoveries=1).int("offered") == 4
    assert {bench.record(name)["recoveries"] for name in names} == {"2"}


def test_no_recoveries_means_none(bench: Bench) -> None:
    """With MAX_RECOVERIES=0 no call is recovered at all, whoever is to blame."""
    names = orphaned_once(bench, 2)
    bench.certify(HEIR)
    judge(bench, apart=1)
    assert claim(bench, names, max_recoveries=0).int("dead_lettered") == 2


def test_who_was_there_for_long_is_not_counted(bench: Bench) -> None:
    """The verdict names since when: whoever came before is offered without another recovery."""
    names = orphaned_once(bench, 2)
    bench.client.zadd(bench.keys.blamed(HEIR), {"s0": 5})
    bench.open("never-died", HEIR)
    bench.certify(HEIR)
    judge(bench, blamed_from_ms=1000, convict="s1", apart=1, probation=2)
    claim(bench, [*names, "never-died"])
    assert [bench.record(name)["recoveries"] for name in (*names, "never-died")] == ["1", "2", "0"]
    assert [bench.record(name)["apart"] for name in (*names, "never-died")] == ["0", "1", "0"]


def test_the_first_verdict_stands(bench: Bench) -> None:
    """Two coordinators judge at once, the second by what is left: whoever claims goes by the first."""
    names = orphaned_once(bench)
    bench.certify(HEIR)
    assert judge(bench, apart=2, probation=1) == "OK"
    claim(bench, names[:3])
    assert judge(bench, convict="s3", apart=1) == "OK"
    assert claim(bench, names[3:], max_recoveries=1).int("offered") == 1


def test_the_living_are_not_judged(bench: Bench) -> None:
    """A verdict about an instance that lives, or that nobody knows, is refused."""
    assert judge(bench) == "GONE"
    assert judge(bench, grave="nobody~1") == "GONE"


def test_those_kept_apart_are_offered_in_turn(bench: Bench) -> None:
    """One heir and one at a time: one is offered now, the others wait for their turn and have no entry until then."""
    names = orphaned_once(bench)
    bench.certify(HEIR)
    bench.join("next~1")
    judge(bench, apart=1, probation=10)
    claim(bench, names[:2])
    claim(bench, names[2:])
    assert bench.client.xlen(bench.keys.offers("default")) == 1
    turns = {n: int(bench.record(n)["lease_until"]) for n in names if not bench.record(n)["offer_id"]}
    first, *others = sorted(turns.values())
    assert [round((turn - first) / 1000) for turn in others] == [10, 20]
    waiting = min(turns, key=lambda name: turns[name])
    bench.end_lease(waiting)
    assert bench.expire(waiting).word == "REWRITTEN"
    [entry] = bench.client.xrevrange(bench.keys.offers("default"), count=1)
    assert (entry[1][b"session"].decode(), entry[1][b"apart"], entry[1][b"probation_ms"]) == (waiting, b"1", b"10000")


def test_more_heirs_take_more_at_once(bench: Bench) -> None:
    """Two heirs and two at a time each: four are offered now."""
    names = orphaned_once(bench, 5)
    bench.certify(HEIR)
    judge(bench, apart=2, probation=10)
    claim(bench, names, heirs=2)
    assert bench.client.xlen(bench.keys.offers("default")) == 4


def test_a_waiting_one_is_adopted_at_its_callers_door(bench: Bench) -> None:
    """Its turn has not come, and the caller is at a worker's door: it is adopted by its id."""
    names = orphaned_once(bench, 2)
    bench.certify(HEIR)
    bench.join("next~1")
    judge(bench, apart=1, probation=10)
    claim(bench, names)
    [waiting] = [name for name in names if not bench.record(name)["offer_id"]]
    assert bench.adopt(waiting, "next~1", None).word == "OK"


def test_an_offer_says_how_many_there_are_and_for_how_much_room(bench: Bench) -> None:
    """With that each heir knows its share: the number of the whole death, whichever batch it is in."""
    names = orphaned_once(bench, 4)
    bench.certify(HEIR)
    claim(bench, names[:1])
    claim(bench, names[1:])
    entries = bench.client.xrange(bench.keys.offers("default"))
    assert {(fields[b"died_with"], fields[b"room"]) for _, fields in entries} == {(b"4", b"100")}


def test_what_a_dead_reader_had_in_hand_is_read_apart(bench: Bench) -> None:
    """Of several that were read by a reader that died, none is given up on, and they are read one at a time from then on."""
    names = orphaned_once(bench, 2)
    bench.certify(HEIR)
    bench.join("next~1")
    claim(bench, names)
    bench.read_offers("next~1")
    entry = bench.record("s0")["offer_id"]
    call = calls.expire(
        bench.keys, session="s0", pool="default", lease=LEASE, max_offers=1, give_up_after=600,
        entry_of_dead=entry, alone=False, apart=1,
    )  # fmt: skip
    assert bench.run(call).word == "OFFERED"
    assert (bench.record("s0")["offers"], bench.record("s0")["apart"]) == ("2", "1")
