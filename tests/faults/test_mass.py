"""Many instances lost at once: confirmed, released as there is room, nothing burnt."""

from __future__ import annotations

from tests.faults.mass import lose


def test_thirty_of_fifty() -> None:
    """30 of 50 instances are killed: confirmed for one dead_after, then all their calls are recovered. (`make faults`: 60 of 100.)"""
    outcome = lose(6, each=5)
    assert outcome.opened
    assert outcome.first > 2.0, "it was confirmed before anybody was declared"
    assert outcome.broken == []


def test_all_of_twenty() -> None:
    """All are killed: nothing is given up on or burnt, and all is recovered when workers come back. (`make faults`: a hundred.)"""
    outcome = lose(10, come_back=True, each=2)
    assert outcome.opened
    assert outcome.attempts <= 2
    assert outcome.broken == []
