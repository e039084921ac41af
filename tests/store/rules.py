"""Rules of single scripts that a walk of the state machine seldom meets: for each what it guards, and the text that makes it.

A rule is a function that plays its scene and asserts (those with an underscore only help); `RULES` says which text of which script
must be there for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.store import calls
from tests.store.answers import Answer
from tests.store.harness import LEASE, Bench

A, B = "a~1", "b~1"
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Rule:
    """A scene, and the text of a script without which it goes wrong."""

    scene: Callable[[Bench], None]
    script: str
    text: str
    instead: str = ""

    @property
    def name(self) -> str:
        """Of the scene, with the script where several have the same."""
        return f"{self.scene.__name__}-{self.script}"


def _now_ms(bench: Bench) -> int:
    """By the server's clock."""
    seconds, micros = bench.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _owned(bench: Bench) -> int:
    """Two instances; the first owns `s`; its epoch."""
    bench.init()
    bench.join(A)
    bench.join(B)
    return bench.open("s", A, b"data").int("epoch")


def _restated(bench: Bench) -> int:
    """The same after a re-assertion that was not renewed yet."""
    epoch = _owned(bench)
    assert bench.reassert("s", A, epoch, 1, b"data").word == "OK"
    return epoch


def _held(bench: Bench) -> int:
    """The same during a hold after lost writes."""
    epoch = _owned(bench)
    bench.server_id = "promoted"
    bench.beat(B)
    return epoch


def _ask(bench: Bench) -> Answer:
    """The second asks the first for `s`."""
    return bench.run(calls.ask(bench.keys, session="s", instance=B, owner=A, request="ask", lease=LEASE))


def _let_go(bench: Bench, epoch: int) -> Answer:
    """The first lets go of `s` to the second."""
    return bench.run(
        calls.let_go(bench.keys, session="s", instance=A, heir=B, epoch=epoch, pool="default", data=b"last", sequence=9)
    )


def _hand_over(bench: Bench, epoch: int) -> Answer:
    """The first offers `s` and goes on serving it."""
    return bench.run(calls.hand_over(bench.keys, session="s", instance=A, epoch=epoch, pool="default", lease=LEASE))


def _replay(bench: Bench) -> Answer:
    """A person offers `s` again."""
    return bench.run(calls.replay(bench.keys, session="s", pool="default", lease=LEASE))


def _drain(bench: Bench, instance: str) -> None:
    """It takes nothing new from now on."""
    assert bench.run(calls.drain(bench.keys, instance=instance, by="test", reason="")).word == "OK"


def _given_up(bench: Bench) -> None:
    """`s` is a dead letter, with an expiry."""
    _owned(bench)
    bench.certify(A)
    bench.claim(A, ["s"], max_recoveries=0)
    assert bench.client.pttl(bench.keys.session("s")) > 0


def _expires_after_holds(bench: Bench) -> None:
    """Only holds since it became an orphan keep it young: it has waited for 10 s by now, after an hour of holds before that."""
    bench.client.hset(bench.keys.session("s"), "orphaned_at", _now_ms(bench) - 10_000)
    bench.end_lease("s")
    answer = bench.expire("s", give_up_after_ms=5_000)
    assert (answer.word, answer.fields.get("reason")) == ("DEAD_LETTERED", "expired")


def _after_an_hour_of_holds(bench: Bench) -> None:
    """So much time was spent in holds before now."""
    bench.client.hset(bench.keys.detector, mapping={"held_total_ms": HOUR_MS, "hold_started_ms": 0, "hold_until_ms": 0})


# -- after lost writes: what was stated again must be renewed before its owner does anything with it


def stated_again_it_is_not_let_go(bench: Bench) -> None:
    epoch = _restated(bench)
    _ask(bench)
    assert _let_go(bench, epoch).word == "RESYNC"
    assert bench.record("s")["owner"] == A


def stated_again_it_is_not_closed(bench: Bench) -> None:
    assert bench.close("s", A, _restated(bench)).word == "RESYNC"
    assert bench.record("s")["state"] == "active"


def stated_again_it_is_not_released(bench: Bench) -> None:
    assert bench.release("s", A, _restated(bench)).word == "RESYNC"
    assert bench.record("s")["state"] == "active"


def stated_again_it_is_not_written(bench: Bench) -> None:
    assert bench.checkpoint("s", A, _restated(bench), 5, b"new").word == "RESYNC"
    assert bench.record("s")["data"] == "data"


def stated_again_it_is_not_handed_over(bench: Bench) -> None:
    assert _hand_over(bench, _restated(bench)).word == "RESYNC"
    assert bench.record("s")["state"] == "active"


