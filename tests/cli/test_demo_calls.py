"""How the demo judges a call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.cli.demo_calls import Calls
from coordinator.cli.demo_report import as_data


def killed_after(sequence: int) -> Calls:
    """Calls with one whose data was accepted up to ``sequence`` when its worker died."""
    calls = Calls()
    calls.add("call-1", "worker-1")
    calls.event({"type": "opened", "at": "1", "session": "call-1", "instance": "worker-1~X", "epoch": "100"})
    call = calls.by_session["call-1"]
    call.died_ms, call.accepted = 1000, json.dumps({"call_sid": "call-1", "sequence": sequence}).encode()
    return calls


def adopt(calls: Calls, sequence: int, epoch: int = 101) -> None:
    """Another worker adopts the call and says what it was given."""
    calls.event({"type": "died", "at": "3000", "instance": "worker-1~X", "cause": "silence"})
    calls.event({"type": "orphaned", "at": "3001", "instance": "worker-1~X", "sessions": "call-1"})
    calls.event({"type": "adopted", "at": "3005", "session": "call-1", "instance": "worker-2~Y", "epoch": str(epoch)})
    calls.said(f"call-1 adopted at {sequence}")


@pytest.mark.parametrize(("sequence", "verdict"), [(5, "acknowledged"), (4, "different"), (6, "different")])
def test_only_what_was_accepted_last_will_do(sequence: int, verdict: Any) -> None:
    """Data is right when it is what Redis had accepted last."""
    calls = killed_after(5)
    adopt(calls, sequence)
    call = calls.by_session["call-1"]

    assert (call.verdict, call.recovered) == (verdict, verdict == "acknowledged")


def test_another_calls_data_is_different() -> None:
    """Data of another call with the same number does not pass."""
    calls = killed_after(5)
    calls.by_session["call-1"].accepted = json.dumps({"call_sid": "call-2", "sequence": 5}).encode()
    adopt(calls, 5)

    assert calls.by_session["call-1"].verdict == "different"


def test_what_nobody_said_is_unknown() -> None:
    """Adopted in Redis and nothing printed by the adopter: not recovered."""
    calls = killed_after(5)
    calls.event({"type": "adopted", "at": "3005", "session": "call-1", "instance": "worker-2~Y", "epoch": "101"})
    call = calls.by_session["call-1"]

    assert (call.verdict, call.recovered) == ("unknown", False)


def test_an_epoch_that_did_not_rise_is_no_recovery() -> None:
    """Recovered under the same epoch is not recovered."""
    calls = killed_after(5)
    adopt(calls, 5, epoch=100)

    assert not calls.by_session["call-1"].recovered


def test_the_way_of_a_call_is_told_in_ms_after_death() -> None:
    """Each step carries its time from the death of the owner."""
    calls = killed_after(5)
    adopt(calls, 5)
    told = calls.by_session["call-1"].as_data()

    assert (told["declared_ms"], told["offered_ms"], told["adopted_ms"]) == (2000, 2001, 2005)


def test_a_call_that_nobody_adopted_makes_the_demo_fail() -> None:
    """One missing recovery is not ok."""
    assert as_data(killed_after(5), {"worker-1": "worker"}, 3.0)["ok"] is False


def test_a_living_worker_that_was_fenced_makes_the_demo_fail() -> None:
    """A call taken from a living worker is not ok, even if all others were recovered."""
    calls = killed_after(5)
    adopt(calls, 5)
    calls.add("call-2", "worker-2")
    taken = calls.event({"type": "fenced", "at": "3006", "session": "call-2", "instance": "worker-2~Y"})

    assert taken is calls.by_session["call-2"]
    assert as_data(calls, {"worker-1": "worker"}, 3.0)["ok"] is False
