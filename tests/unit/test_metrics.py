"""What is exported before anything has happened, and by which labels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from prometheus_client import CollectorRegistry

import coordinator
from coordinator.metrics import LABEL_VALUES, OTHER, Metrics, known
from coordinator.store.scripts import SCRIPTS
from tests.inside import kinds_of_faults

LUA = "\n".join(script.source.decode() for script in SCRIPTS.values())
WRITTEN = {
    "fenced_writes": r"event_of_refusal\(events, now, '(\w+)'",
    "dead_letters": r"dead_letter\(.*now, '(\w+)'",
    "handovers": r"'outcome', '(\w+)'",
    "holds": r"\breason = '(\w+)'\n|start_hold\(.*'(\w+)', \w+\)|'hold', now, 'reason', '(\w+)'",
}


def test_every_closed_label_is_exported_as_zero_from_the_start() -> None:
    """The first death of a process raises a counter that was already there: Prometheus sees an increase."""
    registry = CollectorRegistry()
    Metrics(registry, "test")
    samples = Counter(
        s.name for m in registry.collect() for s in m.samples if s.value == 0 and s.name.endswith(("_total", "_count"))
    )
    for name, values in LABEL_VALUES.items():
        named = [f"recovery_{name}_total", f"recovery_{name}_duration_seconds_count"]
        assert [samples[n] for n in named if n in samples] == [len(values)]
    labelled = {m.name.removeprefix("recovery_") for m in registry.collect() if m.type == "counter"}
    assert labelled - set(LABEL_VALUES) == {"offers", "session_seconds", "orphaned_session_seconds"}


def test_the_lists_hold_what_scripts_and_store_say() -> None:
    """No operation, reason, outcome or kind of error that this program writes is counted as another."""
    for metric, pattern in WRITTEN.items():
        found = {
            word for groups in re.findall(pattern, LUA) for word in ([groups] if isinstance(groups, str) else groups)
        }
        found -= {""}
        assert found, f"the pattern of {metric} finds nothing"
        assert found <= set(LABEL_VALUES[metric])
    sources = "\n".join(path.read_text() for path in Path(coordinator.__file__).parent.rglob("*.py"))
    causes = set(re.findall(r"\bcause=\"(\w+)\"", sources)) | {"silence", "lost_connection", "succession", "left"}
    assert len(causes) > 8
    assert causes <= set(LABEL_VALUES["orphans"])
    kinds = kinds_of_faults() | {"connection", OTHER}
    assert kinds == set(LABEL_VALUES["store_errors"])


def test_an_unknown_value_is_counted_as_other() -> None:
    """A newer program may write causes that this one does not know; labels stay a closed list."""
    assert known("orphans", "exited") == "exited"
    assert known("orphans", "struck_by_lightning") == OTHER
    assert known("orphans", None) == known("orphans", "") == OTHER


def test_gauges_without_labels_are_absent_until_something_was_seen() -> None:
    """A coordinator that has not seen the store yet says nothing about instances and drains, not 0."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, "test")
    for gauge, name in (
        (metrics.in_doubt_sessions, "in_doubt_sessions"),
        (metrics.fullest_instance_sessions, "fullest_instance_sessions"),
        (metrics.drain_sessions_remaining, "drain_sessions_remaining"),
        (metrics.drain_deadline, "drain_deadline_timestamp_seconds"),
    ):
        assert registry.get_sample_value(f"recovery_{name}") is None
        gauge.set(0)
        assert registry.get_sample_value(f"recovery_{name}") == 0
        gauge.drop()
        assert registry.get_sample_value(f"recovery_{name}") is None
