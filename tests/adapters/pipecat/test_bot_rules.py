"""What becomes of a call when its bot ends, what a bot says first, when a call can move, and whether its pipeline moves."""

from __future__ import annotations

import itertools

import pytest

from coordinator.adapters.pipecat.bot_outcome import BotEnd, BotOutcome, outcome_of
from coordinator.adapters.pipecat.bot_state import CallFloor, PipelinePulse
from coordinator.adapters.pipecat.first_words import FirstWords, first_words

ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "!"}]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (BotEnd(), BotOutcome.CLOSE),
        (BotEnd(failed=True), BotOutcome.RELEASE),
        (BotEnd(hung_up=True), BotOutcome.CLOSE),
        (BotEnd(hung_up=True, disconnected=True, failed=True), BotOutcome.CLOSE),
        (BotEnd(disconnected=True), BotOutcome.AWAIT),
        (BotEnd(disconnected=True, failed=True), BotOutcome.AWAIT),
        (BotEnd(sent_on=True, hung_up=True, disconnected=True), BotOutcome.AWAIT),
    ],
)
def test_how_a_bot_ended_says_what_becomes_of_its_call(end: BotEnd, outcome: BotOutcome) -> None:
    """A provider's stop ends a call, a connection that breaks does not, and an error gives it to other workers."""
    assert outcome_of(end) is outcome


def test_a_call_that_is_served_elsewhere_is_left_alone() -> None:
    """However its bot ended here."""
    for lost, *others in itertools.product([True, False], repeat=5):
        end = BotEnd(lost, not lost, *others)
        assert outcome_of(end) is BotOutcome.NOTHING


@pytest.mark.parametrize("messages", [[], ASKED, ANSWERED])
def test_a_new_call_begins_as_the_program_has_it(messages: list[dict[str, str]]) -> None:
    """Nothing is said for it, whatever was given for calls that come back."""
    said = first_words(messages, returned=False, planned=False, has_hook=True, has_sentence=True)
    assert said is FirstWords.NOTHING


@pytest.mark.parametrize(
    ("messages", "planned", "has_hook", "has_sentence", "expected"),
    [
        (ASKED, True, True, True, FirstWords.HOOK),
        (ASKED, False, False, True, FirstWords.SENTENCE),
        (ASKED, True, False, True, FirstWords.ANSWER),
        (ANSWERED, True, False, True, FirstWords.NOTHING),
        (ASKED, False, False, False, FirstWords.ANSWER),
        (ANSWERED, False, False, False, FirstWords.NOTHING),
        ([], False, False, False, FirstWords.NOTHING),
        ([object()], False, False, False, FirstWords.NOTHING),
    ],
)
def test_what_a_bot_says_first(
    messages: list[object], planned: bool, has_hook: bool, has_sentence: bool, expected: FirstWords
) -> None:
    """A hook before all, the sentence for callers who were cut off, and else the answer that is due."""
    said = first_words(messages, returned=True, planned=planned, has_hook=has_hook, has_sentence=has_sentence)
    assert said is expected


def quiet_after(*frames: str) -> bool:
    """Whether it is quiet when these have passed."""
    floor = CallFloor()
    for frame in frames:
        floor.passed(frame)
    return floor.is_quiet


def test_a_call_is_quiet_between_two_turns_only() -> None:
    """From the caller's first word to the bot's last one it is not, the pause before the answer included."""
    turn = [
        "UserStartedSpeakingFrame", "UserStoppedSpeakingFrame", "LLMFullResponseStartFrame", "InputAudioRawFrame",
        "BotStartedSpeakingFrame", "BotSpeakingFrame",
    ]  # fmt: skip
    assert quiet_after()
    for length in range(1, len(turn) + 1):
        assert not quiet_after(*turn[:length]), turn[:length]
    assert quiet_after(*turn, "BotStoppedSpeakingFrame")
    assert quiet_after(*turn, "InterruptionFrame")
    assert not quiet_after("BotStartedSpeakingFrame", "UserStartedSpeakingFrame", "InterruptionFrame")


def test_a_pipeline_is_alive_while_something_moves() -> None:
    """Up to the limit after the last movement, and for ever without a limit."""
    pulse = PipelinePulse(5.0, now=100.0)
    assert pulse.is_alive(105.0)
    assert not pulse.is_alive(105.1)
    pulse.moved(105.1)
    assert pulse.is_alive(110.0)
    assert PipelinePulse(None, now=0.0).is_alive(1e9)
