"""Calls that come back by themselves when their worker dies."""

from __future__ import annotations

import pytest

from tests.callers.kills import kill_workers


@pytest.mark.parametrize("certified", [True, False], ids=["certified", "found-out"])
async def test_calls_that_connect_again_are_resumed(certified: bool) -> None:
    """Every call goes on from its checkpoint, on whichever worker is behind the door."""
    seen = await kill_workers(6, calls=10, certified=certified, settings={"max_recoveries": 1000, "breaker_min": 1000})
    assert seen.lost >= 6
    assert seen.resumed == seen.lost
    assert seen.behind == []
