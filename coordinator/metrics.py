"""Every metric, on a registry that is passed in. Gauges of several coordinators are meant for ``max by``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

__all__ = ["LABEL_VALUES", "OTHER", "Metrics", "known"]

OTHER = "other"
"""The label of a value that this program does not know; a newer program beside it may write one."""
_DEATHS = (
    "exited", "left", "lost_connection", "operator", "restated", "silence", "succession", "wedged", OTHER,
)  # fmt: skip
_ORPHANS = (*_DEATHS, "released")
LABEL_VALUES: dict[str, Sequence[str]] = {
    "instance_deaths": _DEATHS,
    "detection": _DEATHS,
    "orphans": _ORPHANS,
    "adoptions": _ORPHANS,
    "takeover": _ORPHANS,
    "resume": (*_ORPHANS, "handover"),
    "handovers": ("completed", "owner_died", "timed_out", "withdrawn", OTHER),
    "dead_letters": ("broken", "expired", "max_offers", "max_recoveries", OTHER),
    "fenced_writes": ("adopt", "checkpoint", "close", "hand_over", "let_go", "release", "resumed", OTHER),
    "holds": ("another_primary", "breaker", "clock", "gap", "lost_writes", "slow_judge", "start", "two_clocks", OTHER),
    "quarantined": ("detector", "entry", "instance", "letter", "member", "meta", "session", OTHER),
    "cannot_serve": ("key", "tenant", OTHER),
    "loop_errors": ("burial", "events", "gauges", "leases", "look", "sweep", "tidy", OTHER),
    "store_errors": (
        "auth", "busy", "cluster_down", "connection", "disk", "loading", "max_clients", "no_replicas", "out_of_memory",
        "permission", "read_only", "timeout", "try_again", "unsupported", OTHER,
    ),
}  # fmt: skip
"""Closed lists, by attribute of `Metrics`. Each value is exported from the start, as 0: a counter that is born at 1 has
not increased, says Prometheus."""


def known(metric: str, value: str | None) -> str:
    """The value as a label of that metric."""
    return value if value and value in LABEL_VALUES[metric] else OTHER


class _Droppable(Gauge):
    """A gauge without labels that exports nothing until it is set, and after `drop`."""

    def drop(self) -> None:
        """Exports nothing until it is set again."""
        self.set(math.nan)

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric


_FAST = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10)
_LONG = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 2.5, 3, 4, 5, 7.5, 10, 15, 30, 60)
_SHORT = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


Kind = TypeVar("Kind", bound=MetricWrapperBase)


class _Declared(Generic[Kind]):
    """A metric as it stands in the body of `Metrics`, whose instances each make one of their own under the same name."""

    def __init__(self, make: Callable[..., Kind]) -> None:
        self.make = make

    def __get__(self, metrics: Metrics | None, owner: type[Metrics]) -> Kind:
        raise AttributeError("a metric belongs to an instance of Metrics")


def _gauge(name: str, text: str, *labels: str) -> _Declared[Gauge]:
    return _Declared(partial(Gauge, f"recovery_{name}", text, labels))


def _seen(name: str, text: str) -> _Declared[_Droppable]:
    return _Declared(partial(_Droppable, f"recovery_{name}", text))


def _counter(name: str, text: str, *labels: str) -> _Declared[Counter]:
    return _Declared(partial(Counter, f"recovery_{name}", text, labels))


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> _Declared[Histogram]:
    return _Declared(partial(Histogram, f"recovery_{name}", text, labels, buckets=buckets))


class Metrics:
    """The metrics of one process; names, labels and units as documented in ``docs/metrics.md``, and in this order.

    Args:
        registry: where they are exported.
        version: of the program, for ``build_info``.
    """

    sessions = _gauge("sessions", "Sessions by state.", "partition", "state")
    orphaned_sessions = _gauge("orphaned_sessions", "Sessions without an owner, graves included.", "partition")
    oldest_orphan = _gauge(
        "oldest_orphan_timestamp_seconds",
        "When the oldest orphan lost its owner; absent without an orphan.",
        "partition",
    )
    instances = _gauge("instances", "Instances by state.", "state")
    free_slots = _gauge("free_slots", "Sessions that the living instances of a pool could still take.", "pool")
    fullest_instance_sessions = _seen(
        "fullest_instance_sessions", "Sessions of the fullest instance, which would be orphaned together."
    )
    in_doubt_sessions = _seen(
        "in_doubt_sessions", "Sessions of instances whose last beat is older than their trust window."
    )
    hold_active = _gauge("hold_active", "1 while a hold is on.", "partition", "reason")
    breaker_open = _gauge("breaker_open", "1 while the mass breaker confirms.", "partition")
    paused = _gauge("paused", "1 while an operator has paused recovery.")
    last_scan = _gauge("last_scan_timestamp_seconds", "When this process last scanned.", "partition")
    store_up = _gauge("store_up", "1 while every partition answers.")
    drain_sessions_remaining = _seen("drain_sessions_remaining", "Sessions that draining instances still own.")
    drain_deadline = _seen("drain_deadline_timestamp_seconds", "When the drain under way ends; 0 for none.")
    build_info = _gauge("build_info", "Always 1.", "version")

    instance_deaths = _counter("instance_deaths", "Instances declared dead.", "cause")
    orphans = _counter("orphans", "Sessions that lost their owner.", "cause")
    offers = _counter("offers", "Offers written.")
    adoptions = _counter("adoptions", "Orphans adopted.", "cause")
    handovers = _counter("handovers", "Planned handovers.", "outcome")
    dead_letters = _counter("dead_letters", "Sessions given up on.", "reason")
    fenced_writes = _counter("fenced_writes", "Writes refused because of their epoch or a dead owner.", "operation")
    holds = _counter("holds", "Holds begun.", "reason")
    store_errors = _counter("store_errors", "Exchanges with the store that failed.", "kind")
    quarantined = _counter("quarantined", "Records, members and entries that did not parse and were set aside.", "kind")
    cannot_serve = _counter(
        "cannot_serve", "Sessions given back uncounted by a worker that lacks what they need.", "lacks"
    )
    loop_errors = _counter("loop_errors", "Errors that a loop did not expect; it goes on.", "loop")
    pod_watch_up = _gauge(
        "pod_watch_up",
        "1 while pods are watched, 0 while the API server cannot be asked; with POD_EVENTS only.",
    )
    pod_watch_errors = _counter(
        "pod_watch_errors", "Requests to the API server that failed; with POD_EVENTS only.", "kind"
    )
    pod_deletion_costs = _counter(
        "pod_deletion_costs", "Annotations of pods with their live calls; with POD_EVENTS only.", "outcome"
    )
    session_seconds = _counter("session_seconds", "Length of the sessions that were closed.")
    orphaned_session_seconds = _counter(
        "orphaned_session_seconds", "Time that sessions had no owner, until they were adopted or given up on."
    )

    detection = _histogram("detection_duration_seconds", "Evidence to declared.", _FAST, "cause")
    takeover = _histogram("takeover_duration_seconds", "Evidence to adopted.", _LONG, "cause")
    resume = _histogram("resume_duration_seconds", "Evidence to media up.", _LONG, "cause")
    handover = _histogram("handover_duration_seconds", "Heir ready to owner let go.", _FAST)
    data_age = _histogram("data_age_seconds", "Age of the recovery data at adoption.", _LONG)
    scan = _histogram("scan_duration_seconds", "One look at a partition.", _SHORT)
    store_request = _histogram("store_request_duration_seconds", "One exchange with the store.", _SHORT, "operation")

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        self.registry = registry
        for name, declared in vars(Metrics).items():
            if isinstance(declared, _Declared):
                made = declared.make(registry=registry)
                setattr(self, name, made)
                if isinstance(made, _Droppable):
                    made.drop()
        self.build_info.labels(version).set(1)
        for name, values in LABEL_VALUES.items():
            for value in values:
                getattr(self, name).labels(value)
        self._of_pods = (self.pod_watch_up, self.pod_watch_errors, self.pod_deletion_costs)
        for metric in self._of_pods:
            registry.unregister(metric)
        self._operations: dict[str, Histogram] = {}

    def export_pods(self) -> None:
        """Exports the metrics that mean nothing where no pods are watched. Call it once."""
        for metric in self._of_pods:
            self.registry.register(metric)

    def observe_request(self, operation: str, seconds: float) -> None:
        """Counts a request to the store; ``operation`` is a script's name or a command."""
        known = self._operations.get(operation)
        if known is None:
            known = self._operations[operation] = self.store_request.labels(operation)
        known.observe(seconds)
