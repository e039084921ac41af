"""claim, adopt and the way to a dead letter: what the state machine's walk seldom meets."""

from __future__ import annotations

import pytest

from coordinator.store import calls
from coordinator.store.usual import INLINE_BYTES
from tests.store.harness import Bench

DEAD, HEIR = "w1~1", "w2~1"


@pytest.fixture
def ready(bench: Bench) -> Bench:
    """Two instances in a new partition."""
    bench.init()
    bench.join(DEAD)
    bench.join(HEIR)
    return bench


def test_small_data_travels_in_the_offer_and_large_data_with_the_adoption(ready: Bench) -> None:
    """Up to the limit the entry carries the data; above it the size, and the adopter gets the data all the same."""
    ready.open("small", DEAD, b"x" * INLINE_BYTES)
    ready.open("large", DEAD, b"y" * (INLINE_BYTES + 1))
    ready.certify(DEAD)
    ready.claim(DEAD, ["small", "large"])
    entries = {e[b"session"]: e for _, e in ready.client.xrange(ready.keys.offers("default"))}

    assert entries[b"small"][b"data"] == b"x" * INLINE_BYTES
    assert b"data" not in entries[b"large"]
    assert int(entries[b"large"][b"data_bytes"]) == INLINE_BYTES + 1
    assert ready.adopt("large", HEIR, None).bytes("data") == b"y" * (INLINE_BYTES + 1)


def test_data_is_opaque(ready: Bench) -> None:
    """Bytes that are neither text nor JSON come back as they were."""
    data = bytes(range(256)) * 3
    epoch = ready.open("s", DEAD, data).int("epoch")
    ready.checkpoint("s", DEAD, epoch, 1, data[::-1])
    ready.certify(DEAD)
    ready.claim(DEAD, ["s"])
    assert ready.adopt("s", HEIR, None).bytes("data") == data[::-1]


def test_only_a_grave_is_claimed(ready: Bench) -> None:
    """A coordinator that acts on an old list finds the instance alive, and takes nothing."""
    ready.open("s", DEAD)
    assert ready.claim(DEAD, ["s"]).word == "GONE"
    assert ready.record("s")["state"] == "active"


def test_sessions_of_another_pool_are_named(ready: Bench) -> None:
    """A claim for one pool's stream leaves the others in the grave and says whose they are."""
    ready.open("here", DEAD)
    ready.open("there", DEAD, pool="spanish")
    ready.certify(DEAD)
    answer = ready.claim(DEAD, ["here", "there"])
    assert (answer.int("offered"), answer.items("other_pools"), answer.int("left")) == (1, ["there spanish"], 1)
    assert ready.claim(DEAD, ["there"], pool="spanish").int("left") == 0
    assert ready.adopt("there", HEIR, None).word == "GONE", "it is not of that pool"


def test_a_session_that_kills_its_owners_is_a_dead_letter(ready: Bench) -> None:
    """Orphaned more than max_recoveries times within the window it is given up on, with its data and the reason."""
    ready.open("poison", DEAD, b"keep me")
    owner = DEAD
    for life in range(2, 4):
        ready.certify(owner)
        assert ready.claim(owner, ["poison"], max_recoveries=2).int("offered") == 1
        owner = f"w1~{life}"
        ready.join(owner)
        assert ready.adopt("poison", owner, None).word == "OK"
    ready.certify(owner)

    assert ready.claim(owner, ["poison"], max_recoveries=2).int("dead_lettered") == 1

    record = ready.record("poison")
    assert (record["state"], record["reason"], record["data"]) == ("dead_lettered", "max_recoveries", "keep me")
    assert ready.client.pttl(ready.keys.session("poison")) > 0
    assert ready.members(ready.keys.dead_letters) == {"poison"}


def test_orphanings_outside_the_window_do_not_count(ready: Bench) -> None:
    """A call that lost its owner long ago is not blamed for it."""
    ready.open("s", DEAD)
    ready.client.hset(ready.keys.session("s"), "orphanings", "1000 2000 3000")
    ready.certify(DEAD)
    assert ready.claim(DEAD, ["s"], max_recoveries=1).int("offered") == 1
    assert ready.record("s")["recoveries"] == "1"


