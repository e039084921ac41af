"""Whose times a heartbeat tells."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from coordinator import clock
from coordinator.settings import Settings
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.worker.heart import Beating, Heart
from coordinator.worker.roll_call import RollCall
from coordinator.worker.trust_window import TrustWindow
from tests import inside


@pytest.mark.parametrize(("sidecar", "expected"), [(False, (2000, 5000)), (True, (30_000, 30_000))])
def test_a_beat_of_a_sidecar_gives_its_workers_the_time_of_a_restart(sidecar: bool, expected: tuple[int, int]) -> None:
    """Until its silence counts, and until its own event loop, which is not theirs, makes them wedged."""
    settings = Settings.for_worker("redis://nowhere")
    own = settings.for_sidecar() if sidecar else settings
    connector = Connector(settings.current_url, store_timeout=settings.store_timeout)
    heart = Heart(connector, Keys("recovery", 0), own, turns=lambda: 0, heard=lambda beats: None)
    call: Any = inside.beat_call(heart, RollCall("a~1", TrustWindow(1.0, 1.0)))
    said = dict(zip(call.script.header.args, call.args, strict=True))
    assert (said["dead_after_ms"], said["wedged_after_ms"]) == expected


def test_a_beat_after_a_pause_tells_of_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first beat after the whole process stood still says that the loop is well; after a block of the loop it says how long."""
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    settings = Settings.for_worker("redis://nowhere")
    connector = Connector(settings.current_url, store_timeout=settings.store_timeout)
    heart = Heart(connector, Keys("recovery", 0), settings, turns=lambda: 1, heard=lambda beats: None)

    def lag_ms() -> Any:
        inside.tick(heart)
        call: Any = inside.beat_call(heart, RollCall("a~1", TrustWindow(1.0, 1.0)))
        return dict(zip(call.script.header.args, call.args, strict=True))["loop_lag_ms"]

    assert lag_ms() == 0
    now += 60.0
    assert lag_ms() == 0
    for _ in range(100):
        now += 0.05
        inside.tick(heart)
    assert lag_ms() >= 4900


def test_the_first_beat_after_a_pause_claims_no_presence() -> None:
    """Nobody knows yet what became of the other connection meanwhile; an answered beat that was sent after it ends that."""
    settings = Settings.for_worker("redis://nowhere")
    connector = Connector(settings.current_url, store_timeout=settings.store_timeout)
    heart = Heart(connector, Keys("recovery", 0), settings, turns=lambda: 1, heard=lambda beats: None)
    said: list[Any] = []
    inside.set_heart_answers(heart, lambda calls: said.extend(calls) or [])  # type: ignore[func-returns-value]
    trust_window = TrustWindow(1.0, 1.0)
    trust_window.renew(10.0)
    for stalled in (9.0, 11.0):
        trust_window.stalled = stalled
        with contextlib.suppress(ValueError):  # nobody answers
            heart.beat([Beating(lambda: RollCall("a~1", trust_window, presence=True), lambda beat: None)])
    assert [dict(zip(one.script.header.args, one.args, strict=True))["presence"] for one in said] == [1, 0]
