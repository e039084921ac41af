"""What may go wrong together."""

from __future__ import annotations

from tests.model.world import Scenario

EVERYTHING = ("open", "adopt", "checkpoint", "close", "release", "let_go", "reassert", "renew", "leave", "give_up")
"""Operations whose outcome may be unknown: applied at once, late, or never, and without an answer."""

SHORT = (
    Scenario("crashes", {"crash": 2, "checkpoint": 1, "close": 1}, instances=3),
    Scenario("a freeze and a crash", {"freeze": 1, "crash": 1, "checkpoint": 2}, instances=3),
    Scenario("cut off", {"cut": 1, "crash": 1, "checkpoint": 1}, instances=3),
    Scenario("failover that loses writes", {"freeze": 1, "rollback": 1, "crash": 1}),
    Scenario("failover with checkpoints", {"freeze": 1, "rollback": 1, "checkpoint": 1, "close": 1}),
    Scenario("failover while cut off", {"cut": 1, "rollback": 1, "checkpoint": 1}),
    Scenario("failover to a clock that is behind", {"crash": 1, "rollback": 1, "freeze": 1}, slow_clock=True),
    Scenario("failover after a handover", {"rollback": 1, "handover": 1, "cut": 1}),
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
    Scenario("unknown: an opening", {"unknown": 2, "crash": 1, "close": 1}, unknown=("open", "give_up")),
    Scenario(
        "unknown: an adoption", {"unknown": 2, "crash": 1, "checkpoint": 1}, unknown=("adopt", "give_up"), instances=3
    ),
    Scenario(
        "unknown: a checkpoint", {"unknown": 1, "crash": 1, "freeze": 1, "checkpoint": 2}, unknown=("checkpoint",)
    ),
    Scenario("unknown: the end of a call", {"unknown": 1, "close": 1, "again": 1, "crash": 1}, unknown=("close",)),
    Scenario("unknown: a release", {"unknown": 1, "release": 1, "crash": 1, "checkpoint": 1}, unknown=("release",)),
    Scenario("unknown: letting go", {"unknown": 1, "handover": 1, "crash": 1}, unknown=("let_go",), instances=3),
    Scenario("unknown: leaving", {"unknown": 1, "leave": 1, "checkpoint": 1}, unknown=("leave",)),
    Scenario("unknown: stating again", {"unknown": 1, "rollback": 1, "cut": 1}, unknown=("reassert", "renew")),
    Scenario(
        "unknown: two calls, an opening and an end", {"unknown": 2, "close": 1}, unknown=("open", "close"), sessions=2
    ),
    Scenario(
        "unknown: an end, then an adoption",
        {"unknown": 1, "close": 1, "again": 1, "crash": 1, "handover": 1},
        unknown=("adopt",),
    ),
    Scenario("two calls, one unknown, one not listed", {"unknown": 1, "lose_index": 1}, unknown=("open",), sessions=2),
    Scenario("a stranger makes a wiped partition", {"stranger": 1, "freeze": 1, "checkpoint": 1}),
    Scenario("a stranger, and a clock that is behind", {"stranger": 1, "close": 1, "again": 1}, slow_clock=True),
    Scenario("unknown: everything, twice", {"unknown": 2, "crash": 1, "close": 1, "again": 1}, unknown=EVERYTHING),
    Scenario("unknown: everything, and a handover", {"unknown": 2, "handover": 1, "release": 1}, unknown=EVERYTHING),
    Scenario(
        "unknown: everything, among three", {"unknown": 1, "crash": 1, "close": 1}, unknown=EVERYTHING, instances=3
    ),
    Scenario("unknown: everything, and a failover", {"unknown": 1, "crash": 1, "rollback": 1}, unknown=EVERYTHING),
    Scenario("unknown: everything, and a stranger", {"unknown": 1, "freeze": 1, "stranger": 1}, unknown=EVERYTHING),
    Scenario("unknown: leaving, and everything else", {"unknown": 2, "leave": 1, "checkpoint": 1}, unknown=EVERYTHING),
)
"""Explored by ``make test``."""

LONG = (
    Scenario("two sessions, failover", {"crash": 1, "freeze": 1, "rollback": 1}, sessions=2),
    Scenario("failover twice", {"crash": 1, "freeze": 1, "rollback": 2}),
    Scenario("failover with more checkpoints", {"freeze": 1, "rollback": 1, "checkpoint": 2, "close": 1}),
    Scenario("failover and a lost reply", {"crash": 1, "rollback": 1, "lost_reply": 1, "checkpoint": 1}),
    Scenario("failover after a handover and a lost reply", {"rollback": 1, "handover": 1, "lost_reply": 1, "cut": 1}),
    Scenario("failover and a late copy", {"crash": 1, "rollback": 1, "late": 1, "checkpoint": 1}),
    Scenario("wipe in a handover", {"wipe": 1, "handover": 1, "crash": 1, "checkpoint": 1}, instances=3),
    Scenario("failover among three", {"freeze": 1, "crash": 1, "rollback": 1}, instances=3),
    Scenario("failover among three, cut off", {"cut": 1, "crash": 1, "rollback": 1}, instances=3),
    Scenario("a stranger among three", {"stranger": 1, "freeze": 1, "crash": 1, "checkpoint": 1}, instances=3),
    Scenario("a stranger twice", {"stranger": 2, "freeze": 1, "crash": 1}),
    Scenario("unknown: three of everything", {"unknown": 3, "crash": 1, "close": 1, "again": 1}, unknown=EVERYTHING),
    Scenario(
        "unknown: a failover after a close", {"unknown": 2, "crash": 1, "rollback": 1, "close": 1}, unknown=EVERYTHING
    ),
    Scenario(
        "unknown: handover among three", {"unknown": 1, "handover": 1, "crash": 1}, unknown=EVERYTHING, instances=3
    ),
    Scenario("unknown: two calls", {"unknown": 2, "crash": 1, "close": 1}, unknown=EVERYTHING, sessions=2),
)
"""Added by ``make model``."""
