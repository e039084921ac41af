"""A conversation is made to fit."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.adapters.livekit.transcript import fitted_items, size_of


def said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [text]}


SYSTEM = said("system", "You sell pizza.")


def test_the_oldest_goes_first_and_instructions_stay() -> None:
    """Of twenty turns the newest stay, in order, behind the instructions."""
    turns = [said("user" if n % 2 else "assistant", f"turn {n}") for n in range(20)]
    kept = fitted_items([SYSTEM, *turns], size_of([SYSTEM, *turns[15:]]))
    assert kept == [SYSTEM, *turns[15:]]


def test_a_result_without_its_call_goes_too() -> None:
    """No model takes a tool's result whose call was left out."""
    call = {"type": "function_call", "call_id": "1", "name": "order", "arguments": "{}" + " " * 200}
    result = {"type": "function_call_output", "call_id": "1", "output": "ok"}
    end = said("assistant", "Done.")
    assert fitted_items([call, result, end], size_of([result, end])) == [end]
    assert fitted_items([call, result, end], 10_000) == [call, result, end]


ITEMS = st.lists(st.builds(said, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=30)), max_size=30)


@given(ITEMS, st.integers(0, 3000))
def test_what_is_kept_fits_and_is_the_newest(items: list[dict[str, Any]], most: int) -> None:
    """It fits unless the instructions alone do not, and no item is left out behind one that stays."""
    kept = fitted_items(items, most)
    rest = [one for one in kept if one["role"] != "system"]
    turns = [one for one in items if one["role"] != "system"]
    assert [one for one in kept if one["role"] == "system"] == [one for one in items if one["role"] == "system"]
    assert rest == turns[len(turns) - len(rest) :]
    assert not rest or size_of(kept) <= most
