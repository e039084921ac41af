"""Ids: their alphabets, their order, their partition."""

from __future__ import annotations

import time
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.errors import InvalidIdError
from coordinator.ids import (
    check_name,
    check_pool,
    check_session_id,
    name_of,
    new_instance_id,
    new_request_id,
    partition_of,
    ulid,
)  # fmt: skip

GOOD = [chr(c) for c in range(33, 127) if chr(c) not in "{}"]


@given(st.text(alphabet=GOOD, min_size=1, max_size=256))
def test_session_ids_of_printable_ascii_fit(session_id: str) -> None:
    """Every text of the alphabet is a session id."""
    assert check_session_id(session_id) == session_id


@example("\U000101fe" * 77)
@example("\x00" * 60)
@given(st.text(min_size=1, max_size=300).filter(lambda s: len(s) > 256 or set(s) - set(GOOD)))
def test_other_session_ids_do_not(session_id: str) -> None:
    """Every other text is refused, in a message of bounded length."""
    with pytest.raises(InvalidIdError) as refused:
        check_session_id(session_id)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("session_id", ["3c26700a@10.0.0.1", "+4930123456", "a/b/c", "x" * 256])
def test_ids_of_telephony_fit(session_id: str) -> None:
    """SIP Call-IDs, E.164 numbers and slashes are session ids."""
    assert check_session_id(session_id) == session_id


@pytest.mark.parametrize("value", ["", "a~b", "a b", "x" * 64, "ä", None, 5])
def test_names_and_pools_outside_their_alphabet(value: object) -> None:
    """Names and pools are 1 to 63 characters of a small alphabet."""
    for check in (check_name, check_pool):
        with pytest.raises(InvalidIdError, match="1 to 63 characters"):
            check(value)  # type: ignore[arg-type]


def test_instance_ids_differ_and_keep_the_name() -> None:
    """Two runs under one name have two ids, from both of which the name can be read."""
    one, two = new_instance_id("voice-1"), new_instance_id("voice-1")
    assert one != two
    assert name_of(one) == name_of(two) == "voice-1"


def test_ulids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later one is greater as text; each has 26 characters."""
    now = 1_700_000_000_000_000_000
    made = []
    for _ in range(50):
        monkeypatch.setattr("time.time_ns", lambda at=now: at)
        made.append(ulid())
        now += 1_000_000
    assert made == sorted(made)
    assert {len(u) for u in made} == {26}


@given(st.text(alphabet=GOOD, min_size=1, max_size=40), st.integers(1, 256))
def test_a_session_lies_in_one_partition_for_ever(session_id: str, partitions: int) -> None:
    """The partition is crc32 of the id modulo their number."""
    assert partition_of(session_id, partitions) == zlib.crc32(session_id.encode()) % partitions


def test_request_ids_rise_although_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's clock steps back between two requests: the later one has the greater id."""
    before = new_request_id()
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    after = [new_request_id() for _ in range(3)]
    assert sorted([before, *after]) == [before, *after]
    assert len({before, *after}) == 4