# -- during a hold


def nothing_is_written_during_a_hold(bench: Bench) -> None:
    assert bench.checkpoint("s", A, _held(bench), 1, b"new").word == "RESYNC"
    assert bench.record("s")["data"] == "data"


def nothing_is_closed_during_a_hold(bench: Bench) -> None:
    assert bench.close("s", A, _held(bench)).word == "RESYNC"
    assert bench.record("s")["state"] == "active"


def nothing_is_handed_over_during_a_hold(bench: Bench) -> None:
    assert _hand_over(bench, _held(bench)).word == "HELD"
    assert bench.record("s")["state"] == "active"


def transfers_go_on_when_the_clock_stepped_back(bench: Bench) -> None:
    _owned(bench)
    bench.client.hset(bench.keys.detector, "transfers_held_until_ms", _now_ms(bench) + HOUR_MS)
    assert bench.open("new", A).word == "OK"


def a_hold_ends_when_the_clock_stepped_back(bench: Bench) -> None:
    _owned(bench)
    look = calls.scan(bench.keys, max_scan_gap=60, hold=2, horizon=0)
    bench.run(look)
    bench.client.hset(bench.keys.detector, "hold_until_ms", _now_ms(bench) + HOUR_MS)
    found = bench.run(look)
    assert found.int("hold_until_ms") < found.int("now_ms") + HOUR_MS // 2
    assert int(bench.client.hget(bench.keys.detector, "hold_until_ms")) == found.int("hold_until_ms")


def a_successor_does_not_wait_for_a_hold_of_an_older_clock(bench: Bench) -> None:
    _owned(bench)
    bench.client.hset(bench.keys.detector, "hold_until_ms", _now_ms(bench) + HOUR_MS)
    bench.client.zadd(bench.keys.instances, {A: 1000})
    assert bench.join("a~2").word == "OK"


# -- how long an orphan has waited


def a_replayed_call_is_as_old_as_its_replay(bench: Bench) -> None:
    _given_up(bench)
    _after_an_hour_of_holds(bench)
    assert _replay(bench).word == "OK"
    _expires_after_holds(bench)


def a_released_call_is_as_old_as_its_release(bench: Bench) -> None:
    epoch = _owned(bench)
    _after_an_hour_of_holds(bench)
    bench.release("s", A, epoch)
    _expires_after_holds(bench)


def a_claimed_call_is_as_old_as_its_owner_s_death(bench: Bench) -> None:
    _owned(bench)
    _after_an_hour_of_holds(bench)
    bench.certify(A)
    bench.claim(A, ["s"])
    _expires_after_holds(bench)


# -- expiry is for what ended


def a_replayed_call_never_expires(bench: Bench) -> None:
    _given_up(bench)
    assert _replay(bench).word == "OK"
    assert bench.client.pttl(bench.keys.session("s")) == -1


def a_call_stated_again_never_expires(bench: Bench) -> None:
    epoch = _owned(bench)
    bench.close("s", A, epoch)
    bench.server_id = "promoted"
    bench.beat(A)
    assert bench.reassert("s", A, epoch + 5, 1, b"mine").word == "OK"
    assert bench.client.pttl(bench.keys.session("s")) == -1


def what_refuses_the_dead_stays_while_a_call_names_it(bench: Bench) -> None:
    _owned(bench)
    bench.certify(A)
    bench.client.srem(bench.keys.owned(A), "s")
    bench.run(calls.settle(bench.keys, grave=A, fenced_ttl=60))
    assert bench.client.pttl(bench.keys.instance(A)) > 0
    bench.run(calls.repair(bench.keys, session="s", owner=A, dead_after=60))
    assert bench.client.pttl(bench.keys.instance(A)) == -1


# -- handovers


def the_dead_owner_s_handover_is_offered_once(bench: Bench) -> None:
    _hand_over(bench, _owned(bench))
    bench.certify(A)
    bench.claim(A, ["s"])
    assert bench.client.xlen(bench.keys.offers("default")) == 1
    assert bench.read_offers(B) == [("s", int(bench.record("s")["epoch"]))]


def who_drains_opens_nothing(bench: Bench) -> None:
    _owned(bench)
    _drain(bench, A)
    assert bench.open("new", A).word == "DRAINING"
    assert bench.record("new") == {}


def who_drains_asks_for_nothing(bench: Bench) -> None:
    _owned(bench)
    _drain(bench, B)
    assert _ask(bench).word == "DRAINING"
    assert bench.record("s")["state"] == "active"


