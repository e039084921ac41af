"""The one rule for texts of others in which a secret may be quoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.masking import masked, without_arguments

CANARY = "c4n4ry"


@given(
    st.text(max_size=20),
    st.text(alphabet=st.characters(blacklist_characters="\n"), max_size=5),
    st.text(alphabet=st.characters(blacklist_characters="\n"), max_size=5),
)
def test_credentials_of_a_url_are_masked(before: str, left: str, right: str) -> None:
    """Whatever characters a password has, and whatever stands around it: it goes, and the host stays."""
    said = masked(f"{before}redis://{left}{CANARY}{right}@the-host:1/0 refused")
    assert CANARY not in said
    assert said.endswith("@the-host:1/0 refused")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing in it", "nothing in it"),
        ("see https://example/docs", "see https://example/docs"),
        ("redis://h:1/0 refused", "redis://h:1/0 refused"),
        ("redis://user:forgot-the-host: no", "redis://*** no"),
        ("redis://[::1]:1/0 or https://host:port", "redis://[::1]:1/0 or https://host:port"),
        ("'redis://h:1/0?password=p' refused", "'redis://h:1/0?***' refused"),
        ("redis://:forgot-the-host and more", "redis://*** and more"),
        ("a@b, then redis://u:p@h", "a@b, then redis://***@h"),
        ("redis://u:p@h\nredis://u:q@i", "redis://***@h\nredis://***@i"),
        ("unknown command 'AUTH', with args beginning with: 'p' ", "unknown command 'AUTH', with args beginning with: ***"),
    ],
)  # fmt: skip
def test_the_rest_stays(text: str, expected: str) -> None:
    """What tells no secret is told."""
    assert masked(text) == expected


def test_a_command_line_is_not_repeated() -> None:
    """Plain words are, so that a mistyped command is seen."""
    given = ["stauts", "redis:/:pw@h", "--redis-urll=redis://:pw@h"]
    assert without_arguments("No such command 'stauts'", given) == "No such command 'stauts'"
    assert without_arguments("unexpected (redis:/:pw@h stauts)", given) == "unexpected (*** stauts)"
    assert without_arguments("no --redis-urll=redis://:pw@h", given) == "no --redis-urll=***"
