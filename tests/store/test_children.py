"""What ends an owner's right waits for the children that write for it."""

from __future__ import annotations

from coordinator.store import calls
from tests.store.harness import LEASE, Bench


def test_a_child_that_does_not_answer_is_waited_for(bench: Bench) -> None:
    """A frozen child: nothing is given away until what it was told last is over, and then it is."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    epoch = bench.open("s", "a~1").int("epoch")
    told = calls.trust(bench.keys, session="s", instance="a~1", epoch=epoch, child="c~1", belief=1.5)
    for give_away in (bench.release, bench.close):
        assert bench.run(told).word == "OK"
        answer = give_away("s", "a~1", epoch)
        assert (answer.word, 0 < answer.int("left_ms") <= 1500) == ("CHILDREN", True)
        assert bench.run(told).word == "STOP", "nothing is permitted while it is being given away"
        bench.client.hset(bench.keys.session("s"), "children_stop_until", 1)
        assert bench.run(told).word == "OK", "it came to nothing"
    bench.client.hset(bench.keys.session("s"), "child_until", 1)
    assert bench.release("s", "a~1", epoch).word == "OK"


def test_the_dead_owner_s_call_waits_for_its_child_and_no_other(bench: Bench) -> None:
    """A claim leaves the one whose child may still believe, takes the others, and takes it when the child has stopped."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    epoch = bench.open("s", "a~1").int("epoch")
    bench.open("t", "a~1")
    bench.run(calls.trust(bench.keys, session="s", instance="a~1", epoch=epoch, child="c~1", belief=1.5))
    bench.certify("a~1")
    answer = bench.claim("a~1", ["s", "t"])
    assert (answer.int("offered"), answer.int("left"), answer.int("children_ms") > 0) == (1, 1, True)
    assert bench.run(calls.stopped(bench.keys, session="s", epoch=epoch, child="c~1")).word == "OK"
    assert bench.claim("a~1", ["s"]).int("offered") == 1


def test_children_of_the_next_owner_may_believe_at_once(bench: Bench) -> None:
    """Those of the one before were told to stop a moment ago: that says nothing to the new owner's."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    bench.join("b~1")
    epoch = bench.open("s", "a~1").int("epoch")
    bench.run(calls.trust(bench.keys, session="s", instance="a~1", epoch=epoch, child="c~1", belief=1.5))
    assert bench.release("s", "a~1", epoch).word == "CHILDREN"
    bench.run(calls.stopped(bench.keys, session="s", epoch=epoch, child="c~1"))
    assert bench.release("s", "a~1", epoch).word == "OK"
    taken = bench.adopt("s", "b~1", None).int("epoch")
    look = calls.trust(bench.keys, session="s", instance="b~1", epoch=taken, child="d~1", belief=1.5)
    assert bench.run(look).word == "OK"


def test_of_several_children_each_must_have_stopped(bench: Bench) -> None:
    """The call goes when the last one has stopped, not the first."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    bench.join("b~1")
    epoch = bench.open("s", "a~1").int("epoch")
    for child in ("c~1", "d~1", "c~1"):
        bench.run(calls.trust(bench.keys, session="s", instance="a~1", epoch=epoch, child=child, belief=1.5))
    bench.run(calls.ask(bench.keys, session="s", instance="b~1", owner="a~1", request="ask", lease=LEASE))
    let_go = calls.let_go(
        bench.keys, session="s", instance="a~1", heir="b~1", epoch=epoch, pool="default", data=b"", sequence=0
    )
    for child in ("c~1", "d~1"):
        assert bench.run(let_go).word == "CHILDREN"
        assert bench.run(calls.stopped(bench.keys, session="s", epoch=epoch, child=child)).word == "OK"
    assert bench.run(let_go).word == "OK"
