"""Recovery data: what goes in comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import DataTooLargeError, InvalidDataError
from coordinator.worker.data import decode, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def _sendable(value: object) -> bool:
    try:
        repr(value).encode()
        encode({"v": value}, 10**6)
    except (UnicodeEncodeError, InvalidDataError):
        return False
    return True


@given(st.binary(max_size=1000))
def test_bytes_come_back_byte_for_byte(data: bytes) -> None:
    """Bytes that look like JSON come back as bytes."""
    assert decode(*encode(data, 1000)) == data


@given(st.dictionaries(st.text(), JSON, max_size=4).filter(_sendable))
def test_mappings_come_back_as_they_were(data: dict[str, Any]) -> None:
    """A JSON-able mapping comes back equal."""
    assert decode(*encode(data, 10**6)) == data


@pytest.mark.parametrize("data", [{"a": object()}, {"a": float("nan")}, [1], "text", None, 5, {"a": "\ud800"}])
def test_what_is_not_json_able_is_refused(data: Any) -> None:
    """Neither bytes nor a JSON-able mapping: refused with the reason."""
    with pytest.raises(InvalidDataError):
        encode(data, 1000)


def test_the_cap_is_named() -> None:
    """Data above the cap is refused with its size and the cap; at the cap it fits."""
    assert encode(b"x" * 10, 10)[0] == b"x" * 10
    with pytest.raises(DataTooLargeError, match="11 bytes is above the limit of 10 bytes"):
        encode(b"x" * 11, 10)
