"""What is computed from turns."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from coordinator.sessions import SessionState, SessionStatus, Timestamp, Turn, responses_ms

START = Timestamp("2026-07-19T12:00:00Z").ns


def turn(role: str, ends_ms: int, lasts_ms: int) -> Turn:
    return Turn(role, "", Timestamp.from_ns(START + ends_ms * 1_000_000), lasts_ms)


def test_add_turn() -> None:
    """Turns count, and speech counts by who spoke; other roles count as turns only."""
    state = SessionState("s1")
    state.add_turn("user", "Hello", 1000)
    state.add_turn("agent", "Hi", 1500)
    state.add_turn("tool", "{}", 50)
    m = state.metrics
    assert (len(state.history), m.turn_count, m.user_speech_duration_ms, m.agent_speech_duration_ms) == (
        3,
        3,
        1000,
        1500,
    )
    assert state.updated_at >= state.history[-1].timestamp


def test_record_interruption() -> None:
    """Interruptions are counted."""
    state = SessionState("s1")
    state.record_interruption()
    state.record_interruption()
    assert state.metrics.interruption_count == 2


def test_duration() -> None:
    """The duration goes on until the session ends, and stands still then."""
    at = Timestamp.now()
    state = SessionState("s1", created_at=Timestamp.from_ns(at.ns - 10_000_000), updated_at=at)
    assert state.duration >= dt.timedelta(milliseconds=10)
    state.created_at = Timestamp.from_ns(at.ns - 5_000_000_000)
    for status in ("ended", "failed"):
        state.status = status
        assert state.duration == dt.timedelta(seconds=5)


def test_statuses() -> None:
    """Failed is an end, connecting waits like pending, and a new session is pending."""
    assert SessionState("s1").status == SessionStatus.PENDING
    ended = {status.value for status in SessionStatus if SessionState("s1", status=status).ended}
    waiting = {status.value for status in SessionStatus if SessionState("s1", status=status).waiting}
    assert (ended, waiting) == ({"ended", "failed"}, {"pending", "connecting"})


def test_response_times() -> None:
    """A response lasts from the end of the user's turn to the beginning of the agent's next."""
    history = [
        turn("agent", 1000, 1000),  # a greeting
        turn("user", 3000, 1500),
        turn("agent", 5000, 1600),  # began at 3400
        turn("agent", 6000, 500),  # goes on
        turn("user", 7000, 500),
        turn("user", 8000, 500),
        turn("tool", 8100, 0),
        turn("agent", 9000, 800),  # began at 8200
        turn("user", 10_000, 500),
        turn("agent", 10_500, 900),  # began before the user had ended
    ]
    assert responses_ms(history) == [400, 200]


def test_response_times_are_computed_as_turns_are_added() -> None:
    """First and average response stand in the metrics after each turn of the agent; without one they are left as they are."""
    state = SessionState("s1")
    state.metrics.first_response_ms = 7
    state.add_turn("agent", "greeting", 0)
    assert state.metrics.first_response_ms == 7
    for wait in (300, 101):
        asked = state.add_turn("user", "?", 10)
        asked.timestamp = Timestamp.from_ns(asked.timestamp.ns - wait * 1_000_000)
        state.add_turn("agent", "!", 0)
    first, second = responses_ms(state.history)
    assert first >= 300
    assert (state.metrics.first_response_ms, state.metrics.average_response_ms) == (first, round((first + second) / 2))


@given(st.lists(st.tuples(st.sampled_from(["user", "agent", "tool"]), st.integers(0, 5000), st.integers(0, 5000))))
def test_there_are_at_most_as_many_responses_as_questions(parts: list[tuple[str, int, int]]) -> None:
    """No response is negative, and each belongs to one turn of the user and one of the agent."""
    at, history = 0, []
    for role, pause, lasts in parts:
        at += pause + lasts
        history.append(turn(role, at, lasts))
    responses = responses_ms(history)
    roles = [role for role, _, _ in parts]
    assert all(wait >= 0 for wait in responses)
    assert len(responses) <= min(roles.count("user"), roles.count("agent"))


def test_nothing_that_was_said_is_shown() -> None:
    """A state and a turn may be logged: neither shows numbers or words."""
    state = SessionState("s1", from_="+15551234567", recovery_data={"secret": "x"})
    shown = f"{state!r} {state.add_turn('user', 'my card is 4111', 5)!r}"
    assert shown == "<SessionState s1 pending turns=0> <Turn user 5 ms>"
