"""The checker of histories, on histories made by hand: one for each way to break a promise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.history import check, longest_without, lost_writes, takeovers

A, B = "a~1", "b~1"


def grant(at: float, epoch: int, how: str = "adopted", **fields: Any) -> dict[str, Any]:
    """A session became somebody's."""
    line = {"kind": "grant", "session": "s", "epoch": epoch, "data": "x", "how": how, "cause": "silence", "previous": A}
    return {**line, "sent": at - 0.1, "at": at, **fields}


def write(at: float, epoch: int, data: str = "x", answer: str = "ok") -> dict[str, Any]:
    """A checkpoint."""
    return {
        "kind": "checkpoint",
        "session": "s",
        "epoch": epoch,
        "data": data,
        "sent": at - 0.01,
        "at": at,
        "answer": answer,
    }


def media(at: float, epoch: int) -> dict[str, Any]:
    """A tick of whoever holds that epoch."""
    return {"kind": "media", "held": {"s": epoch}, "served": {"s": epoch}, "speaks": {"s": epoch}, "at": at}


def final(at: float = 10.0, state: str = "active", epoch: int = 2, reason: str = "") -> dict[str, Any]:
    """The store at the end."""
    return {"kind": "final", "session": "s", "state": state, "owner": B, "epoch": epoch, "reason": reason, "at": at}


OPENED = grant(1.0, 1, "opened", previous="", cause="", instance=A)
KILLED: dict[str, Any] = {"kind": "killed", "instances": [A], "at": 3.0}
GOOD = [OPENED, write(2.0, 1), KILLED, grant(5.0, 2, instance=B), media(9.9, 2), final()]


def test_a_good_history_breaks_nothing() -> None:
    """Opened, written, killed, adopted with the last data, served to the end."""
    assert check(GOOD) == []


@pytest.mark.parametrize(
    ("promise", "history"),
    [
        ("G1", [*GOOD, write(6.0, 1)]),
        ("G1", [*GOOD, media(6.0, 1)]),
        ("G1", [*GOOD[:-2], grant(6.0, 3, instance=B), media(9.9, 3), final(epoch=3)]),
        ("G2", GOOD[:-1]),
        ("G2", [*GOOD[:-1], final(state="")]),
        ("G2", [*GOOD[:-1], final(state="offered")]),
        ("G2", [*GOOD[:-1], final(state="dead_lettered")]),
        ("G2", [*GOOD[:-2], final()]),
        ("G2", [*GOOD[:-2], {**media(9.9, 2), "served": {}}, final()]),
        ("G3", [*GOOD, grant(6.0, 2)]),
        ("G4", [OPENED, write(2.0, 1), grant(5.0, 2), media(9.9, 2), final()]),
        ("G4", [OPENED, write(2.0, 1), {**KILLED, "at": 6.0}, grant(5.0, 2), media(9.9, 2), final()]),
        ("G4", [*GOOD, {"kind": "beat", "instance": A, "sent": 6.0, "at": 6.1, "answer": "OK"}]),
        ("G7", [OPENED, write(2.0, 1, "newer"), KILLED, grant(5.0, 2), media(9.9, 2), final()]),
        (
            "G7",
            [OPENED, write(2.0, 1, "y"), write(2.5, 1, "z"), KILLED, grant(5.0, 2, data="y"), media(9.9, 2), final()],
        ),
    ],
)
def test_each_broken_promise_is_found(promise: str, history: list[dict[str, Any]]) -> None:
    """One line that breaks a promise is enough."""
    broken = check(sorted(history, key=lambda line: line["at"]))
    assert broken
    assert all(line.startswith(promise) for line in broken), broken


@pytest.mark.parametrize(
    "extra",
    [
        [write(6.0, 1, answer="fenced")],
        [{"kind": "beat", "instance": A, "sent": 6.0, "at": 6.1, "answer": "FENCED"}],
        [{"kind": "sending", "session": "s", "epoch": 1, "data": "never answered", "at": 2.5}],
    ],
)
def test_what_is_refused_or_unknown_breaks_nothing(extra: list[dict[str, Any]]) -> None:
    """Refusals are how the promises are kept; a write without an answer may or may not count."""
    assert check(sorted([*GOOD, *extra], key=lambda line: line["at"])) == []


@pytest.mark.parametrize("data", ["x", "in flight"])
def test_a_write_under_way_may_count_or_not(data: str) -> None:
    """The adopter may get the last acknowledged data, or what was under way when the owner died."""
    sending = {"kind": "sending", "session": "s", "epoch": 1, "data": "in flight", "at": 2.9}
    assert check([OPENED, write(2.0, 1), sending, KILLED, grant(5.0, 2, data=data), media(9.9, 2), final()]) == []


LOSSY = [
    OPENED,
    write(2.0, 1, "y"),
    write(2.5, 1, "z"),
    KILLED,
    grant(5.0, 2, data="y", instance=B),
    media(9.9, 2),
    final(),
]


@pytest.mark.parametrize(("unreplicated", "kept"), [(0.0, False), (0.4, False), (0.6, True)])
def test_what_no_replica_had_may_go_with_its_owner(unreplicated: float, kept: bool) -> None:
    """So much of it, and no more; how much it was is told."""
    assert (check(LOSSY, unreplicated=unreplicated) == []) == kept
    assert lost_writes(LOSSY) == [0.5]
    living = [line for line in LOSSY if line["kind"] != "killed"]
    assert any(line.startswith("G7") for line in check(living, unreplicated=9.0)), "its owner states it again"


def test_an_heir_writes_again_what_was_lost() -> None:
    """Its own last write may have been under way, whoever wrote the same before it."""
    own = {"kind": "sending", "session": "s", "epoch": 2, "data": "z", "at": 6.0}
    killed = {"kind": "killed", "instances": [B], "at": 7.0}
    again = grant(8.0, 3, data="z", previous=B, instance="c~1")
    history = [*LOSSY[:-2], own, killed, again, media(9.9, 3), final(epoch=3)]
    assert check(history, unreplicated=0.6) == []
    assert lost_writes(history) == [0.5]


def test_times_are_told() -> None:
    """From a kill to the adoption of each call, and for how long an owner that stayed the same went without a right."""
    assert takeovers(LOSSY, [A], ["s"]) == [5.0 - KILLED["at"]]
    assert takeovers(LOSSY, [B], ["s"]) == []
    held, doubtful = media(2.0, 1), {**media(3.0, 1), "held": {}}
    ticks = [held, doubtful, {**doubtful, "at": 4.5}, {**held, "at": 5.0}, {**doubtful, "at": 6.0}]
    assert longest_without([OPENED, *ticks], "held", 9.0) == 1.5
    assert longest_without([OPENED, *ticks], "speaks", 9.0) == 0.0
