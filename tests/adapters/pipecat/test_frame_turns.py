"""What the frames of a pipeline tell of turns becomes latencies and the call's state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.adapters.pipecat.bot_outcome import BotOutcome
from coordinator.adapters.pipecat.frame_turns import (
    FIRST_BYTE,
    FIRST_WORD,
    TURN_FRAMES,
    FrameTurns,
    SeenFrame,
    ServiceTime,
)
from coordinator.voice.latencies import TurnLatencies
from coordinator.voice.progress import CallState


def fed(turns: FrameTurns, *frames: tuple[Any, ...]) -> list[dict[str, float]]:
    """The latencies of the turns that were over: of frames, each with its time, the name of its class and what it has besides."""
    found = []
    for at, name, *more in frames:
        made: dict[str, Any] = {"source": more[0] if more else "?"}
        if name == "MetricsFrame":
            made = {"times": tuple(ServiceTime(*one) for one in more)}
        elif name == "VADUserStoppedSpeakingFrame":
            made = {"stop_seconds": more[0]}
        if latencies := turns.passed(SeenFrame(name, at, **made)):
            found.append({part: round(seconds, 6) for part, seconds in latencies})
    return found


SAID = [(10.0, "UserStartedSpeakingFrame"), (11.0, "TranscriptionFrame"), (12.0, "UserStoppedSpeakingFrame")]
THOUGHT = [(12.1, "LLMFullResponseStartFrame", "llm"), (12.4, "LLMTextFrame", "llm"), (12.5, "TTSStartedFrame", "tts")]
SPOKEN = [(12.9, "BotStartedSpeakingFrame"), (14.0, "BotStoppedSpeakingFrame")]


def test_an_answer_has_the_times_that_its_frames_show() -> None:
    """From the turn's end to the first words, to the first audio; totals go to the heir. When the caller fell silent is not known."""
    turns = FrameTurns()
    assert fed(turns, *SAID, *THOUGHT, *SPOKEN) == [{"agent": 0.4, "tts": 0.5, "e2e": 0.9}]
    heir = FrameTurns(json.loads(json.dumps(turns.to_data())))
    assert (heir.totals.e2e.count, heir.totals.e2e.total_ms, heir.totals.stt.count) == (1, 900, 0)


def test_a_transcript_may_come_after_the_turns_end() -> None:
    """The answer waits for it; what is heard once the answer has begun belongs to the next turn."""
    late = [(12.05, "TranscriptionFrame"), (12.2, "LLMFullResponseStartFrame", "llm"), (12.45, "LLMTextFrame")]
    next_one = [(12.8, "TranscriptionFrame"), *SPOKEN]
    assert fed(FrameTurns(), SAID[0], SAID[2], *late, *next_one) == [
        {"stt": 0.05, "agent": 0.4, "tts": 0.45, "e2e": 0.9}
    ]


def test_what_the_caller_waits_begins_with_silence() -> None:
    """Where voice activity is detected, speech ended so long before the detector said so; the last pause counts."""
    heard = [
        (9.5, "VADUserStartedSpeakingFrame"), (9.6, "UserStartedSpeakingFrame"), (10.2, "VADUserStoppedSpeakingFrame", 0.2),
        (10.4, "TranscriptionFrame"), (10.5, "VADUserStartedSpeakingFrame"), (11.2, "VADUserStoppedSpeakingFrame", 0.2),
        (11.5, "TranscriptionFrame"), (12.0, "UserStoppedSpeakingFrame"),
        (12.2, "VADUserStartedSpeakingFrame"), (12.3, "VADUserStoppedSpeakingFrame", 0.05),  # a noise
    ]  # fmt: skip
    assert fed(FrameTurns(), *heard, *THOUGHT, *SPOKEN) == [{"stt": 0.5, "agent": 0.4, "tts": 0.5, "e2e": 1.9}]


def test_speech_that_goes_on_has_not_ended() -> None:
    """A pause before is no end of it, where the turn is over before the detector says so."""
    heard = [
        (10.0, "UserStartedSpeakingFrame"),
        (10.5, "VADUserStoppedSpeakingFrame", 0.2),
        (11.0, "VADUserStartedSpeakingFrame"),
        (12.0, "UserStoppedSpeakingFrame"),
    ]
    assert fed(FrameTurns(), *heard, *SPOKEN) == [{"e2e": 0.9}]


