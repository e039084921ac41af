"""The recovery data of a bot's call: what of its context fits, and what is read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.adapters.pipecat.context_bounds import SizedMessage, fit_context
from coordinator.adapters.pipecat.context_record import draft_record, new_call, plain_message, read_record
from coordinator.errors import DataTooLargeError, InvalidDataError
from coordinator.worker.data import encode

MOST = 64 * 1024


def message(role: str, text: str = "x") -> dict[str, Any]:
    """One of a context."""
    return {"role": role, "content": text}


CALL_OF_A_TOOL = {
    "role": "assistant",
    "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "t", "content": "7"}


def sized(*messages: dict[str, Any]) -> list[SizedMessage]:
    """Each of ten bytes."""
    return [SizedMessage(one, 10) for one in messages]


def test_what_fits_stays_as_it_is() -> None:
    """Nothing is dropped up to the last byte."""
    messages = sized(message("system"), message("user"), message("assistant"))
    fitted = fit_context(messages, 30)
    assert (fitted.messages, fitted.dropped_turns, fitted.is_lost) == ([one.message for one in messages], 0, False)


def test_the_oldest_turns_go_first_and_whole() -> None:
    """The call of a tool and its result are one turn with the question; what the system was told stays, wherever it stands."""
    late = message("system", "later")
    messages = sized(
        message("system"), message("assistant", "hello"), message("user", "1"), CALL_OF_A_TOOL, RESULT,
        message("assistant", "7"), late, message("user", "2"), message("assistant", "b"),
    )  # fmt: skip
    fitted = fit_context(messages, 79)
    assert fitted.dropped_turns == 2
    assert fitted.messages == [message("system"), late, message("user", "2"), message("assistant", "b")]
    assert fit_context(messages, 80).dropped_turns == 1


def test_even_the_last_turn_may_go_and_the_system_is_the_last() -> None:
    """Where one turn alone is too large it is left out; where the system's words are, nothing is left."""
    messages = sized(message("system"), message("user"))
    assert fit_context(messages, 10).messages == [message("system")]
    fitted = fit_context(messages, 9)
    assert (fitted.messages, fitted.is_lost) == ([], True)
    assert fit_context([], 0).is_lost is False


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])


TURNS: dict[str, Any] = {
    "progress": {"state": "listening"},
    "latencies": {"e2e": {"count": 1, "total_ms": 9, "longest_ms": 9}},
}


@given(
    st.lists(st.builds(message, ROLES, st.text(max_size=200)), max_size=30),
    st.integers(200, 4000),
    st.sampled_from([{}, TURNS]),
)
def test_a_draft_always_fits_and_is_read_as_it_was_written(
    messages: list[dict[str, Any]], most_bytes: int, turns: dict[str, Any]
) -> None:
    """For every context the record is within the bound, its messages are the newest, and the system's are among them."""
    draft = draft_record(messages, {"a": "ü"}, most_bytes, turns=turns)
    assert read_record(draft.recovery_data).turns in (turns, {})
    encode(draft.recovery_data, most_bytes)  # raises when it is too large
    found = read_record(draft.recovery_data)
    assert (found.data, found.fault, found.dropped_turns) == ({"a": "ü"}, "", draft.dropped_turns)
    if not draft.is_lost:
        told = [one for one in messages if one["role"] in ("system", "developer")]
        assert [one for one in found.messages if one["role"] in ("system", "developer")] == told
        others = [one for one in messages if one not in told]
        kept = [one for one in found.messages if one not in told]
        assert kept == others[len(others) - len(kept) :]
    if not draft.dropped_turns and not draft.is_lost:
        assert found.messages == messages


def test_what_the_call_is_doing_stands_back_for_the_context() -> None:
    """It is kept beside the context up to the last byte, and left out where the newest turn would not fit."""
    messages = [message("system", "x" * 100), message("user", "y")]
    whole = len(encode(draft_record(messages, {}, MOST, turns=TURNS).recovery_data, MOST)[0])
    spare = len(str(2**62 // 2**10))  # of a count that may grow; the comma behind the last message makes up for its 0
    kept = draft_record(messages, {}, whole + spare, turns=TURNS).recovery_data
    assert (kept["context"], kept["progress"], kept["latencies"]) == (messages, TURNS["progress"], TURNS["latencies"])
    tight = draft_record(messages, {}, whole + spare - 1, turns=TURNS)
    assert tight.recovery_data["context"] == messages
    assert "progress" not in tight.recovery_data
    assert tight.is_lost is False


def test_turns_that_were_dropped_before_are_counted_on() -> None:
    """The second heir knows how much the first one was missing."""
    draft = draft_record([message("user", "x" * 300), message("user", "y")], {}, 300, dropped_before=4)
    assert (draft.dropped_turns, draft.recovery_data["dropped_turns"]) == (5, 5)


@dataclass
class Specific:
    """As Pipecat's message in a service's own form."""

    llm: str
    message: Any


def test_a_message_in_a_services_own_form_says_for_which() -> None:
    """It is written with the service's name."""
    assert plain_message(Specific("google", {"parts": []})) == {"llm_specific": "google", "message": {"parts": []}}


@pytest.mark.parametrize(
    "wrong", [Specific("google", object()), {"role": "user", "content": b"bytes"}, 7j, {"role": "user", "n": 2**70}]
)
def test_a_message_that_is_no_json_is_left_out_alone(wrong: object) -> None:
    """The others are kept, and the reason is told without the words that were said."""
    draft = draft_record([message("user", "before"), wrong, message("assistant", "after")], {}, MOST)
    assert draft.recovery_data["context"] == [message("user", "before"), message("assistant", "after")]
    assert draft.unwritable
    assert "before" not in draft.unwritable


def test_the_programs_own_data_must_fit_alone() -> None:
    """It is not cut: the program is told."""
    with pytest.raises(DataTooLargeError):
        draft_record([], {"a": "x" * 1000}, 500)
    with pytest.raises(InvalidDataError):
        draft_record([], {"a": object()}, 500)


@pytest.mark.parametrize("data", [b"", {}, None])
def test_a_call_without_data_is_new(data: object) -> None:
    """Nothing is wrong with it."""
    assert read_record(data) == read_record(new_call())


def test_a_mapping_of_another_program_is_its_data() -> None:
    """A call that a program opened which knows nothing of Pipecat keeps what it was opened with."""
    found = read_record({"room": "r-1"})
    assert (found.messages, found.data, found.fault) == ([], {"room": "r-1"}, "")


@pytest.mark.parametrize(
    "data", [b"\x00raw", {"pipecat": 1}, {"pipecat": 1, "context": "x"}, {"pipecat": 1, "context": [7]}, [1], "text"]
)
def test_a_broken_record_is_told_and_loses_no_call(data: object) -> None:
    """Its fault is named, and nothing is raised."""
    found = read_record(data)
    assert found.fault
    assert found.messages == []


def test_the_rest_of_a_broken_record_is_used() -> None:
    """The program's own data is read although the context cannot be, and a wrong count is none."""
    assert read_record({"pipecat": 1, "context": 7, "data": {"a": 1}}).data == {"a": 1}
    found = read_record({"pipecat": 2, "context": [], "data": 7, "dropped_turns": "many"})
    assert (found.data, found.dropped_turns, found.fault) == ({}, 0, "")
