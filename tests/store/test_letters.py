"""A dead letter's id is opened again, as when the same telephone number calls: both calls are kept apart."""

from __future__ import annotations

import pytest
import redis

from coordinator.store import calls
from tests.store.harness import LEASE, Bench

ME, DEAD = "me~1", "dead~1"


@pytest.fixture
def given_up(redis_client: redis.Redis) -> Bench:
    """`call` is a dead letter with its data; its epoch is in `epoch`."""
    bench = Bench(redis_client)
    bench.init()
    bench.end_hold()
    bench.join(ME)
    bench.join(DEAD)
    bench.open("call", DEAD, b"old data")
    bench.certify(DEAD)
    bench.claim(DEAD, ["call"], max_recoveries=0)
    assert bench.record("call")["state"] == "dead_lettered"
    return bench


def _open_again(bench: Bench) -> str:
    """Opens it anew; the dead letter's epoch."""
    epoch = bench.record("call")["epoch"]
    told = bench.open("call", ME, b"new data")
    assert (told.word, told.text("letter_epoch")) == ("AGAIN", epoch)
    opened = bench.open("call", ME, b"new data", letter_epoch=epoch)
    assert opened.word == "OK"
    assert opened.int("epoch") > int(epoch)
    return epoch


def test_it_is_opened_anew_and_the_old_one_keeps_its_data(given_up: Bench) -> None:
    """The new call is active under a higher epoch; the old one is a dead letter still, with data, reason and its expiry."""
    expiry = given_up.client.pttl(given_up.keys.session("call"))
    epoch = _open_again(given_up)
    assert (given_up.record("call")["state"], given_up.record("call")["data"]) == ("active", "new data")
    letter = given_up.keys.letter("call", epoch)
    kept = {k.decode(): v.decode() for k, v in given_up.client.hgetall(letter).items()}
    assert (kept["state"], kept["data"], kept["reason"]) == ("dead_lettered", "old data", "max_recoveries")
    assert 0 < given_up.client.pttl(letter) <= expiry
    assert given_up.members(given_up.keys.dead_letters) == {f"call {epoch}"}


def test_a_letter_whose_time_is_broken_stays_listed(given_up: Bench) -> None:
    """The opening ends before it has moved anything: that time is set aside first, and the letter is kept and listed."""
    key, epoch = given_up.keys.session("call"), given_up.record("call")["epoch"]
    given_up.client.hset(key, "dead_lettered_at", "none")
    with pytest.raises(redis.ResponseError, match="BROKEN"):
        given_up.open("call", ME, b"new data", letter_epoch=epoch)
    assert given_up.members(given_up.keys.dead_letters) == {"call"}
    given_up.client.hdel(key, "dead_lettered_at")
    assert given_up.open("call", ME, b"new data", letter_epoch=epoch).word == "OK"
    assert given_up.members(given_up.keys.dead_letters) == {f"call {epoch}"}


def test_an_opening_is_safe_to_repeat(given_up: Bench) -> None:
    """The same request gets the same epoch again, and no second letter."""
    epoch = given_up.record("call")["epoch"]
    first = given_up.open("call", ME, b"x", request="r", letter_epoch=epoch)
    again = given_up.open("call", ME, b"x", request="r", letter_epoch=epoch)
    assert (again.word, again.int("epoch")) == ("OK", first.int("epoch"))
    assert len(given_up.members(given_up.keys.dead_letters)) == 1


def test_a_wrong_epoch_moves_nothing(given_up: Bench) -> None:
    """Whoever names another dead letter than the one that is there is told which it is."""
    assert given_up.open("call", ME, letter_epoch="7").word == "AGAIN"
    assert given_up.record("call")["data"] == "old data"


def test_a_draining_instance_opens_nothing(given_up: Bench) -> None:
    """The dead letter stays as it is."""
    given_up.run(calls.drain(given_up.keys, instance=ME, by="test", reason=""))
    assert given_up.open("call", ME).word == "DRAINING"
    assert given_up.record("call")["state"] == "dead_lettered"


def test_it_is_replayed_once_its_id_is_free(given_up: Bench) -> None:
    """While the id is a live call the letter is refused by name; afterwards it is offered under an epoch above both."""
    epoch = _open_again(given_up)
    replay = calls.replay(given_up.keys, session="call", pool="default", lease=LEASE, letter_epoch=epoch)
    refused = given_up.run(replay)
    assert (refused.word, refused.text("state"), refused.text("owner")) == ("OWNED", "active", ME)
    live = int(given_up.record("call")["epoch"])
    given_up.close("call", ME, live)
    answer = given_up.run(replay)
    assert answer.word == "OK"
    assert answer.int("epoch") > live
    record = given_up.record("call")
    assert (record["state"], record["data"]) == ("offered", "old data")
    assert given_up.client.pttl(given_up.keys.session("call")) == -1
    assert given_up.members(given_up.keys.dead_letters) == set()
    assert given_up.run(replay).word == "OWNED"


def test_it_is_purged_by_its_epoch(given_up: Bench) -> None:
    """Its data goes; the live call of the same id is not touched."""
    epoch = _open_again(given_up)
    purge = calls.purge(given_up.keys, session="call", closed_ttl=60, letter_epoch=epoch)
    assert given_up.run(purge).word == "OK"
    assert given_up.client.hget(given_up.keys.letter("call", epoch), "data") is None
    assert given_up.record("call")["data"] == "new data"
    assert given_up.members(given_up.keys.dead_letters) == set()
    assert given_up.run(purge).word == "GONE"


def test_two_dead_letters_of_one_id(given_up: Bench) -> None:
    """The second call ends as a dead letter too: both are kept, each under its epoch."""
    first = _open_again(given_up)
    given_up.certify(ME)
    given_up.claim(ME, ["call"], max_recoveries=0)
    given_up.join("third~1")
    second = given_up.record("call")["epoch"]
    assert given_up.open("call", "third~1", letter_epoch=second).word == "OK"
    assert given_up.members(given_up.keys.dead_letters) == {f"call {first}", f"call {second}"}
