"""Decisions of the coordinator, apart from all input and output: no clock, no store, no chance of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.clock import in_ms, in_seconds

__all__ = [
    "LACKS_KEY",
    "OTHER_TENANT",
    "Candidate",
    "Observation",
    "Suspect",
    "backoff",
    "clock_step_ms",
    "earliest",
    "horizon",
    "lost_counts_after",
    "released",
    "sleep_seconds",
    "unfit_to_judge",
    "vote",
    "watch",
]

LACKS_KEY = "sealed with a key that this worker lacks"
OTHER_TENANT = "it is another tenant's"
"""Reasons for which a worker gives a session back uncounted; coordinators count sessions by them."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An instance whose deadline is near or past.

    Attributes:
        instance: its id.
        deadline_ms: its deadline by the server's clock.
    """

    instance: str
    deadline_ms: int

    @classmethod
    def parse(cls, line: str) -> Suspect | None:
        """Reads a line of a scan's answer, ``id deadline_ms``; None for a member that is not an id."""
        instance, _, deadline_ms = line.rpartition(" ")
        if not instance or not deadline_ms.lstrip("-").isdigit():
            return None
        return cls(instance, int(deadline_ms))


@dataclass(frozen=True, slots=True)
class Observation:
    """Since when, on this process's own clock (seconds), a deadline has been seen unchanged."""

    deadline_ms: int
    since: float


def horizon(dead_after: float, max_scan_gap: float, lost_after: float = 0.0) -> float:
    """Seconds before its deadline at which an instance becomes a suspect.

    It is early enough that a scan each ``max_scan_gap / 4`` sees it unchanged for half of ``dead_after`` by its deadline, and
    for half of ``lost_after`` by the moment at which a lost connection counts (scans come when an instance becomes a suspect).
    It is late enough that a regular heartbeat never makes a suspect (``dead_after >= 4 x heartbeat_interval``).
    """
    silence = dead_after / 2 + max_scan_gap / 4 + 0.05
    return max(silence, dead_after - lost_after / 2) if lost_after else silence


def watch(before: Mapping[str, Observation], deadlines_ms: Mapping[str, int], now: float) -> dict[str, Observation]:
    """Returns since when each deadline of a list has stood unchanged, given what was remembered of the list before.

    Instances with a much longer deadline become suspects only shortly before it: too late to be watched for half of their time
    from then on.
    """
    return {
        instance: known
        if (known := before.get(instance)) is not None and known.deadline_ms == deadline_ms
        else Observation(deadline_ms, now)
        for instance, deadline_ms in deadlines_ms.items()
    }


def earliest(suspects: Iterable[Suspect], *remembered: Mapping[str, Observation]) -> dict[str, Observation]:
    """For each suspect the longest watch over its present deadline."""
    found: dict[str, Observation] = {}
    for suspect in suspects:
        known = [one[suspect.instance] for one in remembered if suspect.instance in one]
        if same := [one for one in known if one.deadline_ms == suspect.deadline_ms]:
            found[suspect.instance] = min(same, key=lambda one: one.since)
    return found


def lost_counts_after(lost_after: float, trust: float, margin: float) -> float:
    """Seconds after its last beat at which an instance's lost connection counts: not while the instance may trust itself.

    Args:
        lost_after: the coordinator's setting.
        trust: seconds for which this instance trusts itself after a beat.
        margin: seconds that must lie between the two.
    """
    return max(lost_after, trust + margin)


def vote(
    suspects: Iterable[Suspect],
    seen: Mapping[str, Observation],
    now_ms: int,
    now: float,
    dead_after: float,
    lost_after: float = 0.0,
    own: Mapping[str, float] | None = None,
    own_lost: Mapping[str, float] | None = None,
) -> tuple[list[Suspect], list[Suspect], dict[str, Observation]]:
    """Decides which instances this coordinator declares dead, and what it remembers for the next scan.

    Two clocks must agree: the server's, by which the time passed, and this process's own, on which the deadline
    stood unchanged for half of that time (a new server whose clock is ahead convinces the first clock at once).

    Args:
        suspects: what the scan answered.
        seen: what the last call returned.
        now_ms: time of the scan, server's clock.
        now: time of the scan, own clock in seconds.
        dead_after: seconds.
        lost_after: seconds since the last beat after which a lost connection counts; 0 for never.
        own: ``dead_after`` of instances that registered with another one.
        own_lost: ``lost_after`` of instances that registered with another one.

    Returns:
        The silent instances; those whose connection is to be looked at; what to remember.
    """
    remembered: dict[str, Observation] = {}
    silent: list[Suspect] = []
    doubtful: list[Suspect] = []
    for suspect in suspects:
        known = seen.get(suspect.instance)
        if known is None or known.deadline_ms != suspect.deadline_ms:
            known = Observation(suspect.deadline_ms, now)
        remembered[suspect.instance] = known
        watched = now - known.since
        its = (own or {}).get(suspect.instance, dead_after)
        lost = lost_after and (own_lost or {}).get(suspect.instance, lost_after)
        if suspect.deadline_ms <= now_ms and watched >= its / 2:
            silent.append(suspect)
        elif lost and _counts_from(suspect.deadline_ms, its, lost) <= now_ms and watched >= lost / 2:
            doubtful.append(suspect)
    return silent, doubtful, remembered


