"""How a script's answer becomes an object."""

from __future__ import annotations

import dataclasses

import pytest

from coordinator.store import calls

IN_ORDER = [b"OK", b"remaining_ms", b"250", b"dead_after_ms", b"2000"]


def test_fields_are_read_by_their_types() -> None:
    """Numbers are numbers, lists are lists, and lengths of time are in seconds."""
    assert calls.TrustOk.read(IN_ORDER) == calls.TrustOk(remaining=0.25, dead_after=2.0)
    kept = calls.ExtendLeasesOk.read([b"OK", b"kept", b"a\nb"])
    assert kept.kept == ("a", "b")


def test_the_order_of_the_fields_does_not_matter() -> None:
    """Another version of a script may answer in another order; what is missing is 0."""
    assert calls.TrustOk.read([b"OK", b"dead_after_ms", b"2000"]) == calls.TrustOk(remaining=0.0, dead_after=2.0)


def test_a_field_that_the_header_does_not_list_is_an_error() -> None:
    """It is named."""
    with pytest.raises(ValueError, match="dead_for_ms"):
        calls.TrustOk.read([*IN_ORDER, b"dead_for_ms", b"1"])
    with pytest.raises(ValueError, match="left"):
        calls.Ok.read([b"OK", b"left", b"1"])


def test_an_answer_without_fields_is_one_object() -> None:
    """It is made once for all calls."""
    assert calls.Ok.read([b"OK"]) is calls.Ok.read([b"OK"])
    assert type(calls.Held.read([b"HELD"])) is calls.Held


def test_an_answer_cannot_be_changed() -> None:
    """However it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        calls.TrustOk.read(IN_ORDER).remaining = 1.0  # type: ignore[misc]
