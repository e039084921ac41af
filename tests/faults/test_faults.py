"""No false death, no lost call, no two owners under any fault; and a real death as it ends is found. Short forms."""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.runs import missing, run


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_everybody_lives_through_it(fault: Fault) -> None:
    """Every living worker keeps its calls, the one killed as the fault ends loses none, and the history keeps all promises."""
    if why := missing(fault):
        pytest.skip(why)
    outcome = run(fault, fault.seconds)
    assert outcome.broken == []
    assert len(outcome.takeovers) == 5
    assert set(outcome.causes.values()) <= {"silence", "lost_connection"}