def test_what_services_measured_of_themselves_comes_first() -> None:
    """The first of each, by the names of the services that think and speak; a model's first word before its first byte."""
    measured = [
        (12.3, "MetricsFrame", ("llm", FIRST_BYTE, 0.11), ("stt", FIRST_BYTE, 9.0), ("tts", FIRST_BYTE, 0)),
        (12.6, "MetricsFrame", ("tts", FIRST_BYTE, 0.07)),
        (
            12.7,
            "MetricsFrame",
            ("tts", FIRST_BYTE, 8.0),
            ("llm", FIRST_BYTE, 8.0),
            ("llm", "ProcessingMetricsData", 7.0),
        ),
    ]
    frames = [*SAID, *sorted([*THOUGHT, *measured], key=lambda one: one[0]), *SPOKEN]
    assert fed(FrameTurns(), *frames) == [{"agent": 0.11, "tts": 0.07, "e2e": 0.9}]
    frames.insert(-3, (12.75, "MetricsFrame", ("llm", FIRST_WORD, 0.25)))
    assert fed(FrameTurns(), *frames)[0]["agent"] == 0.25


def test_a_model_that_speaks_itself_has_no_voice_beside_it() -> None:
    """Its time is the agent's, and not counted twice."""
    frames = [
        *SAID, (12.1, "LLMFullResponseStartFrame", "live"), (12.2, "TTSStartedFrame", "live"),
        (12.3, "MetricsFrame", ("live", FIRST_BYTE, 0.2)), *SPOKEN,
    ]  # fmt: skip
    assert fed(FrameTurns(), *frames) == [{"agent": 0.2, "e2e": 0.9}]


def test_what_the_bot_says_of_its_own_accord_is_no_turn() -> None:
    """A greeting, and the second part of an answer; neither is measured against what the caller said before or after."""
    turns = FrameTurns()
    greeting = [
        (1.0, "LLMFullResponseStartFrame", "llm"),
        (1.2, "LLMTextFrame"),
        (1.2, "MetricsFrame", ("llm", FIRST_BYTE, 5.0)),
        (1.3, "BotStartedSpeakingFrame"),
    ]
    assert fed(turns, *greeting, (2.0, "BotStoppedSpeakingFrame")) == []
    more = [(14.5, "BotStartedSpeakingFrame"), (15.0, "BotStoppedSpeakingFrame"), (15.5, "UserStoppedSpeakingFrame")]
    assert fed(turns, *SAID, *THOUGHT, *SPOKEN, *more, (16.0, "BotStartedSpeakingFrame")) == [
        {"agent": 0.4, "tts": 0.5, "e2e": 0.9}
    ]


def test_a_caller_who_goes_on_is_answered_once() -> None:
    """The answer that did not come yet is given up; the wait counts from the caller's last word."""
    again = [(12.6, "UserStartedSpeakingFrame"), (13.0, "TranscriptionFrame"), (13.5, "UserStoppedSpeakingFrame")]
    late = [(13.9, "LLMTextFrame"), (14.0, "BotStartedSpeakingFrame")]
    assert fed(FrameTurns(), *SAID, *THOUGHT, *again, *late) == [{"agent": 0.4, "tts": 0.1, "e2e": 0.5}]


def test_a_model_that_was_asked_too_early_is_asked_again() -> None:
    """What it measured before the caller's turn was over counts only where no other answer came."""
    early = [
        (11.1, "LLMFullResponseStartFrame", "llm"),
        (11.2, "MetricsFrame", ("llm", FIRST_BYTE, 0.1)),
        (11.3, "LLMTextFrame"),
    ]
    again = [
        (11.5, "LLMFullResponseStartFrame", "llm"),
        (11.8, "MetricsFrame", ("llm", FIRST_BYTE, 0.3)),
        (11.9, "LLMTextFrame"),
    ]
    [first] = fed(FrameTurns(), *SAID[:2], *early, *again, *SAID[2:], *SPOKEN)
    assert first == {"agent": 0.3, "tts": 0.9, "e2e": 0.9}