def _counts_from(deadline_ms: int, dead_after: float, lost_after: float) -> int:
    """When, by the server's clock, a lost connection counts."""
    return deadline_ms - in_ms(dead_after - lost_after)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A silent instance that the mass breaker may release.

    Attributes:
        owned: its sessions.
        awaited: how many of them an heir waits for: their callers came back to a living worker.
    """

    suspect: Suspect
    pool: str
    owned: int
    awaited: int = 0


def released(candidates: Iterable[Candidate], room: Mapping[str, int]) -> list[Suspect]:
    """Decides which of many silent instances to declare now: as many as the survivors of their pool have room for.

    An instance whose sessions need more than all the room goes alone, so that nothing is stuck; without any room no instance goes.
    An heir that waits for a session is room for that session, and shows that its owner no longer serves it.

    Args:
        candidates: silent instances, the oldest first.
        room: pool -> sessions that its living instances could still take, less what is on offer already.
    """
    left = dict(room)
    gone: list[Suspect] = []
    for candidate in candidates:
        have, needs = left.get(candidate.pool, 0), candidate.owned - candidate.awaited
        alone = have > 0 and have == room.get(candidate.pool)
        if candidate.awaited or needs <= 0 or have >= needs or alone:
            left[candidate.pool] = have - needs
            gone.append(candidate.suspect)
    return gone


def clock_step_ms(before: tuple[int, float], after: tuple[int, float]) -> int:
    """How many ms further the server's clock went than the own one between two looks; 0 for none, or without a look before.

    Args:
        before: time of the look before by the server's clock in ms (0 for none), and when it was *asked for* by the own one in
            seconds.
        after: time of this look, and when its answer *came*, so that a pause of either side is not taken for a step.
    """
    if not before[0]:
        return 0
    return max(0, after[0] - before[0] - in_ms(after[1] - before[1]))


def unfit_to_judge(loop_lag: float, round_trip: float, max_scan_gap: float) -> str:
    """Why this coordinator should declare no instance dead just now; '' if it may (Lifeguard, arXiv:1707.00788).

    Args:
        loop_lag: seconds by which its own loop woke too late.
        round_trip: seconds that the scan took.
        max_scan_gap: seconds.
    """
    limit = max_scan_gap / 4
    if loop_lag > limit:
        return f"own loop was {loop_lag:.3f} s late"
    if round_trip > limit:
        return f"the store took {round_trip:.3f} s"
    return ""


def sleep_seconds(
    now_ms: int,
    next_ms: int,
    seen: Mapping[str, Observation],
    now: float,
    dead_after: float,
    max_scan_gap: float,
    lost_after: float = 0.0,
    own: Mapping[str, float] | None = None,
    own_lost: Mapping[str, float] | None = None,
) -> float:
    """Seconds until the next scan: the next deadline, grave or lease, but at most a quarter of ``max_scan_gap``.

    Args:
        now_ms: time of the scan, server's clock.
        next_ms: the earliest thing ahead by that clock, 0 for none.
        seen: suspects; some may wait for the own clock only.
        now: the own clock, in seconds.
        dead_after: seconds.
        max_scan_gap: seconds.
        lost_after, own, own_lost: see `vote`.
    """
    waits = [max_scan_gap / 4]
    if next_ms:
        waits.append(in_seconds(next_ms - now_ms + 1))
    for instance, known in seen.items():
        its = (own or {}).get(instance, dead_after)
        lost = lost_after and (own_lost or {}).get(instance, lost_after)
        if known.deadline_ms <= now_ms:
            ahead = known.since + its / 2 - now
            if ahead > 0:  # else it is held back, and looked at again in a while
                waits.append(ahead)
        elif lost:
            ahead = in_seconds(_counts_from(known.deadline_ms, its, lost) - now_ms + 1)
            ahead = max(ahead, known.since + lost / 2 - now)
            if ahead > 0:  # else its connection was looked at, and still stands
                waits.append(ahead)
    return max(0.001, min(waits))


def backoff(attempt: int, chance: float, least: float = 0.05, most: float = 2.0) -> float:
    """Seconds to wait before trial ``attempt`` (from 0) after an error: exponential with full jitter above half.

    Args:
        attempt: how many trials failed since the last success.
        chance: a random number from 0 to 1.
        least: the first wait.
        most: the longest wait.
    """
    wait = min(most, least * 2.0 ** min(attempt, 16))
    return wait * (0.5 + chance / 2)