def test_a_dead_reader_gives_its_offers_back_at_once(ready: Bench) -> None:
    """An offer that a dead instance had read is offered again without waiting for the lease."""
    ready.join("w3~1")
    epoch = ready.open("s", DEAD).int("epoch")
    ready.release("s", DEAD, epoch)
    assert [s for s, _ in ready.read_offers("w3~1")] == ["s"]
    assert ready.expire("s").word == "EARLY"
    entry = ready.record("s")["offer_id"]
    answer = ready.expire("s", entry_of_dead=entry)
    assert (answer.word, answer.int("attempt")) == ("OFFERED", 2)
    assert ready.expire("s", entry_of_dead=entry).word == "EARLY", "another coordinator did it already"
    assert [s for s, _ in ready.read_offers(HEIR)] == ["s"]


def test_an_offer_whose_reader_vanished_is_written_anew(ready: Bench) -> None:
    """Delivered to a consumer that was then taken out of the group: nobody would ever get that entry."""
    epoch = ready.open("s", DEAD).int("epoch")
    ready.release("s", DEAD, epoch)
    assert [s for s, _ in ready.read_offers("gone~1")] == ["s"]
    ready.client.xgroup_delconsumer(ready.keys.offers("default"), "workers", "gone~1")
    assert ready.read_offers(HEIR) == []
    ready.end_lease("s")
    assert ready.expire("s").word == "REWRITTEN"
    assert [s for s, _ in ready.read_offers(HEIR)] == ["s"]
    assert ready.record("s")["offers"] == "1"
    assert ready.client.xlen(ready.keys.offers("default")) == 1


def test_an_epoch_is_above_what_the_caller_has_seen(ready: Bench) -> None:
    """A caller that remembers a higher epoch lifts the next one above it, through a server whose clock is behind."""
    ready.open("s", DEAD)
    ready.certify(DEAD)
    ready.claim(DEAD, ["s"])
    assert ready.adopt("s", HEIR, None, floor=9_000_000_000_000).int("epoch") == 9_000_000_000_001


def test_the_dead_are_kept_to_be_refused_and_then_end(ready: Bench) -> None:
    """When its grave is empty an id stays for a while with an expiry, so that a late process is still told."""
    ready.certify(DEAD)
    assert ready.run(calls.settle(ready.keys, grave=DEAD, fenced_ttl=60)).word == "OK"
    assert ready.run(calls.settle(ready.keys, grave=DEAD, fenced_ttl=60)).word == "GONE"
    assert 0 < ready.client.pttl(ready.keys.instance(DEAD)) <= 60_000
    assert ready.beat(DEAD).word == "FENCED"


@pytest.mark.parametrize("counts", [True, False])
def test_an_orphan_that_is_declined_again_and_again_is_given_up_on(ready: Bench, counts: bool) -> None:
    """Each decline begins a new lease; one that is too old for its caller to be there is a dead letter all the same."""
    epoch = ready.open("s", DEAD, b"data").int("epoch")
    epoch = ready.release("s", DEAD, epoch).int("epoch")
    now = int(ready.record("s")["orphaned_at"])
    ready.client.hset(ready.keys.session("s"), mapping={"orphaned_at": now - 10_000, "held_before_ms": 0})
    ready.client.hset(ready.keys.detector, "held_total_ms", 9_000)
    answer = ready.decline("s", HEIR, epoch, counts=counts, give_up_after_ms=5_000)
    assert answer.word == "OK", "the time of a hold does not count"
    ready.client.hset(ready.keys.detector, "held_total_ms", 0)
    answer = ready.decline("s", HEIR, answer.int("epoch"), counts=counts, give_up_after_ms=5_000)
    assert (answer.word, answer.text("reason")) == ("DEAD_LETTERED", "expired")
    assert ready.record("s")["data"] == "data"
    assert ready.read_offers(HEIR) == []


def test_a_purged_dead_letter_has_no_data(ready: Bench) -> None:
    """What a person purges is closed and its data is gone."""
    ready.open("s", DEAD)
    ready.certify(DEAD)
    ready.claim(DEAD, ["s"], max_recoveries=0)
    assert ready.run(calls.purge(ready.keys, session="s", closed_ttl=60)).word == "OK"
    record = ready.record("s")
    assert record["state"] == "closed"
    assert "data" not in record


def test_a_batch_is_bounded(ready: Bench) -> None:
    """More sessions than one script may touch are refused before anything is sent."""
    with pytest.raises(ValueError, match=r"101 are more than one call of claim.lua takes \(100\)"):
        ready.claim(DEAD, [f"s{i}" for i in range(101)])
