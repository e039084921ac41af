"""A call that kills its workers takes no neighbours with it. Short form."""

from __future__ import annotations

from tests.faults.killers import kill_from_within


def test_a_call_that_kills_its_workers_goes_alone() -> None:
    """Nineteen calls beside it, four workers: it is the only dead letter, and all others are served, with few moves."""
    killed = kill_from_within(19, 4, 1)
    assert killed.broken == []
    assert killed.letters == {"kills-0"}
    assert killed.moves <= 7
