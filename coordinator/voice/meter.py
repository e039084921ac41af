"""Turns as spans and histograms.

Spans go to the OpenTelemetry API where it is installed (the extra ``sessions`` has it); without an SDK in the program they cost
next to nothing and go nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from coordinator import clock
from coordinator.version import VERSION
from coordinator.voice.latencies import PARTS, TurnLatencies

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["TurnMeter", "VoiceMetrics", "turn_meter"]

_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
"""Around what callers notice: 0.5 s for speech in and out, 1 s for the agent and 2 s for all are bounds of their own."""


class VoiceMetrics:
    """One set of metrics for all calls of a process.

    Args:
        registry: where they are exported.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.latency = Histogram(
            "recovery_voice_turn_latency_seconds",
            "What the parts of a turn took; e2e is what the caller waited.",
            ("part",),
            buckets=_BUCKETS,
            registry=registry,
        )
        for part in PARTS:
            self.latency.labels(part)
        _of_registries[registry] = self

    @classmethod
    def of(cls, registry: CollectorRegistry) -> VoiceMetrics:
        """The metrics of this registry, which are made once: a registry takes them no second time. Safe to repeat."""
        return _of_registries.get(registry) or cls(registry)


_of_registries: WeakKeyDictionary[CollectorRegistry, VoiceMetrics] = WeakKeyDictionary()


class TurnMeter:
    """Records turns: each is a span ``voice.turn`` and is counted in histograms. From any thread.

    Args:
        metrics: counted there; None for nowhere.
    """

    def __init__(self, metrics: VoiceMetrics | None = None) -> None:
        self._metrics, self._tracer = metrics, _tracer()

    def record(
        self, latencies: TurnLatencies, *, speech: float = 0.0, attributes: Mapping[str, str | int] | None = None
    ) -> None:
        """Records one turn that ends now. A turn of which nothing is known leaves no trace.

        The span begins at the end of the caller's speech and ends now, inside the span that is current here. It has
        ``voice.stt_latency_ms``, ``voice.agent_latency_ms``, ``voice.tts_latency_ms`` and ``voice.e2e_latency_ms``, in whole
        milliseconds, as far as they are known.

        Args:
            latencies: of the turn.
            speech: seconds for which the agent has spoken since the first audio.
            attributes: of the span besides. The session's id is not among them by itself: it may be a telephone number.
        """
        if not latencies:
            return
        if self._metrics is not None:
            for part, seconds in latencies:
                self._metrics.latency.labels(part).observe(seconds)
        if self._tracer is not None:
            known = {f"voice.{part}_latency_ms": clock.in_ms(seconds) for part, seconds in latencies}
            now = time.time_ns()
            began = now - round((latencies.whole + max(0.0, speech)) * 1e9)
            self._tracer.start_span("voice.turn", attributes={**(attributes or {}), **known}, start_time=began).end(now)


@cache
def turn_meter() -> TurnMeter:
    """The meter of this process, on the default registry."""
    return TurnMeter(VoiceMetrics.of(REGISTRY))


def _tracer() -> Tracer | None:
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    return trace.get_tracer("coordinator.voice", VERSION)
