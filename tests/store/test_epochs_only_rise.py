"""Epochs only rise, also when the first to make a wiped partition knows nothing of the past; and one hold for each change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.store import calls
from coordinator.store.past import Past
from tests.store.answers import Answer
from tests.store.harness import Bench

W1, W2 = "w1~1", "w2~1"
HOUR_MS = 3_600_000


@pytest.fixture
def served(bench: Bench) -> Bench:
    """A partition in which w1 owns the session `s`."""
    bench.init()
    bench.join(W1)
    bench.join(W2)
    bench.open("s", W1)
    return bench


def now_ms(bench: Bench) -> int:
    seconds, microseconds = bench.client.time()
    return int(seconds * 1000 + microseconds // 1000)


def meta(bench: Bench, field: str) -> int:
    """A number in `meta`."""
    return int(bench.client.hget(bench.keys.meta, field) or 0)


def transfers_held_until(bench: Bench) -> int:
    return int(bench.client.hget(bench.keys.detector, "transfers_held_until_ms") or 0)


def make(bench: Bench, lineage: str, previous: str = "") -> None:
    """The partition is made, by one who remembers ``previous`` or by a stranger."""
    made = bench.run(calls.init(bench.keys, partitions=1, protocol=1, lineage=lineage, hold=2, previous=previous))
    assert made.int("created") == 1


def look(bench: Bench, past: Past | None = None) -> Answer:
    return bench.run(calls.scan(bench.keys, max_scan_gap=60, hold=2, horizon=0, past=past or Past()))


def close(bench: Bench, session: str, instance: str, epoch: int) -> None:
    assert bench.close(session, instance, epoch).word == "OK"


NOTICED: dict[str, Callable[[Bench, Past], Any]] = {
    "beat": lambda b, past: b.beat(W1, past=past),
    "join": lambda b, past: b.join(W1, past=past),
    "look": look,
}


# -- one hold ----------------------------------------------------------------------------------------------------------


def test_the_first_start_of_a_deployment_is_not_held(bench: Bench) -> None:
    """Where nobody remembers another lineage a call can be opened at once."""
    make(bench, "lineage-1")
    bench.join(W1, past=Past())
    assert look(bench, Past()).int("transfers_held") == 0
    assert bench.beat(W1).word == "OK"
    assert bench.open("s", W1).word == "OK"


@pytest.mark.parametrize("notice", NOTICED.values(), ids=NOTICED)
def test_whoever_remembers_another_lineage_starts_the_hold(served: Bench, notice: Callable[[Bench, Past], Any]) -> None:
    """A stranger made the wiped partition: the first beat, join or look of one who remembers holds it."""
    known = Past("lineage-1", now_ms(served))
    served.wipe()
    served.join(W2)
    assert served.open("x", W2).word == "OK", "so far nobody has said that there was a past"
    notice(served, known)
    assert served.open("y", W2).word == "HELD"
    assert served.client.hget(served.keys.detector, "hold_reason") == b"lost_writes"


def test_a_beat_of_one_that_the_store_forgot_starts_the_hold(served: Bench) -> None:
    """It is UNKNOWN to the partition that a stranger made, and the hold is on before it has joined again."""
    known = Past("lineage-1", now_ms(served))
    served.wipe()
    assert served.beat(W1, past=known).word == "UNKNOWN"
    assert transfers_held_until(served) > 0


@pytest.mark.parametrize("first", NOTICED)
@pytest.mark.parametrize("then", NOTICED)
def test_many_who_notice_one_change_make_one_hold(served: Bench, first: str, then: str) -> None:
    """Neither during the hold nor after it does the next one who tells of the same change begin another."""
    known = Past("lineage-1", now_ms(served))
    served.wipe()
    NOTICED[first](served, known)
    until = transfers_held_until(served)
    NOTICED[then](served, known)
    assert transfers_held_until(served) == until > 0
    served.end_hold()
    ended = transfers_held_until(served)
    NOTICED[then](served, known)
    assert transfers_held_until(served) == ended


@pytest.mark.parametrize("late", NOTICED.values(), ids=NOTICED)
def test_who_comes_late_with_a_lineage_of_long_ago_starts_no_hold(
    served: Bench, late: Callable[[Bench, Past], Any]
) -> None:
    """Two changes later, which both had their hold, its news is none."""
    long_ago = Past("lineage-0", now_ms(served) - HOUR_MS)
    served.wipe()
    served.beat(W1, past=Past("lineage-1", now_ms(served) - 1000))
    served.end_hold()
    ended = transfers_held_until(served)
    late(served, long_ago)
    assert transfers_held_until(served) == ended


@pytest.mark.parametrize("notice", NOTICED.values(), ids=NOTICED)
def test_a_change_that_one_who_remembers_made_has_had_its_hold(
    served: Bench, notice: Callable[[Bench, Past], Any]
) -> None:
    """Whoever makes the partition and says what it knew before starts the hold; the others do not start it again."""
    known = Past("lineage-1", now_ms(served))
    served.client.flushdb()
    make(served, "lineage-2", previous="lineage-1")
    until = transfers_held_until(served)
    assert until > now_ms(served)
    notice(served, known)
    assert transfers_held_until(served) == until


@pytest.mark.parametrize("notice", NOTICED.values(), ids=NOTICED)
def test_the_hold_for_another_server_covers_another_lineage(
    served: Bench, notice: Callable[[Bench, Past], Any]
) -> None:
    """A snapshot of an earlier lineage comes back on a new server: one change, and one hold."""
    known = Past("lineage-of-the-time-between", now_ms(served))
    served.server_id = "started from the snapshot"
    served.beat(W2)
    until = transfers_held_until(served)
    notice(served, known)
    served.end_hold()
    notice(served, known)
    assert transfers_held_until(served) == 1 < until


def test_an_earlier_lineage_that_is_back_on_the_same_server_is_held(served: Bench) -> None:
    """Its keys were written back into the running server, and its own hold was long ago: who knows the later one says so."""
    served.client.hset(served.keys.meta, "lost_at_ms", now_ms(served) - HOUR_MS)
    assert served.beat(W1, past=Past("lineage-2", now_ms(served) - 1000)).int("held") == 1


def test_a_clock_that_was_ahead_does_not_hold_again_and_again(served: Bench) -> None:
    """Two who know the lineage since a time that has not come yet start one hold together."""
    ahead = now_ms(served) + HOUR_MS
    served.wipe()
    served.beat(W1, past=Past("lineage-1", ahead))
    served.beat(W2, past=Past("lineage-1", ahead + 5))
    served.end_hold()
    for past in (Past("lineage-1", ahead), Past("lineage-1", ahead + 5)):
        served.beat(W1, past=past)
    assert transfers_held_until(served) == 1


def test_each_change_of_server_has_its_hold(served: Bench) -> None:
    """Each may have lost other writes, so the second is held as the first."""
    for server in ("second", "third"):
        served.server_id = server
        assert served.open("x", W1).word == "HELD"
        served.end_hold()
        assert served.open(f"x{server}", W1).word == "OK"


def test_the_newer_owner_wins_although_the_dead_one_states_first(served: Bench) -> None:
    """A stranger made the wiped partition; whoever comes first starts the hold in which the higher epoch wins."""
    older = int(served.record("s")["epoch"])
    newer, known = older + 10, Past("lineage-1", now_ms(served))
    served.wipe()
    served.join(W1, past=known)
    assert served.reassert("s", W1, older, 1, b"old").word == "OK"
    served.join(W2, past=known)
    assert served.reassert("s", W2, newer, 1, b"new", rival=W1).word == "OK"
    served.end_hold()
    renew = calls.renew(served.keys, session="s", instance=W1, epoch=older)
    assert served.run(renew).word == "GONE"
    assert served.owned(W2) == {"s"}


# -- the floor ---------------------------------------------------------------------------------------------------------


def ahead_of_the_clock(bench: Bench) -> int:
    """Epochs are an hour above the clock, as when the server before had a clock ahead; the epoch that `s` gets now."""
    bench.client.hset(bench.keys.meta, "epoch_floor", now_ms(bench) + HOUR_MS)
    record = bench.record("s")
    bench.release("s", record["owner"], int(record["epoch"]))
    return bench.adopt("s", W1, None).int("epoch")


@pytest.mark.parametrize("notice", NOTICED.values(), ids=NOTICED)
@pytest.mark.parametrize("lineage", ["lineage-1", "lineage-2"])
def test_the_floor_takes_what_anybody_remembers(
    served: Bench, notice: Callable[[Bench, Past], Any], lineage: str
) -> None:
    """The clock is behind and the data know nothing: who beats, joins or looks says the highest epoch, whatever its lineage."""
    highest = ahead_of_the_clock(served)
    served.wipe()
    served.join(W2)
    notice(served, Past(lineage, now_ms(served), highest))
    served.end_hold()
    assert served.open("s", W2).int("epoch") > highest


@pytest.mark.parametrize("notice", NOTICED.values(), ids=NOTICED)
def test_what_another_session_was_given_since_hides_no_memory(
    served: Bench, notice: Callable[[Bench, Past], Any]
) -> None:
    """The store forgot `s` and gave its epoch to another session: who remembers it of `s` still raises the floor."""
    floor = now_ms(served) + HOUR_MS
    served.client.hset(served.keys.meta, "epoch_floor", floor)
    highest = served.open("t", W1).int("epoch")
    served.close("s", W1, int(served.record("s")["epoch"]))
    served.client.delete(served.keys.session("s"))
    notice(served, Past("lineage-1", now_ms(served), highest))
    assert served.open("s", W2).int("epoch") > highest > floor


def test_a_look_tells_the_highest_epoch(served: Bench) -> None:
    """What was given above the clock, or else the clock: a coordinator remembers it for those who died with what they knew."""
    before = now_ms(served)
    assert before <= look(served).int("highest_epoch") <= now_ms(served)
    highest = ahead_of_the_clock(served)
    assert look(served).int("highest_epoch") == highest


def test_a_restored_store_takes_the_highest_from_who_remembers(served: Bench) -> None:
    """The floor of an older snapshot is older too; a look after the restore lifts it."""
    served.client.hset(served.keys.meta, "epoch_floor", now_ms(served) + HOUR_MS)
    snapshot = {key: served.client.dump(key) for key in served.client.scan_iter()}
    highest = 0
    for _ in range(3):
        record = served.record("s")
        served.release("s", record["owner"], int(record["epoch"]))
        highest = served.adopt("s", W1, None).int("epoch")
    past = Past("lineage-1", now_ms(served), look(served).int("highest_epoch"))
    served.client.flushdb()
    for key, value in snapshot.items():
        served.client.restore(key, 0, value)
    served.server_id = "restored"
    look(served, past)
    served.end_hold()
    record = served.record("s")
    assert served.release("s", record["owner"], int(record["epoch"])).int("epoch") > highest


def test_a_reasserted_epoch_above_the_clock_is_remembered(served: Bench) -> None:
    """It was given by the lost history; a look tells it on, so that it outlives its owner too."""
    highest = now_ms(served) + HOUR_MS
    served.server_id = "promoted"
    served.beat(W1)
    served.reassert("s", W1, highest, 1, b"x")
    assert look(served).int("highest_epoch") == highest


def test_epochs_do_not_run_ahead_of_the_clock(served: Bench) -> None:
    """After many changes of server an epoch is that of the clock when the hold ends: so a wipe that nobody remembers is above it."""
    for n in range(20):
        served.server_id = f"server {n}"
        served.beat(W1)
    until = transfers_held_until(served)
    assert meta(served, "epoch_floor") == until
    assert until <= now_ms(served) + 2000


def test_the_floor_never_falls(served: Bench) -> None:
    """Neither a change of server nor somebody who remembers less lowers it."""
    highest = ahead_of_the_clock(served)
    served.server_id = "promoted"
    served.beat(W1)
    floor = meta(served, "epoch_floor")
    assert floor >= highest
    for past in (Past(), Past("lineage-1", 0, 5), Past("lineage-0", 0, highest - 1)):
        served.beat(W1, past=past)
        served.join(W2, past=past)
        look(served, past)
    assert meta(served, "epoch_floor") == floor


def _closed(bench: Bench) -> None:
    close(bench, "s", W1, int(bench.record("s")["epoch"]))


def _given_up_by_its_owner(bench: Bench) -> None:
    call = calls.release(
        bench.keys, session="s", instance=W1, epoch=int(bench.record("s")["epoch"]), request="r", pool="default", reason="no",
        cause="released", lease=1, max_recoveries=0, recovery_window=600,
    )  # fmt: skip
    assert bench.run(call).word == "DEAD_LETTERED"


def _given_up_with_a_grave(bench: Bench) -> None:
    bench.certify(W1)
    assert bench.claim(W1, ["s"], max_recoveries=0).int("dead_lettered") == 1


def _given_up_as_too_old(bench: Bench) -> None:
    bench.release("s", W1, int(bench.record("s")["epoch"]))
    bench.end_lease("s")
    assert bench.expire("s", give_up_after_ms=-1).word == "DEAD_LETTERED"


def _declined_too_often(bench: Bench) -> None:
    epoch = bench.release("s", W1, int(bench.record("s")["epoch"])).int("epoch")
    assert bench.decline("s", W2, epoch, max_offers=0).word == "DEAD_LETTERED"


@pytest.mark.parametrize(
    "end", [_closed, _given_up_by_its_owner, _given_up_with_a_grave, _given_up_as_too_old, _declined_too_often]
)
def test_the_epoch_of_a_record_that_expired_is_not_given_again(served: Bench, end: Callable[[Bench], None]) -> None:
    """The floor rises with the end of a call, since its record may expire from then on."""
    ahead_of_the_clock(served)
    end(served)
    last = int(served.record("s")["epoch"])
    served.client.delete(served.keys.session("s"))  # it expired
    assert served.open("s", W2).int("epoch") > last


def test_a_purged_letter_keeps_its_epoch(served: Bench) -> None:
    """A dead letter that was opened again, closed, purged and expired: the next call of its id is above both."""
    ahead_of_the_clock(served)
    _given_up_by_its_owner(served)
    letter = served.record("s")["epoch"]
    again = served.open("s", W2, letter_epoch=letter).int("epoch")
    close(served, "s", W2, again)
    served.client.delete(served.keys.session("s"), served.keys.letter("s", letter))
    assert served.open("s", W2).int("epoch") > again > int(letter)


# -- the dead ----------------------------------------------------------------------------------------------------------


def test_a_death_from_before_a_wipe_is_stated_again(served: Bench) -> None:
    """Who was dead before the wipe is refused after it, although the new partition has never heard of it."""
    served.wipe()
    assert served.certify(W1, "exited").word == "UNKNOWN"
    assert served.certify(W1, "restated").word == "OK"
    assert served.certify(W1, "restated").word == "ALREADY"
    assert served.join(W1).word == "FENCED"
    assert served.beat(W1).word == "FENCED"
    assert served.reassert("s", W1, 5).word == "FENCED"
    assert served.client.pttl(served.keys.instance(W1)) > 0
    assert not served.members(served.keys.graves)
