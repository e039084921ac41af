"""An owner that does not know that it owns a session takes it again: what it sent before must not end what it holds now."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.store import calls
from tests.store.answers import Answer
from tests.store.harness import Bench

A, B = "a~1", "b~1"


def _open(bench: Bench) -> Answer:
    return bench.open("s", A)


def _adopt(bench: Bench) -> Answer:
    return bench.adopt("s", A, None)


@pytest.mark.parametrize("again", [_open, _adopt])
@pytest.mark.parametrize("late", [Bench.close, Bench.release])
def test_what_was_sent_before_does_not_end_what_is_held_now(
    two: Bench, again: Callable[[Bench], Answer], late: Callable[[Bench, str, str, int], Answer]
) -> None:
    """A close or release under the epoch before arrives late: it is refused, and the call goes on."""
    before = two.open("s", A, b"data").int("epoch")
    taken = again(two)
    assert (taken.word, taken.int("existing"), taken.bytes("data")) == ("OK", 1, b"data")
    assert taken.int("epoch") > before
    assert late(two, "s", A, before).word == "FENCED"
    assert two.record("s")["state"] == "active"
    assert two.beat(A, roll=two.called(A)).word == "OK"
    assert two.checkpoint("s", A, taken.int("epoch"), 1, b"newer").word == "OK"


@pytest.mark.parametrize("again", [Bench.open, lambda b, s, i, request: b.adopt(s, i, None, request)])
def test_a_request_that_comes_late_takes_nothing_again(two: Bench, again: Callable[..., Answer]) -> None:
    """The opening that had no answer is applied after a later one: the epoch of the later one stands."""
    early = two.request()
    held = two.open("s", A).int("epoch")
    answer = again(two, "s", A, request=early)
    assert (answer.word, answer.int("epoch")) == ("OK", held)
    assert two.record("s")["epoch"] == str(held)


def test_who_says_under_which_epoch_it_holds_keeps_it(two: Bench) -> None:
    """An adoption by id of one's own session is answered with its epoch, unless that has moved on."""
    held = two.open("s", A).int("epoch")
    for holds, same in ((held, True), (held - 1, False)):
        call = calls.adopt(
            two.keys, session="s", instance=A, request=two.request(), epoch=None, pool="default", floor=0, holds=holds
        )
        assert (two.run(call).int("epoch") == held) == same


def test_a_session_that_is_handed_over_keeps_its_epoch(two: Bench) -> None:
    """The offer of the handover stands with that epoch: no entry of another one is left in the stream."""
    held = two.open("s", A).int("epoch")
    call = calls.hand_over(two.keys, session="s", instance=A, epoch=held, pool="default", lease=60)
    assert two.run(call).word == "OK"
    assert _open(two).int("epoch") == held
    assert _adopt(two).int("epoch") == held
    assert two.read_offers(B) == [("s", held)]
