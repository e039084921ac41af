"""What LiveKit tells of turns becomes latencies and the call's state."""

from __future__ import annotations

import json

import pytest

from coordinator.adapters.livekit.call_turns import CallTurns
from coordinator.voice.progress import CallState


def test_an_answer_has_the_latencies_of_its_turn() -> None:
    """The transcript's delay comes with the caller's message, the rest with the answer; totals go to the heir."""
    turns = CallTurns()
    nothing, _ = turns.said("user", {"transcription_delay": 0.2})
    assert not nothing
    metrics = {
        "llm_node_ttft": 0.3,
        "tts_node_ttfb": 0.1,
        "e2e_latency": 0.7,
        "started_speaking_at": 10.0,
        "stopped_speaking_at": 12.5,
    }
    latencies, speech = turns.said("assistant", metrics)
    assert dict(latencies) == {"stt": 0.2, "agent": 0.3, "tts": 0.1, "e2e": 0.7}
    assert speech == 2.5
    second, _ = turns.said("assistant", {})
    assert not second
    heir = CallTurns(json.loads(json.dumps(turns.to_data())))
    assert heir.totals.e2e.total_ms == 700
    assert heir.totals.e2e.count == 1


@pytest.mark.parametrize("broken", ["x", None, -1.0, float("nan"), True])
def test_numbers_that_are_none_are_left_out(broken: object) -> None:
    """What another version puts there harms no call."""
    latencies, speech = CallTurns().said("assistant", {"e2e_latency": broken, "started_speaking_at": broken})
    assert not latencies
    assert speech == 0.0


def test_an_heir_knows_who_had_the_word() -> None:
    """The agent spoke when it died: the heir is reconnecting, and then connected, and knows it until the talk goes on."""
    turns = CallTurns()
    for state in ("initializing", "listening", "thinking", "speaking"):
        turns.agent_is(state)
    heir = CallTurns(turns.to_data())
    assert heir.progress.state is CallState.RECONNECTING
    assert heir.progress.interrupted is CallState.RESPONDING
    heir.agent_is("speaking")  # its media is not up yet
    assert heir.progress.state is CallState.RECONNECTING
    heir.moves_to(CallState.CONNECTED)
    heir.caller_is("speaking")
    assert heir.progress.to_data() == {"state": "listening"}


@pytest.mark.parametrize("data", [{}, {"progress": 7, "latencies": []}, {"latencies": {"e2e": {"count": -1}}}])
def test_an_heir_of_broken_data_begins_anew(data: dict[str, object]) -> None:
    """Nothing that stands there keeps a call from going on."""
    assert CallTurns(data).progress.state is CallState.RECONNECTING
    assert not CallTurns(data).totals
