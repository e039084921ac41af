"""Sets the gauges of a partition; drops them when it cannot be seen, instead of repeating old ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from coordinator.clock import in_seconds
from coordinator.metrics import Metrics
from coordinator.printable import printable
from coordinator.settings import Settings
from coordinator.states import InstanceState, SessionState
from coordinator.store import reads
from coordinator.store.executor import StorePartition

__all__ = ["PartitionGauges"]

SHOWN = tuple(state for state in SessionState if state is not SessionState.CLOSED)
"""States of which there is a gauge."""


@dataclass(slots=True)
class PartitionGauges:
    """What one partition exports; instances and slots are those of partition 0, of which every instance is a member."""

    part: StorePartition
    settings: Settings
    metrics: Metrics
    _reason: str = ""
    _pools: set[str] = field(default_factory=set)
    last: reads.Overview | None = None

    async def step(self) -> None:
        """Looks at the partition and sets its gauges. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        self.last = view = await reads.overview(self.part)
        m, p = self.metrics, str(view.partition)
        handing_over = max(0, view.leased - view.offered)  # their owners still own them
        m.sessions.labels(p, SessionState.ACTIVE).set(max(0, view.active - handing_over))
        m.sessions.labels(p, SessionState.OFFERED).set(view.offered)
        m.sessions.labels(p, SessionState.HANDING_OVER).set(handing_over)
        m.sessions.labels(p, SessionState.DEAD_LETTERED).set(view.dead_lettered)
        m.orphaned_sessions.labels(p).set(view.orphans)
        if view.oldest_orphan_ms:
            m.oldest_orphan.labels(p).set(in_seconds(view.oldest_orphan_ms))
        else:
            m.oldest_orphan.clear() if self.settings.partitions == 1 else self._remove(m.oldest_orphan, p)
        reason = printable(view.hold_reason)
        if self._reason and self._reason != reason:
            self._remove(m.hold_active, p, self._reason)
        self._reason = reason
        if reason:
            m.hold_active.labels(p, reason).set(1)
        m.breaker_open.labels(p).set(1 if view.breaker_since_ms else 0)
        if view.partition == 0:
            self._instances(view)

    def _instances(self, view: reads.Overview) -> None:
        m = self.metrics
        states = Counter(row.state for row in view.instances)
        for state in InstanceState:
            m.instances.labels(state).set(states.get(state, 0))
        free: Counter[str] = Counter()
        for row in view.instances:
            if row.state == InstanceState.ALIVE:
                free[printable(row.pool)] += max(0, row.capacity - row.owned)
        for pool in self._pools - set(free):
            self._remove(m.free_slots, pool)
        self._pools = set(free)
        for pool, slots in free.items():
            m.free_slots.labels(pool).set(slots)
        living = [row for row in view.instances if row.state != InstanceState.DEAD]
        m.fullest_instance_sessions.set(max((row.owned for row in living), default=0))
        m.in_doubt_sessions.set(sum(row.owned for row in living if row.beat_age_ms > row.trust_ms))
        m.drain_sessions_remaining.set(sum(row.owned for row in living if row.state == InstanceState.DRAINING))
        ends = (r.drain_until for r in living if r.state == InstanceState.DRAINING and r.owned and r.drain_until)
        m.drain_deadline.set(in_seconds(min(ends, default=0)))  # of several the one that is over first

    def withheld(self, reason: str, on: bool) -> None:
        """Sets or clears the gauge that this coordinator alone declares no death just now."""
        labels = str(self.part.keys.partition), reason
        if on:
            self.metrics.hold_active.labels(*labels).set(1)
        else:
            self._remove(self.metrics.hold_active, *labels)

    @staticmethod
    def _remove(gauge: object, *labels: str) -> None:
        try:
            gauge.remove(*labels)  # type: ignore[attr-defined]
        except KeyError:
            return  # it was never set

    def drop(self) -> None:
        """Exports nothing of this partition, as nothing is known of it. Safe to repeat."""
        m, p = self.metrics, str(self.part.keys.partition)
        self.last = None
        for state in SHOWN:
            self._remove(m.sessions, p, state)
        for gauge in (m.orphaned_sessions, m.oldest_orphan, m.breaker_open):
            self._remove(gauge, p)
        for reason in {self._reason, "slow_judge"} - {""}:
            self._remove(m.hold_active, p, reason)
        self._reason = ""
        if p == "0":
            for instance_state in InstanceState:
                self._remove(m.instances, instance_state)
            for one in (m.fullest_instance_sessions, m.in_doubt_sessions, m.drain_sessions_remaining, m.drain_deadline):
                one.drop()
            for pool in self._pools:
                self._remove(m.free_slots, pool)
            self._pools.clear()
