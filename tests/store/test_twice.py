"""A lost reply is normal: every script is called twice with the same request, and the second call changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.store import calls
from coordinator.store.past import Past
from coordinator.store.pruning import prune
from coordinator.store.scripts import SCRIPTS, ScriptCall
from coordinator.store.setting_aside import set_aside, set_aside_member
from tests.store.harness import LEASE, TRUST, Bench

A, B = "a~1", "b~1"
TIMES = re.compile(r"(_at|_until|_ms|last_scan)$|_ms$|^(evidence|ended|held_total)")


def _ready(bench: Bench) -> int:
    """Two instances, the first with an open session; its epoch."""
    bench.init()
    bench.end_hold()
    bench.join(A)
    bench.join(B)
    return bench.open("s", A, b"data").int("epoch")


def _written_by_a_child(bench: Bench) -> int:
    """A child process of its owner is attached."""
    epoch = _ready(bench)
    bench.run(calls.trust(bench.keys, session="s", instance=A, epoch=epoch, child=B, belief=1.5))
    return epoch


def _orphaned(bench: Bench) -> int:
    """Its owner is dead and the session offered; the offer's epoch."""
    _ready(bench)
    bench.certify(A)
    bench.claim(A, ["s"])
    return int(bench.record("s")["epoch"])


def _given_up(bench: Bench) -> int:
    """It is a dead letter."""
    epoch = _orphaned(bench)
    bench.decline("s", B, epoch, max_offers=1)
    return epoch


def _asked(bench: Bench) -> int:
    """The second instance waits for a handover."""
    epoch = _ready(bench)
    bench.run(calls.ask(bench.keys, session="s", instance=B, owner=A, request="ask-1", lease=LEASE))
    return epoch


