"""A store that changes places under calls; short forms of what `make faults` runs in full."""

from __future__ import annotations

import pytest

from tests.faults.matrix import move, rows

SHORT = (
    ("Sentinel", "a planned failover", "a worker and a coordinator start"),
    ("Cluster, 1 partition", "the slot moves to another shard", "a worker and a coordinator start"),
    ("Cluster, 6 partitions", "the primary is killed", "a worker dies"),
)


@pytest.mark.parametrize(("where", "what", "meanwhile"), SHORT)
def test_calls_stay_where_they_are(where: str, what: str, meanwhile: str) -> None:
    """No call leaves an owner that lives, and each may speak all the while; whose owner is killed, then and later, is adopted."""
    [one] = [one for place, one in rows() if place == where and one.name == what]
    seen = move(where, one, meanwhile)
    assert seen is not None
    assert seen.broken == []
    assert seen.silent < 1.0
    assert len(seen.meanwhile) == (5 if meanwhile == "a worker dies" else 0)
    assert len(seen.afterwards) == 5
