"""What a person is shown: nothing in it acts on a terminal or on the order in which it is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import ConfigurationError, FencedError, StoreUnavailableError
from coordinator.printable import named, printable, printable_json, printable_lines, told
from tests.hostile import EVIL, HIDDEN_CHARACTERS, hidden_in


@pytest.mark.parametrize("character", [*HIDDEN_CHARACTERS, "\ud800"], ids=lambda c: f"U+{ord(c):04X}")
def test_a_hidden_character_becomes_visible(character: str) -> None:
    """It is shown as its escape, between what stands around it."""
    shown = printable(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("text", ["", "call-1", "Grüße, 世界", "👩\u200d💻", "שלום", "می\u200cخواهم", "a\\x1b"])
def test_other_text_stays(text: str) -> None:
    """Every script of the world, with the joiners that some need, is left alone."""
    assert printable(text) == printable_lines(text) == text


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    """Whatever the text, nothing hidden is left; where lines may stay, line ends and tabs are."""
    assert not hidden_in(printable(text), lines="")
    assert not hidden_in(printable_lines(text), lines="\n\t")
    assert printable(printable(text)) == printable(text)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_json_document_says_the_same(value: object) -> None:
    """It is read as the same value, and has nothing hidden but the line ends that lay it out."""
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert not hidden_in(text)


class OddError(Exception):
    def __repr__(self) -> str:
        raise RecursionError


def test_an_error_is_told_whatever_its_class_makes_of_it() -> None:
    """One printable line of bounded length, or its class where it cannot say more."""
    assert told(OddError()) == "OddError"
    assert told(ValueError("\x1b" + "x" * 10_000)).startswith(r"ValueError('\x1bxxx")
    assert len(told(ValueError("x" * 10_000))) <= 500


def test_a_value_that_is_refused_is_shown_in_bounded_length() -> None:
    """Text and small numbers are shown, of all else the type: it may be anything, and of any depth."""
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    shown = [named(value) for value in ("a\x1b", "x" * 1000, 5, None, 10**5000, deep, b"secret")]
    assert shown[:4] == [r"'a\x1b'", f"'{'x' * 60}'... (1000 characters)", "5", "None"]
    assert shown[4:] == [f"a value of type {kind}" for kind in ("int", "list", "bytes")]


def test_the_message_of_every_error_is_printable() -> None:
    """Details come from Redis and other systems; faults of settings keep their lines, one a fault."""
    for error in (StoreUnavailableError("other", EVIL), FencedError("call", 5, EVIL)):
        assert not hidden_in(str(error), lines="")
    assert str(ConfigurationError("one\x1b\ntwo")) == "one\\x1b\ntwo"
