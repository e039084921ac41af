"""The JSON of sessions: golden files of both sides, and every value that there can be."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sessions import CorruptSessionError, SessionMetrics, SessionState, Timestamp, Turn
from coordinator.sessions.timestamp import ZERO
from coordinator.sessions.wire import decode, encode
from coordinator.voice import CallProgress, CallState, LatencyTotals, TurnLatencies
from tests.sessions.golden_files import golden, names, python_states
from tests.voice.test_latencies import LATENCIES
from tests.voice.test_progress import progresses

INT64 = st.integers(-(2**63), 2**63 - 1)
NS = st.integers(ZERO.ns, Timestamp("9999-12-31T23:59:59.999999999Z").ns)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ZONES = st.sampled_from(["Z", "+05:30", "-11:45", "+23:59", "+00:00"])


@st.composite
def times(draw: st.DrawFn) -> Timestamp:
    """Any moment with any number of digits and any offset."""
    return Timestamp(Timestamp.from_ns(draw(NS)).text.removesuffix("Z") + draw(ZONES))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
UNKNOWN = st.dictionaries(TEXT.map(lambda key: f"x{key}"), VALUES, max_size=3)
TURNS = st.builds(Turn, TEXT, TEXT, times(), INT64, UNKNOWN)


def totals(turns: list[TurnLatencies]) -> LatencyTotals:
    made = LatencyTotals()
    for turn in turns:
        made.add(turn)
    return made


TOTALS = st.lists(LATENCIES, max_size=3).map(totals)
METRICS = st.builds(SessionMetrics, INT64, INT64, INT64, INT64, INT64, INT64, UNKNOWN, TOTALS)
STATES = st.builds(
    SessionState, st.just("s1"), times(), times(), TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.lists(TURNS, max_size=4), METRICS,
    st.dictionaries(TEXT, VALUES, max_size=4), UNKNOWN, progress=progresses(),
)  # fmt: skip


@pytest.mark.parametrize("name", names("go"))
def test_sessions_of_go_are_written_again_as_they_are(name: str) -> None:
    """What Go wrote is read and written without a byte of difference."""
    document = golden("go", name)
    assert encode(decode(json.loads(document)["id"], document)) == document


@pytest.mark.parametrize("name", names("python"))
def test_sessions_of_this_package_are_those_of_the_golden_files(name: str) -> None:
    """What this package writes has not changed."""
    assert encode(python_states()[name]) == golden("python", name)


def test_what_go_wrote_is_understood() -> None:
    """A session of Go has its turns, times, figures and data."""
    state = decode("call-123", golden("go", "full"))
    assert [turn.role for turn in state.history] == ["user", "agent", "user"]
    assert state.history[2].content == "Grüße aus Köln \u2028 🎧"
    assert state.created_at.text.endswith(".123456789+05:30")
    assert state.updated_at.ns - state.created_at.ns == 1_500_000_000
    assert (state.metrics.first_response_ms, state.recovery_data["sequence"]) == (310, 42)
    assert decode("literal", golden("go", "literal")).created_at.is_zero


@given(STATES)
def test_a_state_comes_back(state: SessionState) -> None:
    """Whatever a state holds is read as it was written, and written again the same."""
    document = encode(state)
    again = decode("s1", document)
    assert again == state
    assert encode(again) == document
    assert [turn.timestamp.text for turn in again.history] == [turn.timestamp.text for turn in state.history]
    assert not set(b"<>&") & set(document)
    json.loads(document)


@given(VALUES)
def test_numbers_keep_their_kind(value: Any) -> None:
    """Data equals itself after a round trip, whole numbers are no floats, and a second trip changes no byte."""
    once = decode("s1", encode(SessionState("s1", recovery_data={"v": value}))).recovery_data["v"]
    assert once == value
    if type(value) is int:
        assert type(once) is int


@given(NS)
def test_nanoseconds_come_back(ns: int) -> None:
    """A moment of whole nanoseconds is the same after its text."""
    assert Timestamp(Timestamp.from_ns(ns).text).ns == ns


@given(st.datetimes(timezones=st.timezones(), min_value=dt.datetime(1900, 1, 1)))
def test_datetimes_come_back(moment: dt.datetime) -> None:
    """An aware datetime of whole minutes' offset is the same moment after its text."""
    offset = moment.utcoffset()
    if offset is not None and not offset.seconds % 60 and not offset.microseconds:
        assert Timestamp.from_datetime(moment).datetime() == moment.astimezone(dt.UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-19T12:00:00", "2026-07-19 12:00:00Z", "2026-07-19t12:00:00Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-07-19T24:00:00Z", "2026-07-19T12:00:60Z", "2026-07-19T12:00:00,5Z", "2026-07-19T12:00:00.Z",
        "2026-07-19T12:00:00+24:00", "2026-07-19T12:00:00+0530", "2026-07-19T1:00:00Z", "", "٢٠٢٦-07-19T12:00:00Z",
    ],
)  # fmt: skip
def test_times_that_go_would_refuse(text: str) -> None:
    """A time that Go's reader refuses is none here either."""
    with pytest.raises(ValueError, match=r"time as in|no calendar|no clock"):
        Timestamp(text)


