"""Metrics of the session store, on a registry that is passed in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from coordinator.errors import ConfigurationError, FencedError, StoreUnavailableError
from coordinator.sessions import errors as e
from coordinator.voice.meter import VoiceMetrics

__all__ = ["RESTORE_OUTCOMES", "StoreMetrics", "kind_of_error"]

RESTORE_OUTCOMES = ("hit", "miss", "stale", "ended")
"""Closed list of the label ``outcome``: found; not there; there, and older than wanted; there, and over."""

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (e.CircuitOpenError, "circuit_open"),
    (e.SessionConflictError, "conflict"),
    (e.SessionExistsError, "exists"),
    (e.SessionLimitError, "limit"),
    (e.SealBrokenError, "seal_broken"),
    (e.CorruptSessionError, "corrupt"),
    (e.KeyUnknownError, "key_unknown"),
    (e.PlaintextRefusedError, "plaintext"),
    (e.TenantError, "tenant"),
    (e.InvalidStateError, "invalid"),
    (e.StoreClosedError, "closed"),
    (FencedError, "fenced"),
    (ConfigurationError, "configuration"),
)
_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def kind_of_error(error: Exception) -> str:
    """The label ``kind`` of an error; '' for what is an answer and no error (not found, ended)."""
    for type_of_error, kind in _KINDS:
        if isinstance(error, type_of_error):
            return kind
    return error.kind if isinstance(error, StoreUnavailableError) else ""


class StoreMetrics:
    """One set of metrics for all managers of a process.

    Args:
        registry: where they are exported.
        voice: where turns are counted; default the one set of this registry, which whatever else records turns shares, such as
            an adapter to a framework.
    """

    def __init__(self, registry: CollectorRegistry, voice: VoiceMetrics | None = None) -> None:
        self.voice = voice or VoiceMetrics.of(registry)
        prefix = "recovery_session_store"
        self.restores = Counter(
            f"{prefix}_restores", "Sessions asked for by restore_or_create.", ("outcome",), registry=registry
        )
        self.requests = Histogram(
            f"{prefix}_request_duration_seconds",
            "One operation, its retries included.",
            ("operation",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.errors = Counter(
            f"{prefix}_errors", "Operations that failed, after their retries.", ("operation", "kind"), registry=registry
        )
        self.circuit_open = Gauge(
            f"{prefix}_circuit_open", "1 while the store is not asked, or asked by one probe only.", registry=registry
        )
        for outcome in RESTORE_OUTCOMES:
            self.restores.labels(outcome)
