"""What a call is doing: which state may follow which, and what an heir learns."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator import CallStateError, InvalidDataError, InvalidValueError
from coordinator.voice import CallProgress, CallState
from coordinator.voice.progress import CALL_TRANSITIONS

S = CallState
TALKING = (S.LISTENING, S.PROCESSING, S.RESPONDING)
STATES = st.sampled_from(CallState)


@st.composite
def progresses(draw: st.DrawFn) -> CallProgress:
    """A progress as any series of moves and deaths leaves it."""
    progress = CallProgress()
    for state in draw(st.lists(st.none() | STATES, max_size=8)):
        if state is None:
            progress = progress.recovered()
        elif progress.can_move_to(state):
            progress.move_to(state)
    return progress


class Calls(RuleBasedStateMachine):
    """A call that moves, dies and is stored, beside a plain account of what was cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.progress, self.state, self.cut_off = CallProgress(), S.CONNECTED, ""

    @rule(state=STATES)
    def moves(self, state: CallState) -> None:
        before = CallProgress(self.progress.state, self.progress.interrupted)
        if state == self.state:
            assert not self.progress.move_to(state)
        elif state in CALL_TRANSITIONS[self.state]:
            assert self.progress.can_move_to(state)
            assert self.progress.move_to(state.value)
            if state is S.RECONNECTING and self.state in TALKING:
                self.cut_off = self.state
            elif state in TALKING:
                self.cut_off = ""
            self.state = state
        else:
            assert not self.progress.can_move_to(state)
            with pytest.raises(CallStateError):
                self.progress.move_to(state)
            assert self.progress == before

    @rule()
    def dies(self) -> None:
        self.progress = CallProgress.inherited(json.loads(json.dumps(self.progress.to_data())))
        if self.state in TALKING:
            self.cut_off = self.state
        self.state = self.state if self.state is S.DISCONNECTED else S.RECONNECTING

    @precondition(lambda self: self.state is S.RECONNECTING)
    @rule()
    def has_media_again(self) -> None:
        assert self.progress.move_to("connected")
        self.state = S.CONNECTED

    @rule()
    def its_caller_comes_back(self) -> None:
        self.progress = self.progress.called_again()
        if self.state in TALKING:
            self.cut_off = self.state
        elif self.state is S.DISCONNECTED:
            self.cut_off = ""
        self.state = S.CONNECTED

    @invariant()
    def is_as_told(self) -> None:
        assert (self.progress.state, self.progress.interrupted or "") == (self.state, self.cut_off)
        assert CallProgress.from_data(self.progress.to_data()) == self.progress


TestCalls = Calls.TestCase


@pytest.mark.parametrize(
    ("state", "follow"),
    [
        (S.CONNECTED, {*TALKING, S.RECONNECTING, S.DISCONNECTED}),
        (S.LISTENING, {S.PROCESSING, S.RESPONDING, S.RECONNECTING, S.DISCONNECTED}),
        (S.PROCESSING, {S.LISTENING, S.RESPONDING, S.RECONNECTING, S.DISCONNECTED}),
        (S.RESPONDING, {S.LISTENING, S.PROCESSING, S.RECONNECTING, S.DISCONNECTED}),
        (S.RECONNECTING, {S.CONNECTED, S.DISCONNECTED}),
        (S.DISCONNECTED, set()),
    ],
)
def test_the_states_that_may_follow(state: CallState, follow: set[CallState]) -> None:
    """Without media a call neither listens nor responds, and its end is final."""
    assert {after for after in CallState if CallProgress(state).can_move_to(after)} == {state, *follow}


@given(progresses(), STATES)
def test_a_refused_move_changes_nothing(progress: CallProgress, state: CallState) -> None:
    """It raises one error that names both states, and the progress is as it was."""
    before = progress.to_data()
    if not progress.can_move_to(state):
        with pytest.raises(
            CallStateError, match=f"a call that is {progress.state} does not become {state}: "
        ) as refused:
            progress.move_to(state)
        assert (refused.value.before, refused.value.after) == (progress.state, state)
        assert progress.to_data() == before


def test_an_error_says_what_may_follow() -> None:
    """Of a state with followers it lists them; of the last one it says that it is the last."""
    with pytest.raises(CallStateError, match=r"from there it goes to connected, disconnected$"):
        CallProgress(S.RECONNECTING).move_to("listening")
    with pytest.raises(CallStateError, match=r"does not become connected: its end is final$"):
        CallProgress(S.DISCONNECTED).move_to("connected")


@pytest.mark.parametrize("wrong", ["talking", "", None, 5, {}, "LISTENING"])
def test_a_word_that_is_no_state(wrong: Any) -> None:
    """It is refused with the list of states, and changes nothing."""
    progress = CallProgress(S.LISTENING)
    with pytest.raises(InvalidValueError, match="is not one of connected, listening,"):
        progress.move_to(wrong)
    assert progress == CallProgress(S.LISTENING)


@pytest.mark.parametrize("state", TALKING)
def test_an_heir_learns_who_was_speaking(state: CallState) -> None:
    """What was cut off is known until the conversation goes on, also when the heir dies before that."""
    progress = CallProgress(state).recovered()
    assert (progress.state, progress.interrupted) == (S.RECONNECTING, state)
    progress.move_to(S.CONNECTED)
    progress = progress.recovered()
    assert progress.interrupted is state
    progress.move_to(S.CONNECTED)
    progress.move_to(S.RESPONDING)
    assert progress.interrupted is None


def test_who_has_the_word() -> None:
    """The caller while the call listens, the agent while it responds, and else neither."""
    said = {state.value: state.speaker for state in CallState if state.speaker}
    assert said == {"listening": "user", "responding": "agent"}


@given(progresses())
def test_a_progress_comes_back(progress: CallProgress) -> None:
    """Through JSON it is what it was, and recovering it twice is recovering it once."""
    again = CallProgress.from_data(json.loads(json.dumps(progress.to_data())))
    assert again == progress
    assert progress.recovered().recovered() == progress.recovered()
    assert CallProgress.inherited(progress.to_data()) == progress.recovered()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | STATES.map(str),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["state", "interrupted", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON)
def test_an_heir_begins_whatever_is_stored(stored: Any) -> None:
    """What is broken raises one error where it is read strictly, and says nothing to an heir."""
    progress = CallProgress.inherited(stored)
    assert progress.state in (S.RECONNECTING, S.DISCONNECTED)
    try:
        read = CallProgress.from_data(stored)
    except InvalidDataError:
        assert progress == CallProgress(S.RECONNECTING)
    else:
        assert progress == read.recovered()


def test_only_a_conversation_is_interrupted() -> None:
    """Stored data that says otherwise is refused; what was cut off is over once the conversation goes on."""
    with pytest.raises(InvalidDataError, match="a call that was 'connected' was not interrupted"):
        CallProgress.from_data({"state": "reconnecting", "interrupted": "connected"})
    read = CallProgress.from_data({"state": "listening", "interrupted": "responding", "newer": 1})
    assert read == CallProgress(S.LISTENING)


def test_it_needs_neither_redis_nor_opentelemetry() -> None:
    """A program that keeps all in recovery data imports neither with it."""
    program = (
        "import sys; import coordinator.voice; "
        "print([name for name in ('redis', 'opentelemetry', 'anyio', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
