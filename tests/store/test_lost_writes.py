"""After a failover, a restore or a wipe: hold, roll call, re-assertion, renewal, and epochs that only rise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.store import calls
from tests.store.answers import Answer
from tests.store.harness import Bench

OWNER, OTHER = "w1~1", "w2~1"


@pytest.fixture
def served(bench: Bench) -> Bench:
    """A partition in which w1 owns the session `s` with data `two`."""
    bench.init()
    bench.join(OWNER)
    bench.join(OTHER)
    epoch = bench.open("s", OWNER, b"one").int("epoch")
    assert bench.checkpoint("s", OWNER, epoch, 1, b"two").word == "OK"
    return bench


def _epoch(bench: Bench) -> int:
    return int(bench.record("s")["epoch"])


Write = Callable[[Bench, str, int], Answer]
WRITES: dict[str, Write] = {
    "checkpoint": lambda b, who, e: b.checkpoint("s", who, e, 9, b"x"),
    "close": lambda b, who, e: b.close("s", who, e),
    "release": lambda b, who, e: b.release("s", who, e),
    "resumed": lambda b, who, e: b.run(calls.resumed(b.keys, session="s", instance=who, epoch=e)),
    "let_go": lambda b, who, e: b.run(
        calls.let_go(b.keys, session="s", instance=who, heir=OTHER, epoch=e, pool="default")
    ),
    "hand_over": lambda b, who, e: b.run(
        calls.hand_over(b.keys, session="s", instance=who, epoch=e, pool="default", lease=0.001)
    ),
}  # fmt: skip


def test_the_first_connection_to_another_server_starts_a_hold(served: Bench) -> None:
    """A run id that differs from the stored one holds transfers, says why, and lifts the floor of the epochs."""
    floor_before = int(served.client.hget(served.keys.meta, "epoch_floor"))
    served.server_id = "promoted"

    assert served.adopt("s", OTHER, None).word == "HELD"
    detector = served.client.hgetall(served.keys.detector)
    assert detector[b"hold_reason"] == b"lost_writes"
    floor = int(served.client.hget(served.keys.meta, "epoch_floor"))
    assert floor_before < floor == int(detector[b"hold_until_ms"]), "the clock is there when the hold ends"
    assert served.client.hget(served.keys.meta, "server") == b"promoted"


@pytest.mark.parametrize(
    "transfer",
    [
        lambda b, e: b.open("new", OTHER),
        lambda b, e: b.release("s", OWNER, e),
        lambda b, e: b.adopt("s", OTHER, None),
        lambda b, e: b.claim("w9~1", ["s"]),
        lambda b, e: b.expire("s"),
        lambda b, e: b.decline("s", OTHER, e),
        lambda b, e: b.run(calls.replay(b.keys, session="s", pool="default", lease=0.001)),
        lambda b, e: b.run(calls.repair(b.keys, session="s", owner=OWNER, dead_after=0.001)),
        lambda b, e: b.run(calls.ask(b.keys, session="s", instance=OTHER, owner=OWNER, request="r", lease=0.001)),
        lambda b, e: b.run(
            calls.let_go(b.keys, session="s", instance=OWNER, heir=OTHER, epoch=e, pool="default")
        ),
        lambda b, e: b.run(calls.renew(b.keys, session="s", instance=OWNER, epoch=e)),
    ],
    ids=["open", "release", "adopt", "claim", "expire", "decline", "replay", "repair", "ask", "let_go", "renew"],
)  # fmt: skip
def test_nothing_changes_hands_during_a_hold(served: Bench, transfer: Callable[[Bench, int], object]) -> None:
    """Until the hold ends every transfer is answered HELD, and the record stays as it is."""
    record = served.record("s")
    served.server_id = "promoted"

    answer = transfer(served, int(record["epoch"]))

    assert answer.word == "HELD"  # type: ignore[attr-defined]
    assert served.record("s") == record


def test_a_beat_to_another_server_is_resync_and_still_a_beat(served: Bench) -> None:
    """RESYNC moves the deadline, so that nobody is buried for a failover."""
    served.client.zadd(served.keys.instances, {OWNER: 1})
    answer = served.beat(OWNER, roll=served.called(OWNER), seen=served.server_id)
    assert answer.word == "OK"
    served.client.zadd(served.keys.instances, {OWNER: 1})
    seen, served.server_id = served.server_id, "promoted"

    answer = served.beat(OWNER, roll=served.called(OWNER), seen=seen)

    assert (answer.word, answer.int("held")) == ("RESYNC", 1)
    assert served.client.zscore(served.keys.instances, OWNER) > 1
    served.end_hold()
    assert served.beat(OWNER, roll=served.called(OWNER), seen=seen).int("held") == 0
    assert served.beat(OWNER, roll=served.called(OWNER), seen="promoted").word == "OK"


def test_an_unequal_roll_call_is_resync(served: Bench) -> None:
    """An instance that believes to own another number of sessions is told so; one that cannot say is not."""
    assert served.beat(OWNER, roll=f"1 {served.roll(OWNER) + 1}").word == "RESYNC"
    assert served.beat(OWNER, roll="0 0").word == "RESYNC"
    assert served.beat(OWNER, roll=f"2 {served.roll(OWNER)}").word == "RESYNC", "the index lacks one"
    assert served.beat(OWNER, roll="").word == "OK"
    assert served.beat(OWNER, roll=served.called(OWNER)).word == "OK"


def test_a_beat_never_creates(bench: Bench) -> None:
    """An instance that the store does not know is told UNKNOWN, and nothing is written for it."""
    bench.init()
    assert bench.beat("ghost~1").word == "UNKNOWN"
    assert not bench.client.exists(bench.keys.instance("ghost~1"))
    assert bench.client.zcard(bench.keys.instances) == 0


def test_a_wiped_store_takes_back_what_its_owner_held(served: Bench) -> None:
    """After a wipe the owner joins again, states its session with its data, and gets a higher epoch before it writes."""
    epoch = _epoch(served)
    served.client.flushdb()
    assert served.beat(OWNER, roll=served.called(OWNER)).word == "UNKNOWN"
    assert served.join(OWNER).word == "UNKNOWN", "the partition itself is gone"
    again = served.run(
        calls.init(served.keys, partitions=1, protocol=1, lineage="lineage-2", hold=2, previous="lineage-1")
    )
    assert again.int("created") == 1
    assert served.join(OWNER).word == "OK"

    assert served.reassert("s", OWNER, epoch, 1, b"two").word == "OK"
    assert served.checkpoint("s", OWNER, epoch, 2, b"three").word == "RESYNC"
    assert served.run(calls.renew(served.keys, session="s", instance=OWNER, epoch=epoch)).word == "HELD"
    served.end_hold()
    assert served.checkpoint("s", OWNER, epoch, 2, b"three").word == "RESYNC", "it must be renewed first"
    renewed = served.run(calls.renew(served.keys, session="s", instance=OWNER, epoch=epoch)).int("epoch")
    again_renewed = served.run(calls.renew(served.keys, session="s", instance=OWNER, epoch=epoch)).int("epoch")

    assert renewed == again_renewed > epoch
    assert served.record("s")["data"] == "two"
    assert served.checkpoint("s", OWNER, renewed, 1, b"three").word == "OK"


def test_the_highest_reassertion_wins_during_the_hold(served: Bench) -> None:
    """Two instances state the same session: the higher epoch has it, whichever came first, and the other is told."""
    epoch = _epoch(served)
    served.server_id = "promoted"
    served.beat(OWNER)

    assert served.reassert("s", OWNER, epoch, 1, b"two").word == "OK"
    again = served.reassert("s", OTHER, epoch + 5, 3, b"newer")
    assert (again.word, again.text("rival")) == ("AGAIN", OWNER)
    assert served.reassert("s", OTHER, epoch + 5, 3, b"newer", rival=OWNER).word == "OK"
    gone = served.reassert("s", OWNER, epoch, 1, b"two")

    assert (gone.word, gone.text("owner")) == ("GONE", OTHER)
    assert served.owned(OWNER) == set()
    assert served.owned(OTHER) == {"s"}
    assert served.record("s")["data"] == "newer"


def test_after_the_hold_a_reassertion_counts_only_where_nothing_is_stored(served: Bench) -> None:
    """A late claimant with a higher epoch cannot take what somebody else holds by then."""
    epoch = _epoch(served)
    assert served.reassert("s", OTHER, epoch + 5, 1, b"late", rival=OWNER).word == "GONE"
    assert served.reassert("unheard-of", OTHER, 77, 1, b"late").word == "OK"
    assert served.record("s")["data"] == "two"


def test_a_closed_session_is_not_reasserted(served: Bench) -> None:
    """What ended stays ended."""
    epoch = _epoch(served)
    assert served.close("s", OWNER, epoch).word == "OK"
    assert served.reassert("s", OWNER, epoch, 1, b"two").word == "GONE"


def test_a_write_above_the_stored_epoch_is_resync_never_fenced(served: Bench) -> None:
    """The store is behind its writer: writes were lost, and the writer is not to blame."""
    epoch = _epoch(served) + 10
    assert served.checkpoint("s", OWNER, epoch, 5, b"x").word == "RESYNC"
    assert served.close("s", OWNER, epoch).word == "RESYNC"
    assert served.release("s", OWNER, epoch).word == "RESYNC"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_who_lost_a_call_is_told_so_before_its_new_owner_is_renewed(served: Bench, write: Write) -> None:
    """Another stated it under a higher epoch, and has no new one yet: who had it before is refused for good, for all to see."""
    epoch = _epoch(served)
    served.server_id = "promoted"
    served.beat(OWNER)
    assert served.reassert("s", OTHER, epoch + 5, 3, b"newer", rival=OWNER).word == "OK"
    served.end_hold()

    answer = write(served, OWNER, epoch)
    assert (answer.word, answer.text("owner"), answer.int("epoch")) == ("FENCED", OTHER, epoch + 5)
    refused = [fields for _, fields in served.client.xrange(served.keys.events) if fields[b"type"] == b"fenced"]
    assert [fields[b"instance"].decode() for fields in refused] == [OWNER]
    assert served.record("s")["data"] == "newer"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_was_stated_again_is_renewed_before_any_write(served: Bench, write: Write) -> None:
    """Its owner is told RESYNC, whatever it writes, and the record stays as it was stated."""
    epoch = _epoch(served)
    assert served.reassert("s", OWNER, epoch, 1, b"two").word == "OK"
    before = served.record("s")
    assert write(served, OWNER, epoch).word == "RESYNC"
    assert served.record("s") == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_owner_under_its_own_older_epoch_is_nobody_that_was_fenced(served: Bench, write: Write) -> None:
    """What was on its way while its epoch was renewed is refused, and told nobody; another's is an event for all to see."""
    epoch = _epoch(served)
    served.server_id = "promoted"
    served.beat(OWNER)
    assert served.reassert("s", OWNER, epoch, 1, b"two").word == "OK"
    served.end_hold()
    assert served.run(calls.renew(served.keys, session="s", instance=OWNER, epoch=epoch)).word == "OK"

    def refusals() -> int:
        return sum(fields[b"type"] == b"fenced" for _, fields in served.client.xrange(served.keys.events))

    answer = write(served, OWNER, epoch)
    assert (answer.word, answer.int("epoch")) == ("FENCED", _epoch(served))
    assert refusals() == 0
    assert write(served, OTHER, epoch).word == "FENCED"
    assert refusals() == 1


def test_a_known_death_is_stated_again(served: Bench) -> None:
    """A rolled-back store that revived the dead buries them again, during the hold, and refuses them."""
    served.server_id = "promoted"
    served.beat(OTHER)
    assert served.certify(OWNER, "restated").word == "OK"
    assert served.beat(OWNER).word == "FENCED"
    assert served.reassert("s", OWNER, _epoch(served)).word == "FENCED"


def test_an_offer_whose_owner_states_it_again_leaves_no_entry(bench: Bench) -> None:
    """The call was on offer when its owner stated it again: the offer's entry, with its data, is gone from the stream."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    epoch = bench.open("call", "a~1", b"data").int("epoch")
    bench.release("call", "a~1", epoch)
    assert bench.client.xlen(bench.keys.offers("default")) == 1
    bench.server_id = "another"
    assert bench.reassert("call", "a~1", epoch + 10**9, 1, b"newer").word == "OK"
    assert bench.client.xlen(bench.keys.offers("default")) == 0
