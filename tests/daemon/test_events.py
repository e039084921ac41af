"""What happened becomes counters, histograms and lines."""

from __future__ import annotations

from typing import Any

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry

from coordinator.daemon.events import MOST_DEATHS, EventReader
from coordinator.metrics import Metrics
from coordinator.policy import LACKS_KEY, OTHER_TENANT
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.inside import forget_deaths

DIED = {"type": "died", "instance": "a~1", "cause": "left", "detection_ms": "40"}
CASES: list[tuple[dict[str, str], str, dict[str, str], float]] = [
    ({"type": "died", "instance": "a~1", "cause": "silence"}, "instance_deaths_total", {"cause": "silence"}, 1),
    (DIED, "detection_duration_seconds_sum", {"cause": "left"}, 0.04),
    ({"type": "orphaned", "cause": "exited", "count": "7"}, "orphans_total", {"cause": "exited"}, 7),
    ({"type": "orphaned", "cause": "exited", "count": "7"}, "offers_total", {}, 7),
    ({"type": "orphaned", "cause": "exited", "handovers": "2"}, "handovers_total", {"outcome": "owner_died"}, 2),
    ({"type": "offered"}, "offers_total", {}, 1),
    ({"type": "declined"}, "offers_total", {}, 1),
    ({"type": "declined", "reason": LACKS_KEY}, "cannot_serve_total", {"lacks": "key"}, 1),
    ({"type": "released", "reason": LACKS_KEY}, "cannot_serve_total", {"lacks": "key"}, 1),
    ({"type": "declined", "reason": OTHER_TENANT}, "cannot_serve_total", {"lacks": "tenant"}, 1),
    ({"type": "adopted", "cause": "exited"}, "adoptions_total", {"cause": "exited"}, 1),
    ({"type": "adopted", "cause": "exited", "takeover_ms": "90"}, "takeover_duration_seconds_sum", {"cause": "exited"}, 0.09),
    ({"type": "adopted", "cause": "exited", "orphaned_ms": "2500"}, "orphaned_session_seconds_total", {}, 2.5),
    ({"type": "handed_over", "handover_ms": "8"}, "handovers_total", {"outcome": "completed"}, 1),
    ({"type": "handed_over", "handover_ms": "8"}, "handover_duration_seconds_sum", {}, 0.008),
    ({"type": "returned", "outcome": "timed_out"}, "handovers_total", {"outcome": "timed_out"}, 1),
    ({"type": "resumed", "cause": "exited", "resume_ms": "300"}, "resume_duration_seconds_sum", {"cause": "exited"}, 0.3),
    ({"type": "dead_lettered", "reason": "expired"}, "dead_letters_total", {"reason": "expired"}, 1),
    ({"type": "closed", "session_ms": "60000"}, "session_seconds_total", {}, 60),
    ({"type": "fenced", "operation": "checkpoint"}, "fenced_writes_total", {"operation": "checkpoint"}, 1),
    ({"type": "hold", "reason": "gap"}, "holds_total", {"reason": "gap"}, 1),
]  # fmt: skip


@pytest.fixture
def reader() -> EventReader:
    """A reader that reads nothing by itself."""
    part: Any = type("Part", (), {"keys": Keys("recovery", 0), "executor": None})()
    return EventReader(part, load(), Metrics(CollectorRegistry(), "test"))


@pytest.mark.parametrize(
    ("event", "metric", "labels", "expected"),
    CASES,
    ids=[f"{e['type']}-{m}-{n}" for n, (e, m, _, _) in enumerate(CASES)],
)
def test_each_event_is_counted(
    reader: EventReader, event: dict[str, str], metric: str, labels: dict[str, str], expected: float
) -> None:
    """An event moves its metric by what it says."""
    reader.take(event)
    assert reader.metrics.registry.get_sample_value(f"recovery_{metric}", labels) == pytest.approx(expected)


def test_an_unknown_event_is_no_error(reader: EventReader) -> None:
    """A newer program beside this one may write events that this one does not know."""
    reader.take({"type": "from_the_future", "session": "s"})
    reader.take({})
    assert reader.deaths == {}


def test_remembered_deaths_are_bounded(reader: EventReader) -> None:
    """Only the newest deaths are kept, and none longer than its fenced id."""
    with structlog.testing.capture_logs():  # to write so many lines takes most of its time
        for n in range(MOST_DEATHS + 5):
            reader.take({"type": "died", "instance": f"a~{n}", "cause": "exited"})
    forget_deaths(reader)
    assert len(reader.deaths) == MOST_DEATHS
    assert "a~0" not in reader.deaths
    reader.settings = load(fenced_ttl=0)
    forget_deaths(reader)
    assert reader.deaths == {}
