"""How long the parts of turns took: totals, spans and histograms."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from coordinator import InvalidDataError, InvalidValueError
from coordinator.clock import in_ms
from coordinator.sessions.metrics import StoreMetrics
from coordinator.voice import LatencyTotals, PartTotal, TurnLatencies
from coordinator.voice.latencies import PARTS
from coordinator.voice.meter import TurnMeter, VoiceMetrics

SECONDS = st.none() | st.floats(0, 3600)
LATENCIES = st.builds(TurnLatencies, SECONDS, SECONDS, SECONDS, SECONDS)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The spans that are written through the API, without an SDK."""
    written: list[dict[str, Any]] = []

    class Span(trace.NonRecordingSpan):
        def end(self, end_time: int | None = None) -> None:
            written[-1]["end_time"] = end_time

    class Tracer(trace.NoOpTracer):
        def start_span(self, name: str, *args: Any, **options: Any) -> trace.Span:
            written.append({"name": name, **options})
            return Span(trace.INVALID_SPAN_CONTEXT)

    monkeypatch.setattr(trace, "get_tracer", lambda *_: Tracer())
    return written


@given(st.lists(LATENCIES, max_size=10))
def test_totals_are_those_of_the_turns(turns: list[TurnLatencies]) -> None:
    """Of each part the turns that know it, their sum and the longest; through JSON they are what they were."""
    totals = LatencyTotals()
    for turn in turns:
        totals.add(turn)
    for part in PARTS:
        known = [in_ms(seconds) for turn in turns for name, seconds in turn if name == part]
        assert getattr(totals, part) == PartTotal(len(known), sum(known), max(known, default=0))
    assert bool(totals) == any(turns)
    assert LatencyTotals.from_data(json.loads(json.dumps(totals.to_data()))) == totals


@given(LATENCIES)
def test_what_is_not_known_is_left_out(latencies: TurnLatencies) -> None:
    """Neither a total nor a histogram has a part that a turn does not know."""
    registry, totals = CollectorRegistry(), LatencyTotals()
    totals.add(latencies)
    TurnMeter(VoiceMetrics(registry)).record(latencies)
    known = {name for name, _ in latencies}
    assert set(totals.to_data()) == known
    for part in PARTS:
        count = registry.get_sample_value("recovery_voice_turn_latency_seconds_count", {"part": part})
        assert count == (1 if part in known else 0)


def test_averages() -> None:
    """An average is rounded to whole milliseconds, and is 0 without a turn."""
    total = PartTotal()
    assert total.average_ms == 0
    for seconds in (0.1, 0.2, 0.2005):
        total = total.and_one_of(seconds)
    assert (total.average_ms, total.longest_ms) == (167, 200)


@pytest.mark.parametrize("wrong", [-0.001, float("nan"), float("inf"), "1", True, 1e12])
def test_a_time_that_is_none(wrong: Any) -> None:
    """It is refused by its part's name and the rule, before anything is counted."""
    with pytest.raises(InvalidValueError, match=r"tts latency: .* is not a number of seconds"):
        TurnLatencies(stt=0.1, tts=wrong)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], "a mapping, not list"),
        ({"stt": 5}, "stt latency is a mapping, not int"),
        ({"stt": {}}, "stt count: None is not a whole number"),
        ({"e2e": {"count": 1, "total_ms": 1.5, "longest_ms": 1}}, "e2e total_ms: 1.5 is not a whole number"),
        ({"e2e": {"count": 1, "total_ms": 1, "longest_ms": -1}}, "e2e longest_ms: -1 is not a whole number"),
        ({"e2e": {"count": True, "total_ms": 1, "longest_ms": 1}}, "e2e count: True is not a whole number"),
    ],
)
def test_what_are_no_totals(data: Any, why: str) -> None:
    """They are refused in one sentence."""
    with pytest.raises(InvalidDataError, match=why):
        LatencyTotals.from_data(data)


def test_a_turn_is_a_span(spans: list[dict[str, Any]]) -> None:
    """It has the latencies in whole milliseconds under their names, and lasts from the caller's last word to the agent's."""
    before = time.time_ns()
    TurnMeter().record(TurnLatencies(0.12, 0.4, 0.2504, 0.9), speech=2.0, attributes={"session.id": "call-1"})
    [span] = spans
    assert span["name"] == "voice.turn"
    assert span["attributes"] == {
        "voice.stt_latency_ms": 120, "voice.agent_latency_ms": 400, "voice.tts_latency_ms": 250, "voice.e2e_latency_ms": 900,
        "session.id": "call-1",
    }  # fmt: skip
    assert span["end_time"] - span["start_time"] == 2_900_000_000
    assert before <= span["end_time"] <= time.time_ns()


def test_a_span_of_what_is_known(spans: list[dict[str, Any]]) -> None:
    """A turn with some parts has their attributes alone, and one without any leaves no trace."""
    TurnMeter().record(TurnLatencies(stt=0.25, tts=0.5))
    TurnMeter().record(TurnLatencies())
    [span] = spans
    assert span["attributes"] == {"voice.stt_latency_ms": 250, "voice.tts_latency_ms": 500}
    assert span["end_time"] - span["start_time"] == 750_000_000


def test_histograms_are_exported_from_the_start() -> None:
    """Each part has its series before the first turn, with bounds where callers notice; a turn falls in its bucket."""
    registry = CollectorRegistry()
    metrics = VoiceMetrics(registry)
    name = "recovery_voice_turn_latency_seconds"
    assert [registry.get_sample_value(f"{name}_count", {"part": part}) for part in PARTS] == [0, 0, 0, 0]
    TurnMeter(metrics).record(TurnLatencies(e2e=1.2))
    within = [registry.get_sample_value(f"{name}_bucket", {"part": "e2e", "le": le}) for le in ("1.0", "1.5", "10.0")]
    assert within == [0, 1, 1]


def test_what_records_turns_in_a_process_shares_one_set() -> None:
    """A registry takes it once; the session store and an adapter find the same, whichever comes first."""
    registry = CollectorRegistry()
    shared = VoiceMetrics.of(registry)
    assert VoiceMetrics.of(registry) is shared
    assert StoreMetrics(registry).voice is shared
    own = VoiceMetrics(CollectorRegistry())
    assert own is not shared


def test_without_opentelemetry_turns_are_counted() -> None:
    """A program that lacks its package has histograms, and no error."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from prometheus_client import CollectorRegistry\n"
        "from coordinator.voice import TurnLatencies\n"
        "from coordinator.voice.meter import TurnMeter, VoiceMetrics\n"
        "registry = CollectorRegistry()\n"
        "TurnMeter(VoiceMetrics(registry)).record(TurnLatencies(e2e=1))\n"
        "print(registry.get_sample_value('recovery_voice_turn_latency_seconds_count', {'part': 'e2e'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("1.0", 0), done.stderr
