"""The protocol of the documents, explored exhaustively over small scenarios. ``make model`` adds the long ones."""

from __future__ import annotations

import pytest

from tests.model.explore import explore
from tests.model.protocol import RULES
from tests.model.scenarios import SHORT
from tests.model.world import Scenario

NEEDED = {
    ("hold",): ("failover that loses writes", "TWO"),
    ("doubt",): ("failover that loses writes", "TWO"),
    ("contest",): ("failover, and two who held it", "G7"),
    ("too_late",): ("failover after a handover", "TWO"),
    ("behind",): ("failover while cut off", "G2"),
    ("roll_call",): ("adoption whose reply is lost", "G2"),
    ("restate",): ("wipe", "DEATH"),
    ("start_over",): ("the dead are forgotten", "DEATH"),
    ("floor",): ("failover to a clock that is behind", "G3"),
    ("trust",): ("cut off", "TWO"),
    ("sequence",): ("late copy of a checkpoint", "G7"),
    ("epoch",): ("late copy from an earlier time as the owner", "G1"),
    ("fence",): ("a freeze and a crash", "TWO"),
    ("two_steps",): ("handover and crashes", "TWO"),
    ("quiet",): ("handover whose reply is lost", "TWO"),
    ("time_out",): ("handover and crashes", "G2"),
    ("rewrite",): ("stream entry lost", "G2"),
    ("sweep",): ("index entry lost", "G2"),
    ("heir_lives", "sweep"): ("handover and crashes", "G2"),
    ("names", "sweep"): ("two calls, one unknown, one not listed", "G2"),
    ("looks_again",): ("unknown: letting go", "TWO"),
    ("seen_epoch",): ("unknown: an adoption", "TWO"),
    ("taken_again",): ("unknown: an adoption", "TWO"),
    ("ended_epoch",): ("unknown: an end, then an adoption", "G2"),
    ("renew",): ("unknown: a release", "TWO"),
    ("remembered",): ("a stranger, and a clock that is behind", "G3"),
    ("anew",): ("a stranger makes a wiped partition", "TWO"),
}
"""Rules taken away -> where that shows, and which promise it breaks. Of two, one alone makes up for the other there."""

CALLED = {scenario.name: scenario for scenario in SHORT}


@pytest.mark.parametrize("scenario", SHORT, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_all_promises_hold(scenario: Scenario) -> None:
    """In every state that a scenario's faults can lead to, every promise is kept."""
    result = explore(scenario, frozenset(RULES))
    assert result.complete
    assert result.states > 50, "a scenario in which nothing happens proves nothing"
    assert not result.broken, "\n".join(f"{promise}: {'; '.join(way)}" for promise, way in result.broken.items())


@pytest.mark.parametrize("taken", NEEDED, ids="-and-".join)
def test_each_rule_is_needed(taken: tuple[str, ...]) -> None:
    """Without a rule the promise that it is for breaks, and the exploration finds the way to it."""
    scenario, promise = NEEDED[taken]
    result = explore(CALLED[scenario], frozenset(RULES) - set(taken), stop_at=promise)
    assert promise in result.broken, f"nothing broke without {', '.join(taken)}"
    assert result.broken[promise]


def test_no_rule_is_left_out() -> None:
    """Every rule of the model is taken away by some test."""
    assert {rule for taken in NEEDED for rule in taken} == set(RULES)