def who_drains_adopts_nothing(bench: Bench) -> None:
    epoch = _owned(bench)
    bench.release("s", A, epoch)
    _drain(bench, B)
    assert bench.adopt("s", B, None).word == "DRAINING"
    assert bench.record("s")["state"] == "offered"


def nobody_lets_go_to_the_dead(bench: Bench) -> None:
    epoch = _owned(bench)
    _ask(bench)
    bench.certify(B)
    answer = _let_go(bench, epoch)
    assert (answer.word, answer.fields.get("state")) == ("GONE", "heir")
    assert bench.record("s")["owner"] == A


def nobody_lets_go_to_one_that_drains(bench: Bench) -> None:
    epoch = _owned(bench)
    _ask(bench)
    _drain(bench, B)
    assert _let_go(bench, epoch).word == "GONE"
    assert bench.record("s")["owner"] == A


def nobody_lets_go_to_one_that_waits_no_longer(bench: Bench) -> None:
    epoch = _owned(bench)
    _ask(bench)
    bench.client.hset(bench.keys.session("s"), "lease_until", 1)
    assert _let_go(bench, epoch).word == "GONE"
    assert bench.record("s")["owner"] == A


def the_dead_let_go_of_nothing(bench: Bench) -> None:
    epoch = _owned(bench)
    _ask(bench)
    bench.certify(A)
    assert _let_go(bench, epoch).word == "FENCED"
    assert bench.record("s")["owner"] == A


ANEW = "if r.anew == '1' then"
DRAINS = "if me.state == 'draining' then"
LIVES = "if read_instance(heir, 'state', 'roll').state ~= 'alive' then"

RULES = (
    Rule(stated_again_it_is_not_let_go, "let_go", ANEW, "if false then"),
    Rule(stated_again_it_is_not_closed, "close", ANEW, "if false then"),
    Rule(stated_again_it_is_not_released, "release", ANEW, "if false then"),
    Rule(stated_again_it_is_not_written, "checkpoint", ANEW, "if false then"),
    Rule(stated_again_it_is_not_handed_over, "hand_over", ANEW, "if false then"),
    Rule(nothing_is_written_during_a_hold, "checkpoint", "if held or why", "if why"),
    Rule(nothing_is_closed_during_a_hold, "close", "if held or why", "if why"),
    Rule(nothing_is_handed_over_during_a_hold, "hand_over", "if held then\n  return { 'HELD' }", "if false then\n  return { 'HELD' }"),
    Rule(transfers_go_on_when_the_clock_stepped_back, "open", " and ends <= now + hold_length_ms(m)"),
    Rule(a_hold_ends_when_the_clock_stepped_back, "scan", "if ends > now + 2 *", "if false and ends > now + 2 *"),
    Rule(
        a_successor_does_not_wait_for_a_hold_of_an_older_clock, "join", " and hold_left <= hold_length_ms(m)"
    ),
    Rule(a_replayed_call_is_as_old_as_its_replay, "replay", "'held_before_ms',", "'nothing',"),
    Rule(a_released_call_is_as_old_as_its_release, "release", "int(now), 'held_before_ms',", "int(now), 'nothing',"),
    Rule(a_claimed_call_is_as_old_as_its_owner_s_death, "claim", "'held_before_ms',", "'nothing',"),
    Rule(a_replayed_call_never_expires, "replay", "redis.call('PERSIST', session)"),
    Rule(a_call_stated_again_never_expires, "reassert", "redis.call('PERSIST', session)"),
    Rule(what_refuses_the_dead_stays_while_a_call_names_it, "repair", "redis.call('PERSIST', instance)"),
    Rule(the_dead_owner_s_handover_is_offered_once, "claim", "drop_entry(offers, r.offer_id)"),
    Rule(who_drains_opens_nothing, "open", DRAINS, "if false then"),
    Rule(who_drains_asks_for_nothing, "ask", DRAINS, "if false then"),
    Rule(who_drains_adopts_nothing, "adopt", DRAINS, "if false then"),
    Rule(nobody_lets_go_to_the_dead, "let_go", LIVES, "if false then"),
    Rule(nobody_lets_go_to_one_that_drains, "let_go", "~= 'alive' then", "== 'dead' then"),
    Rule(nobody_lets_go_to_one_that_waits_no_longer, "let_go", "if (tonumber(r.lease_until) or 0) < now then", "if false then"),
    Rule(the_dead_let_go_of_nothing, "let_go", "if state == 'dead' then", "if state == 'none' then"),
)  # fmt: skip