def test_times_that_only_humans_write() -> None:
    """A naive datetime has no moment; year 0 and digits after the ninth are read as Go does."""
    with pytest.raises(ValueError, match="no time zone"):
        Timestamp.from_datetime(dt.datetime(2026, 7, 19))
    with pytest.raises(ValueError, match="outside the years"):
        Timestamp.from_ns(10**21)
    assert Timestamp("0000-03-01T00:00:00Z").ns < ZERO.ns
    assert Timestamp("1970-01-01T00:00:00.1234567899Z").ns == 123456789


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b'{"id":"s1","x":NaN}', "not JSON"),
        (b'{"id":"s1","x":' + b"[" * 100_000, "nested more than 128 deep"),
        (b'{"id":"s1","x":' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"id":"s2"}', "session 's2'"),
        (b"{}", "session ''"),
        (b'{"id":"s1","status":5}', "status is not text"),
        (b'{"id":"s1","history":{}}', "history is not a list"),
        (b'{"id":"s1","history":[{"duration_ms":1500.0}]}', "turn 1's duration_ms is not a whole number"),
        (b'{"id":"s1","history":[{},{"timestamp":"2026-07-19T12:00:00"}]}', "turn 2's timestamp is not a time"),
        (b'{"id":"s1","history":[5]}', "turn 1's  is not an object"),
        (b'{"id":"s1","metrics":{"turn_count":9223372036854775808}}', "metrics turn_count is not a whole number"),
        (b'{"id":"s1","metrics":[]}', "metrics  is not an object"),
        (b'{"id":"s1","recovery_data":[]}', "recovery_data is not an object"),
        (b'{"id":"s1","created_at":5}', "created_at is not a time"),
    ],
)
def test_what_is_no_session(document: bytes, why: str) -> None:
    """What Go could not read is corrupt, with the reason and without the content."""
    with pytest.raises(CorruptSessionError, match=why.replace("  is", ".? ?is")):
        decode("s1", document)


def test_what_go_reads_leniently() -> None:
    """Null, missing fields, keys in any case and broken surrogates are read as Go does."""
    state = decode("s1", b'{"ID":"s1","Status":"active","history":[null],"metrics":null,"from":null,"to":"\\ud800x"}')
    assert (state.status, state.from_, state.history, state.created_at) == ("active", "", [Turn()], ZERO)
    assert b'"to":"\xef\xbf\xbdx"' in encode(state)
    assert decode("s1", b'{"id":"s1","history":[{"duration_ms":-0}]}').history[0].duration_ms == 0


def test_a_call_whose_progress_and_latencies_say_nothing() -> None:
    """A state that nobody moved, and without latencies, is byte for byte what it was before there were any."""
    assert set(json.loads(encode(SessionState("s1"))).keys() | json.loads(encode(SessionState("s1")))["metrics"]) == {
        "id", "created_at", "updated_at", "provider", "direction", "from", "to", "status", "history", "metrics",
        "turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms",
    }  # fmt: skip


def test_progress_and_latencies_as_they_are_stored() -> None:
    """They stand after what Go knows, each under one name, and unknown fields follow."""
    state = SessionState("s1", extra={"x": 1})
    state.progress.move_to("responding")
    state.progress = state.progress.recovered()
    state.add_turn("agent", "", 0, TurnLatencies(stt=0.1, e2e=0.75))
    document = encode(state)
    assert document.endswith(
        b'"latencies":{"stt":{"count":1,"total_ms":100,"longest_ms":100},"e2e":{"count":1,"total_ms":750,"longest_ms":750}}},'
        b'"call_state":{"state":"reconnecting","interrupted":"responding"},"x":1}'
    )


@pytest.mark.parametrize(
    "value", [b"null", b"7", b'"listening"', b"[]", b'{"state":"dancing"}', b'{"interrupted":"listening"}']
)
def test_another_programs_field_of_that_name(value: bytes) -> None:
    """It is kept as it is, is no progress and no latencies, and gives way once there is something to say."""
    at = b'"2026-07-19T12:00:00Z"'
    document = (
        b'{"id":"s1","created_at":' + at + b',"updated_at":' + at + b',"provider":"","direction":"","from":"","to":"","status":"",'
        b'"history":[],"metrics":{"turn_count":0,"interruption_count":0,"user_speech_duration_ms":0,'
        b'"agent_speech_duration_ms":0,"latencies":' + value + b'},"call_state":' + value + b',"x":1}'
    )  # fmt: skip
    state = decode("s1", document)
    assert state.progress == CallProgress()
    state.progress.move_to("listening")
    again = decode("s1", encode(state))
    assert (again.progress, again.extra) == (CallProgress(CallState.LISTENING), {"x": 1})
    if value.startswith(b"{"):  # a mapping without parts is totals without turns
        return
    assert encode(decode("s1", document)) == document
    state.metrics.latencies.add(TurnLatencies(e2e=1))
    again = decode("s1", encode(state))
    assert (again.metrics.latencies, again.metrics.extra) == (state.metrics.latencies, {})
