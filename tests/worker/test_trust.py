"""The three standings, as arithmetic on a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.worker.trust_window import TrustWindow

TIMES = st.floats(min_value=0, max_value=1000, allow_nan=False)


def trust_window(sent: float = 0.0, ticked: float = 0.0) -> TrustWindow:
    """Trust for 0.75 s, a stand-still from 0.75 s without a tick."""
    fresh = TrustWindow(0.75, 0.75)
    fresh.tick(ticked)
    fresh.renew(sent)
    return fresh


@pytest.mark.parametrize(
    ("now", "ticked", "held", "may_speak"),
    [
        (0.0, 0.0, True, True),
        (0.74, 0.74, True, True),
        (0.76, 0.76, False, True),  # the store does not answer
        (5.0, 5.0, False, True),
        (0.9, 0.1, False, False),  # the process stood still
    ],
)
def test_standings(now: float, ticked: float, held: bool, may_speak: bool) -> None:
    """Held within the trust window of the last beat; in doubt it may speak while its own thread turns over."""
    p = trust_window()
    step = 0.0
    while step < ticked:
        p.tick(step)
        step += 0.05
    p.tick(ticked)
    assert (p.held(now), p.may_speak(now)) == (held, may_speak)


def test_a_process_that_stood_still_may_not_speak_before_the_next_answer() -> None:
    """The stand-still is remembered after the thread turns over again; an answered beat ends it."""
    p = trust_window()
    p.tick(3.0)
    assert p.stood_still
    assert not p.may_speak(3.0)
    p.renew(3.0)
    assert p.held(3.1)
    assert p.may_speak(3.1)


def test_an_answer_that_waited_while_the_process_stood_still_ends_nothing() -> None:
    """The beat went out before, others may have the call by now: read before or after the thread turns over, it allows nothing."""
    for first_read in (True, False):
        p = trust_window()
        if first_read:
            p.renew(0.2)
            assert not p.may_speak(3.0)
        p.tick(3.0)
        p.renew(0.2)
        assert not p.may_speak(3.0)
        p.renew(3.0)
        assert p.may_speak(3.1)


def test_what_is_over_stays_over() -> None:
    """After the store said that the id is dead nothing is held, whatever beats are answered later."""
    p = trust_window()
    p.over = True
    p.renew(0.1)
    assert not p.held(0.2)
    assert not p.may_speak(0.2)


@given(st.lists(TIMES, min_size=1, max_size=20), TIMES)
def test_held_counts_from_the_sending_of_the_newest_answered_beat(sent: list[float], now: float) -> None:
    """Answers that come out of order change nothing; the newest sending counts, and only for the window."""
    p = trust_window(sent=float("-inf"))
    for at in sent:
        p.renew(at)
    assert p.held(now) == (now - max(sent) < 0.75)


@given(st.lists(TIMES, min_size=1, max_size=20), TIMES)
def test_held_implies_may_speak(ticks: list[float], now: float) -> None:
    """There is no moment at which it holds and may not speak."""
    p = trust_window()
    for at in sorted(ticks):
        p.tick(at)
    assert p.may_speak(now) or not p.held(now)


def test_when_it_went_on_is_known_before_the_thread_turns_over() -> None:
    """Time-outs begin anew when a pause is over, whoever notices it first; without a pause they never did."""
    p = trust_window()
    assert p.continued(0.5) == float("-inf")
    assert p.continued(3.0) == 3.0
    p.tick(3.0)
    assert p.continued(3.2) == 3.0
