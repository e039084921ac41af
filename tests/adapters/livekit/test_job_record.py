"""What is kept of a job for an heir."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator import InvalidDataError
from coordinator.adapters.livekit.job_record import JobRecord, other_identity

CLAIMS = {
    "sub": "agent-AJ_1",
    "video": {"room": "r", "roomJoin": True},
    "exp": 1,
    "nbf": 2,
    "jti": "x",
    "kind": "agent",
}


def record() -> JobRecord:
    return JobRecord.of(b"\x00job", "Reception", "agent-AJ_1", "meta", CLAIMS)


def test_a_record_comes_back_as_it_was() -> None:
    """It is JSON, without the token's own dates, and comes back equal."""
    kept = record()
    assert JobRecord.from_json(json.loads(json.dumps(kept.as_json()))) == kept
    assert kept.claims == {"sub": "agent-AJ_1", "video": {"room": "r", "roomJoin": True}, "kind": "agent"}


def test_a_new_token_is_for_the_same_room_and_one_hour() -> None:
    """The heir's token has the claims of the first, its own identity and its own dates."""
    claims = record().moved().token_claims(1_000_000.5)
    assert claims["sub"] == "agent-AJ_1~1"
    assert claims["video"] == {"room": "r", "roomJoin": True}
    assert claims["exp"] - 1_000_000 == 3600
    assert claims["nbf"] < 1_000_000


@pytest.mark.parametrize(
    ("identity", "other"),
    [("agent", "agent~1"), ("agent~1", "agent~2"), ("agent~9", "agent~10"), ("a~x", "a~x~1"), ("~1", "~2")],
)
def test_an_heir_beside_its_predecessor_has_another_identity(identity: str, other: str) -> None:
    """Each planned move counts on, so that no two that are in the room at once are equal."""
    assert other_identity(identity) == other
    assert other_identity(identity) != identity


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"version": 2},
        {**record().as_json(), "job": "?"},
        {**record().as_json(), "claims": 1},
        {**record().as_json(), "identity": 7},
    ],
)
def test_what_is_no_record_is_said_in_a_sentence(broken: Any) -> None:
    """Another program's data, or a newer version's, is refused and not guessed at."""
    with pytest.raises(InvalidDataError, match="LiveKit job"):
        JobRecord.from_json(broken)