STATES = [
    ((10.0, "UserStartedSpeakingFrame"), "listening"),
    ((10.5, "LLMFullResponseStartFrame", "llm"), "listening"),  # too early
    ((12.0, "UserStoppedSpeakingFrame"), "processing"),
    ((12.1, "BotStoppedSpeakingFrame"), "processing"),  # of the answer before, which was cut short
    ((12.9, "BotStartedSpeakingFrame"), "responding"),
    ((13.0, "LLMFullResponseStartFrame", "llm"), "responding"),  # with a tool's result, behind what is being said
    ((14.0, "BotStoppedSpeakingFrame"), "listening"),
    ((14.1, "LLMFullResponseStartFrame", "llm"), "processing"),
    ((14.5, "BotStartedSpeakingFrame"), "responding"),
    ((15.0, "UserStartedSpeakingFrame"), "listening"),
    ((15.1, "UserStoppedSpeakingFrame"), "processing"),
    ((15.2, "BotStoppedSpeakingFrame"), "processing"),
    ((16.0, "UserStartedSpeakingFrame"), "listening"),
    ((16.1, "BotStartedSpeakingFrame"), "responding"),
    ((16.2, "UserStoppedSpeakingFrame"), "responding"),  # a turn that was found to be over when its answer came
    ((17.0, "BotStoppedSpeakingFrame"), "listening"),
]


def test_the_state_follows_the_frames() -> None:
    """Who has the word, and whether the answer is being made."""
    turns = FrameTurns()
    for frame, state in STATES:
        fed(turns, frame)
        assert turns.progress.state == state, frame


@pytest.mark.parametrize("outcome", BotOutcome)
def test_the_pipelines_end_does_not_say_what_was_cut_off(outcome: BotOutcome) -> None:
    """The bot spoke when it ended, and falls silent because of that: its heir knows that it spoke, unless the call is over."""
    turns = FrameTurns()
    fed(turns, *SAID, *THOUGHT, SPOKEN[0])
    turns.ended(outcome)
    kept = turns.to_data()
    assert fed(turns, SPOKEN[1], *SAID, SPOKEN[0]) == []
    turns.connected()
    assert turns.to_data() == kept
    is_over = outcome is BotOutcome.CLOSE
    assert turns.progress.state is (CallState.DISCONNECTED if is_over else CallState.RECONNECTING)
    heir = FrameTurns(kept)  # also of one that was over: its bot failed behind its pipeline, before it was closed
    assert heir.progress.state is CallState.RECONNECTING
    assert heir.progress.interrupted is (None if is_over else CallState.RESPONDING)


def test_an_heir_knows_what_was_cut_off_until_the_talk_goes_on() -> None:
    """Media alone does not end it, and a conversation has media."""
    turns = FrameTurns({"progress": {"state": "processing"}})
    assert turns.progress.to_data() == {"state": "reconnecting", "interrupted": "processing"}
    turns.connected()
    assert turns.progress.to_data() == {"state": "connected", "interrupted": "processing"}
    fed(turns, SPOKEN[0])
    assert turns.progress.to_data() == {"state": "responding"}
    silent = FrameTurns({"progress": {"state": "processing"}})
    fed(silent, SPOKEN[0])
    assert silent.progress.state is CallState.RESPONDING


NUMBERS = st.one_of(st.floats(), st.none(), st.text(max_size=2), st.booleans(), st.integers())
TIMES = st.lists(
    st.builds(ServiceTime, st.sampled_from("ab"), st.sampled_from((FIRST_BYTE, FIRST_WORD)), NUMBERS), max_size=2
).map(tuple)
SEEN = st.builds(
    SeenFrame,
    st.sampled_from(sorted(TURN_FRAMES)),
    st.just(0.0),
    st.sampled_from("ab"),
    stop_seconds=NUMBERS,
    times=TIMES,
)


@given(st.lists(st.tuples(SEEN, st.floats(0, 100)), max_size=60), st.booleans())
def test_frames_in_any_order_do_no_harm(frames: list[tuple[SeenFrame, float]], is_heir: bool) -> None:
    """No times below zero, no more answers than turns of the caller, totals of just those, and a state that can be restored."""
    turns, at, asked, answers = FrameTurns({} if is_heir else None), 1000.0, 0, []
    for frame, later in frames:
        at += later
        asked += frame.name == "UserStartedSpeakingFrame"
        latencies = turns.passed(SeenFrame(frame.name, at, frame.source, frame.stop_seconds, frame.times))
        assert not latencies or frame.name == "BotStartedSpeakingFrame"
        answers += [latencies] if latencies else []
    assert all(isinstance(one, TurnLatencies) and one.e2e is not None for one in answers)
    assert len(answers) <= asked
    assert turns.totals.e2e.count == len(answers)
    assert turns.progress.state is not CallState.DISCONNECTED
    heir = FrameTurns(json.loads(json.dumps(turns.to_data())))
    assert heir.totals == turns.totals
    assert heir.progress.state is CallState.RECONNECTING
