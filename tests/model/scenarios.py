"""What may go wrong together."""

from __future__ import annotations

from tests.model.world import Scenario

SHORT = (
    Scenario("crashes", {"crash": 2, "checkpoint": 1, "close": 1}, instances=3),
    Scenario("a freeze and a crash", {"freeze": 1, "crash": 1, "checkpoint": 2}, instances=3),
    Scenario("cut off", {"cut": 1, "crash": 1, "checkpoint": 1}, instances=3),
    Scenario("failover that loses writes", {"freeze": 1, "rollback": 1, "crash": 1}),
    Scenario("failover with checkpoints", {"freeze": 1, "rollback": 1, "checkpoint": 1, "close": 1}),
    Scenario("failover while cut off", {"cut": 1, "rollback": 1, "checkpoint": 1}),
    Scenario("failover to a clock that is behind", {"crash": 1, "rollback": 1, "freeze": 1}, slow_clock=True),
    Scenario("failover after a handover", {"rollback": 1, "handover": 1, "lost_reply": 1, "cut": 1}),
    Scenario("failover, and two who held it", {"rollback": 1, "handover": 1, "lost_reply": 1, "checkpoint": 1}),
    Scenario("wipe", {"crash": 1, "freeze": 1, "wipe": 1, "checkpoint": 1}),
    Scenario("adoption whose reply is lost", {"crash": 1, "lost_reply": 1, "checkpoint": 1}),
    Scenario("late copy of a checkpoint", {"crash": 1, "late": 1, "checkpoint": 2}),
    Scenario("late copy from an earlier time as the owner", {"late": 1, "handover": 2, "checkpoint": 1}),
    Scenario("stream entry lost", {"crash": 2, "lose_entry": 1}, instances=3),
    Scenario("index entry lost", {"crash": 1, "lose_index": 2}),
    Scenario("the dead are forgotten", {"freeze": 1, "crash": 1, "forget": 1, "checkpoint": 1}, instances=3),
    Scenario("handover and crashes", {"crash": 2, "handover": 1, "checkpoint": 1}, instances=3),
    Scenario("handover and a freeze", {"freeze": 1, "handover": 1, "checkpoint": 1}, instances=3),
    Scenario("handover whose reply is lost", {"handover": 1, "lost_reply": 1, "crash": 1}, instances=3),
    Scenario("failover in a handover", {"rollback": 1, "handover": 1, "crash": 1}),
)
"""Explored by ``make test``."""

LONG = (
    Scenario("two sessions, failover", {"crash": 1, "freeze": 1, "rollback": 1}, sessions=2),
    Scenario("failover twice", {"crash": 1, "freeze": 1, "rollback": 2}),
    Scenario("failover with more checkpoints", {"freeze": 1, "rollback": 1, "checkpoint": 2, "close": 1}),
    Scenario("failover and a lost reply", {"crash": 1, "rollback": 1, "lost_reply": 1, "checkpoint": 1}),
    Scenario("failover and a late copy", {"crash": 1, "rollback": 1, "late": 1, "checkpoint": 1}),
    Scenario("wipe in a handover", {"wipe": 1, "handover": 1, "crash": 1, "checkpoint": 1}, instances=3),
    Scenario("failover among three", {"freeze": 1, "crash": 1, "rollback": 1}, instances=3),
    Scenario("failover among three, cut off", {"cut": 1, "crash": 1, "rollback": 1}, instances=3),
)
"""Added by ``make model``."""
