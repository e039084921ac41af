"""Reads what happened: each event is counted by one coordinator, however many run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from coordinator import clock
from coordinator.metrics import Metrics, known
from coordinator.policy import LACKS_KEY, OTHER_TENANT
from coordinator.settings import Settings
from coordinator.store import event_stream
from coordinator.store.connect import Blocking
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import instance_id, whole

__all__ = ["EventReader"]

log = structlog.get_logger()

MOST_DEATHS = 10_000
BLOCK_SECONDS = 1.0
LACKS = {LACKS_KEY: "key", OTHER_TENANT: "tenant"}
"""Reason for which a worker gives a session back -> what it lacks."""
ABOUT_INSTANCES = ("died", "joined", "draining")


def _seconds(event: dict[str, str], name: str) -> float:
    return clock.in_seconds(_number(event, name))


def _number(event: dict[str, str], name: str, default: int = 0) -> int:
    """A number in an event; ``default`` where it is invalid, as another program may have written the entry."""
    return max(0, whole(event.get(name, "").encode(), default))


@dataclass(slots=True)
class EventReader:
    """Turns events into counters, histograms and log lines.

    Attributes:
        blocking: a connection on which reading may wait.
        died: called with each dead instance as its event is read.
        deaths: instances known to be dead, with the own clock's time; stated again after lost writes.
    """

    part: StorePartition
    settings: Settings
    metrics: Metrics
    blocking: Blocking | None = None
    died: Callable[[str], None] = lambda instance: None
    deaths: dict[str, float] = field(default_factory=dict)

    async def step(self, *, block: bool = False) -> int:
        """Reads and counts the new events.

        Args:
            block: wait for `BLOCK_SECONDS` until there is something.

        Returns:
            How many events were read.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        blocking = self.blocking if block else None
        events = await event_stream.read_new(self.part, blocking, BLOCK_SECONDS)
        for event in events:
            self.take(event)
        self._forget()
        return len(events)

    def take(self, event: dict[str, str]) -> None:
        """Counts and logs one event."""
        m, cause = self.metrics, event.get("cause")
        match event.get("type"):
            case "died":
                m.instance_deaths.labels(known("instance_deaths", cause)).inc()
                m.detection.labels(known("detection", cause)).observe(_seconds(event, "detection_ms"))
                if instance := instance_id(event.get("instance", "").encode()):
                    self.deaths[instance] = clock.now()
                    self.died(instance)
            case "orphaned":
                m.orphans.labels(known("orphans", cause)).inc(_number(event, "count", 1))
                m.offers.inc(_number(event, "count", 1))
                m.handovers.labels("owner_died").inc(_number(event, "handovers"))
            case "offered" | "declined" | "replayed":
                m.offers.inc()
                self._count_lacks(event)
            case "released":
                self._count_lacks(event)
            case "adopted":
                m.adoptions.labels(known("adoptions", cause)).inc()
                m.takeover.labels(known("takeover", cause)).observe(_seconds(event, "takeover_ms"))
                m.data_age.observe(_seconds(event, "data_age_ms"))
                m.orphaned_session_seconds.inc(_seconds(event, "orphaned_ms"))
            case "handed_over":
                m.handovers.labels("completed").inc()
                m.handover.observe(_seconds(event, "handover_ms"))
            case "returned":
                m.handovers.labels(known("handovers", event.get("outcome"))).inc()
            case "resumed":
                m.resume.labels(known("resume", cause)).observe(_seconds(event, "resume_ms"))
            case "dead_lettered":
                m.dead_letters.labels(known("dead_letters", event.get("reason"))).inc()
                m.orphaned_session_seconds.inc(_seconds(event, "orphaned_ms"))
            case "closed":
                m.session_seconds.inc(_seconds(event, "session_ms"))
            case "fenced":
                m.fenced_writes.labels(known("fenced_writes", event.get("operation"))).inc()
            case "quarantined":
                m.quarantined.labels(known("quarantined", event.get("kind"))).inc()
            case "hold":
                m.holds.labels(known("holds", event.get("reason"))).inc()
        self._log(event)

    def _count_lacks(self, event: dict[str, str]) -> None:
        if lacks := LACKS.get(event.get("reason", "")):
            self.metrics.cannot_serve.labels(lacks).inc()

    def _log(self, event: dict[str, str]) -> None:
        kind = event.get("type", "event")
        fields = {k: v for k, v in event.items() if k not in ("type", "at", "sessions") and v}
        fields["partition"] = str(self.part.keys.partition)
        planned = kind == "died" and event.get("cause") == "left"  # it said good-bye
        level = {
            "died": log.info if planned else log.warning,
            "dead_lettered": log.error,
            "quarantined": log.error,
            "fenced": log.warning,
            "hold": log.warning,
        }
        level.get(kind, log.info)(
            kind if kind == "quarantined" else f"{'instance' if kind in ABOUT_INSTANCES else 'session'}_{kind}",
            **fields,
        )

    def _forget(self) -> None:
        limit = clock.now() - self.settings.fenced_ttl
        old = [i for i, at in self.deaths.items() if at < limit]
        for instance in (*old, *list(self.deaths)[: max(0, len(self.deaths) - len(old) - MOST_DEATHS)]):
            self.deaths.pop(instance, None)
