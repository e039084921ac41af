"""Rules between settings: what must fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.settings.units import shown_duration

if TYPE_CHECKING:
    from coordinator.settings.model import Settings

__all__ = ["check_pods", "check_times"]


def check_pods(settings: Settings) -> None:
    """Pods are annotated only where they are watched.

    Raises:
        ValueError: they would not be.
    """
    if settings.pod_deletion_cost and not settings.pod_events:
        raise ValueError("pod_deletion_cost needs pod_events: the annotation is compared with what the watch says")


def check_times(settings: Settings) -> None:
    """A worker stops trusting itself before another takes its calls; what waits outlasts what it waits for.

    Raises:
        ValueError: one line a rule that is broken.
    """
    s = settings
    beat, dead, lost = s.heartbeat_interval, s.dead_after, s.lost_connection_after
    margin, gap, jitter = s.safety_margin, s.max_scan_gap, 0.1 * s.heartbeat_interval
    grace = s.termination_grace_period
    rules = [
        (beat >= 0.01, f"heartbeat_interval ({shown_duration(beat)}) must be at least 10ms"),
        (
            dead >= 4 * beat,
            f"dead_after ({shown_duration(dead)}) must be at least 4 x heartbeat_interval ({shown_duration(beat)})",
        ),
        (
            lost == 0 or lost > margin + 2 * beat - jitter,
            f"lost_connection_after ({shown_duration(lost)}) must be more than safety_margin ({shown_duration(margin)}) "
            f"+ 2 x heartbeat_interval ({shown_duration(beat)}) - jitter ({shown_duration(jitter)})",
        ),
        (
            gap + 2 * beat <= dead,
            f"max_scan_gap ({shown_duration(gap)}) + 2 x heartbeat_interval ({shown_duration(beat)}) must be at most "
            f"dead_after ({shown_duration(dead)})",
        ),
        (
            s.trust_window > 0,
            f"safety_margin ({shown_duration(margin)}) must be less than dead_after and lost_connection_after",
        ),
        (
            s.lease < s.give_up_after,
            f"lease ({shown_duration(s.lease)}) must be less than give_up_after ({shown_duration(s.give_up_after)})",
        ),
        (
            s.dead_letter_ttl >= 1,
            f"dead_letter_ttl ({shown_duration(s.dead_letter_ttl)}) must be at least 1s",
        ),
        (
            grace is None or s.drain_timeout < grace,
            f"drain_timeout ({shown_duration(s.drain_timeout)}) must be less than termination_grace_period "
            f"({shown_duration(grace or 0)})",
        ),
    ]
    broken = [message for kept, message in rules if not kept]
    if broken:
        raise ValueError("\n".join(broken))