def _silent(bench: Bench) -> int:
    """The deadline of the first is over, and somebody looks regularly."""
    epoch = _ready(bench)
    bench.client.zadd(bench.keys.instances, {A: 5})
    seconds, microseconds = bench.client.time()
    bench.client.hset(bench.keys.detector, "last_scan_ms", seconds * 1000 + microseconds // 1000)
    return epoch


def _restated(bench: Bench) -> int:
    """It was re-asserted and the hold is over."""
    epoch = _ready(bench)
    bench.reassert("s", A, epoch, 1, b"newer")
    return epoch


def _buried(bench: Bench) -> int:
    """Nothing is left of the grave."""
    return _orphaned(bench)


def _lost_index(bench: Bench) -> int:
    """The owner's index entry is gone."""
    epoch = _ready(bench)
    bench.client.srem(bench.keys.owned(A), "s")
    return epoch


def _due(bench: Bench) -> int:
    """The lease of an offer that somebody read is over."""
    epoch = _orphaned(bench)
    bench.read_offers(B)
    bench.end_lease("s")
    return epoch


def _read(bench: Bench) -> int:
    """The second instance has the offer in hand."""
    epoch = _orphaned(bench)
    bench.read_offers(B)
    return epoch


def _leftovers(bench: Bench) -> int:
    """What nothing stands behind: a name, an orphan, an offer."""
    epoch = _orphaned(bench)
    bench.client.hset(bench.keys.names, "gone", "gone~1")
    bench.client.delete(bench.keys.session("s"))
    return epoch


def _set_aside(bench: Bench) -> int:
    """A record's field did not parse and was set aside."""
    epoch = _broken(bench)
    bench.run(set_aside(bench.keys, kind="instance", name=A, wanted="hash", fault="labels", broken={"labels": b"abc"}))
    return epoch


def _listed(bench: Bench) -> int:
    """A member of an index is no id."""
    epoch = _ready(bench)
    bench.client.zadd(bench.keys.graves, {"no id": 7})
    return epoch


def _broken(bench: Bench) -> int:
    """A field of a living instance does not parse."""
    epoch = _ready(bench)
    bench.client.hset(bench.keys.instance(A), "labels", "abc")
    return epoch


def _entry(bench: Bench) -> str:
    """The one entry of the pool's offers."""
    [(entry, _)] = bench.client.xrange(bench.keys.offers("default"))
    return str(entry.decode())


Make = Callable[[Bench, int], ScriptCall[Any]]
K: Any = calls
COMMON: dict[str, Any] = {"lease": LEASE}
LIMITS: dict[str, Any] = {**COMMON, "max_recoveries": 3, "recovery_window": 600}

CASES: dict[str, tuple[Callable[[Bench], int], Make]] = {
    "allowed": (_ready, lambda b, e: K.allowed(scratch=b.keys.scratch, tries=[f"HGET\n{b.keys.scratch}\nx"])),
    "init": (
        lambda b: 0,
        lambda b, e: K.init(b.keys, partitions=1, protocol=1, lineage="lineage-1", hold=0.001, previous=""),
    ),
    "join": (
        _ready,
        lambda b, e: K.join(
            b.keys, instance="c~1", name="c", pool="default", capacity=1, labels="{}", address="", dead_after=60,
            trust=TRUST,
        ),
    ),
    "beat": (
        _ready,
        lambda b, e: K.beat(
            b.keys, instance=A, dead_after=60, seen_server=b.server_id, past=Past("lineage-1"), roll=b.called(A), loop_lag=0.003
        ),
    ),
    "scan": (_silent, lambda b, e: K.scan(b.keys, max_scan_gap=60, hold=0.001, horizon=0.001)),
    "declare": (_silent, lambda b, e: K.declare(b.keys, instance=A, deadline_ms=5, max_scan_gap=60)),
    "certify": (_ready, lambda b, e: K.certify(b.keys, instance=A, cause="exited", by="t", reason="r")),
    "claim": (
        lambda b: (_ready(b), b.certify(A))[0],
        lambda b, e: K.claim(b.keys, grave=A, sessions=["s"], pool="default", **LIMITS),
    ),
    "blame": (
        _buried,
        lambda b, e: K.blame(b.keys, grave=A, blamed_from_ms=0, convict="", apart=1, probation=1),
    ),
    "settle": (_buried, lambda b, e: K.settle(b.keys, grave=A, fenced_ttl=60)),
    "open": (
        _ready,
        lambda b, e: K.open(
            b.keys, session="new", instance=A, request="r1", floor=0, pool="default", tenant="", requires="", data=b"x"
        ),
    ),
    "checkpoint": (_ready, lambda b, e: K.checkpoint(b.keys, session="s", instance=A, epoch=e, sequence=1, data=b"x")),
    "close": (
        _ready,
        lambda b, e: K.close(b.keys, session="s", instance=A, epoch=e, pool="default", closed_ttl=60),
    ),
    "release": (
        _ready,
        lambda b, e: K.release(
            b.keys, session="s", instance=A, epoch=e, request="r1", pool="default", reason="", cause="released", **LIMITS
        ),
    ),
    "adopt": (
        _orphaned,
        lambda b, e: K.adopt(b.keys, session="s", instance=B, request="r1", epoch=e, pool="default", floor=0),
    ),
    "decline": (
        _orphaned,
        lambda b, e: K.decline(
            b.keys, session="s", instance=B, epoch=e, pool="default", reason="", counts=True, max_offers=5, **COMMON
        ),
    ),
    "delegate": (
        _orphaned,
        lambda b, e: K.delegate(b.keys, session="s", instance=B, epoch=e, pool="default", **COMMON),
    ),
    "ask": (
        _ready,
        lambda b, e: K.ask(b.keys, session="s", instance=B, owner=A, request="r1", **COMMON),
    ),
    "withdraw": (_asked, lambda b, e: K.withdraw(b.keys, session="s", instance=B, request="ask-1", pool="default")),
    "extend_leases": (
        _read,
        lambda b, e: K.extend_leases(b.keys, instance=B, sessions=["s"], epochs=[str(e)], lease=2 * LEASE),
    ),
    "hand_over": (
        _ready,
        lambda b, e: K.hand_over(b.keys, session="s", instance=A, epoch=e, pool="default", **COMMON),
    ),
    "drain": (_ready, lambda b, e: K.drain(b.keys, instance=A, by="t", reason="r")),
    "let_go": (
        _asked,
        lambda b, e: K.let_go(
            b.keys, session="s", instance=A, heir=B, epoch=e, pool="default", data=b"last", sequence=1
        ),
    ),
    "resumed": (_ready, lambda b, e: K.resumed(b.keys, session="s", instance=A, epoch=e)),
    "reassert": (
        _ready,
        lambda b, e: K.reassert(
            b.keys, session="s", instance=A, epoch=e, sequence=1, data=b"x", pool="default", tenant="", requires="",
            opened_at_ms=1,
        ),
    ),
    "agree": (_ready, lambda b, e: K.agree(b.keys, instance=A, seen=str(b.roll(A)), roll=17, sessions=["ghost"])),
    "renew": (_restated, lambda b, e: K.renew(b.keys, session="s", instance=A, epoch=e)),
    "expire": (
        _due,
        lambda b, e: K.expire(b.keys, session="s", pool="default", max_offers=5, give_up_after=600, **COMMON),
    ),
    "repair": (_lost_index, lambda b, e: K.repair(b.keys, session="s", owner=A, dead_after=60)),
    "replay": (_given_up, lambda b, e: K.replay(b.keys, session="s", pool="default", **COMMON)),
    "purge": (_given_up, lambda b, e: K.purge(b.keys, session="s", closed_ttl=60)),
    "forget": (_leftovers, lambda b, e: K.forget(b.keys, names=["gone"], instances=["gone~1"])),
    "prune": (_leftovers, lambda b, e: prune(b.keys, index="orphans", members=["s"])),
    "trim": (_leftovers, lambda b, e: K.trim(b.keys, pool="default", sessions=["s"], entries=[_entry(b)])),
    "trust": (_ready, lambda b, e: K.trust(b.keys, session="s", instance=A, epoch=e, child=B, belief=0.5)),
    "correct": (
        _set_aside,
        lambda b, e: K.correct(b.keys, member=f"instance:{A}", kind="instance", name=A, fields=[b"labels", b"{}"]),
    ),
    "set_aside_member": (
        _listed,
        lambda b, e: set_aside_member(b.keys, index="graves", raw=b"no id"),
    ),
    "set_aside": (
        _broken,
        lambda b, e: set_aside(
            b.keys, kind="instance", name=A, wanted="hash", fault="labels", broken={"labels": b"abc"}
        ),
    ),
    "stopped": (_written_by_a_child, lambda b, e: K.stopped(b.keys, session="s", epoch=e, child=B)),
}  # fmt: skip


def _everything(bench: Bench) -> dict[str, Any]:
    """Members of sorted sets, fields of hashes, entries of streams; no times, and not how often an owner was asked."""
    found: dict[str, Any] = {}
    for raw in bench.client.scan_iter(count=1000):
        key = raw.decode()
        match bench.client.type(raw).decode():
            case "hash":
                fields = {k.decode(): v for k, v in bench.client.hgetall(raw).items()}
                found[key] = {k: v for k, v in fields.items() if not TIMES.search(k) and k != "asked"}
            case "zset":
                found[key] = sorted(bench.client.zrange(raw, 0, -1))
            case "set":
                found[key] = sorted(bench.client.smembers(raw))
            case "stream":
                found[key] = bench.client.xrange(raw)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_second_call_changes_nothing_and_answers_as_its_header_says(bench: Bench, name: str) -> None:
    """The same word again, or the word that the header names for a second call; the store stays as it was."""
    prepare, make = CASES[name]
    call = make(bench, prepare(bench))
    before = _everything(bench)
    first = bench.run(call)
    once = _everything(bench)
    assert first.word in ("OK", "OFFERED"), "the example does what the script is for"
    assert once != before or name in ("allowed", "scan", "trust", "beat", "init", "resumed", "extend_leases"), (
        "the example changes something"
    )
    second = bench.run(call)
    assert _everything(bench) == once
    told = re.search(r"second call answers ([A-Z]+)|answers ([A-Z]+)\.", SCRIPTS[name].header.retry)
    expected = next(word for word in told.groups() if word) if told else first.word
    assert second.word == expected
    if second.word == first.word:
        assert second.fields.get("epoch") == first.fields.get("epoch")


def test_no_script_is_left_out() -> None:
    """Every script has a case."""
    assert set(CASES) == set(SCRIPTS)
