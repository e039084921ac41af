"""How the demo judges a call."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from coordinator.cli.demo_calls import Calls
from coordinator.cli.demo_data import recovery_data
from coordinator.cli.demo_report import as_data


def killed_after(sequence: int) -> Calls:
    """Calls with one that was acknowledged up to ``sequence`` when its worker died."""
    calls = Calls()
    calls.add("call-1", "worker-1")
    calls.reported("worker-1", {"what": "opened", "session": "call-1", "epoch": 100})
    for n in range(1, sequence + 1):
        calls.reported("worker-1", {"what": "checkpointed", "session": "call-1", "epoch": 100, "sequence": n})
    calls.by_session["call-1"].died_ms = 1000
    return calls


def adopt(calls: Calls, data: bytes, epoch: int = 101) -> None:
    """Another worker adopts the call and reports ``data``."""
    calls.event({"type": "died", "at": "3000", "instance": "worker-1~X", "cause": "silence"})
    calls.event({"type": "orphaned", "at": "3001", "instance": "worker-1~X", "sessions": "call-1"})
    calls.event({"type": "adopted", "at": "3005", "session": "call-1", "instance": "worker-2~Y"})
    line = {"what": "adopted", "session": "call-1", "epoch": epoch, "data": b64encode(data).decode()}
    calls.reported("worker-2", line)


@pytest.mark.parametrize(
    ("sequence", "verdict", "recovered"),
    [(5, "acknowledged", True), (6, "in_flight", True), (4, "different", False), (7, "different", False)],
)
def test_only_the_last_checkpoint_or_the_one_on_its_way_will_do(sequence: Any, verdict: Any, recovered: Any) -> None:
    """Data is right when it is the last acknowledged or the next one, byte for byte."""
    calls = killed_after(5)
    adopt(calls, recovery_data("call-1", sequence))
    call = calls.by_session["call-1"]

    assert (call.verdict, call.recovered) == (verdict, recovered)


def test_another_calls_data_is_different() -> None:
    """Data of another call with the same number does not pass."""
    calls = killed_after(5)
    adopt(calls, recovery_data("call-2", 5))

    assert calls.by_session["call-1"].verdict == "different"


def test_an_epoch_that_did_not_rise_is_no_recovery() -> None:
    """Recovered under the same epoch is not recovered."""
    calls = killed_after(5)
    adopt(calls, recovery_data("call-1", 5), epoch=100)

    assert not calls.by_session["call-1"].recovered


def test_the_way_of_a_call_is_told_in_ms_after_death() -> None:
    """Each step carries its time from the death of the owner."""
    calls = killed_after(5)
    adopt(calls, recovery_data("call-1", 5))
    told = calls.by_session["call-1"].as_data()

    assert (told["declared_ms"], told["offered_ms"], told["adopted_ms"]) == (2000, 2001, 2005)


def test_a_call_that_nobody_adopted_makes_the_demo_fail() -> None:
    """One missing recovery is not ok."""
    assert as_data(killed_after(5), {"worker-1": "worker"}, 3.0)["ok"] is False


def test_a_living_worker_that_was_fenced_makes_the_demo_fail() -> None:
    """A call taken from a living worker is not ok, even if all others were recovered."""
    calls = killed_after(5)
    adopt(calls, recovery_data("call-1", 5))
    calls.add("call-2", "worker-2")
    calls.reported("worker-2", {"what": "fenced", "session": "call-2", "epoch": 100})

    assert as_data(calls, {"worker-1": "worker"}, 3.0)["ok"] is False
