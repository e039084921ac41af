"""Which offers a worker takes, and how many: pure rules that find a suitable heir for calls, spread them, and keep them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["Apart", "Share", "has_a_small_part", "suits"]

MOST_DEATHS = 64
MOST_AT_ONCE = 1_000_000


def suits(
    labels: Mapping[str, str], started_at_ms: int, requires: Sequence[str], restarted_since_ms: int
) -> tuple[bool, bool]:
    """How well an offer suits an instance; the greater the better.

    Args:
        labels: of the instance.
        started_at_ms: of the instance, server's clock.
        requires: labels that the session asks for, each ``name`` or ``name=value``.
        restarted_since_ms: an instance started since then is not restarted again by the rollout under way; 0 for none.

    Returns:
        Whether the instance has the labels, and whether it stays: labels count more.
    """
    wanted = [text.partition("=") for text in requires]
    fits = all(name in labels and (not equals or labels[name] == value) for name, equals, value in wanted)
    return fits, started_at_ms >= restarted_since_ms


def has_a_small_part(died_with: int, mine: int, room: int) -> bool:
    """Whether a worker is nearly full beside the others: its share of a death's calls is less than half a call.

    Then it leaves them to a worker that has room for all, if there is one.

    Args:
        died_with: calls that the death left without an owner; 0 when that is not known.
        mine: calls that this worker could take.
        room: calls that all workers of the pool could take; 0 when that is not known.
    """
    return bool(room) and mine < died_with and 2 * died_with * mine < room


class Share:
    """How many calls of each death this worker takes before it leaves other workers a moment to take theirs.

    It learns of a death by its first offer. The worker's share of the calls is its share of the room. Pure.
    """

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._grant: dict[str, int] = {}
        self._not_taken: dict[str, int] = {}

    def seen(self, death: str, died_with: int, mine: int, room: int) -> None:
        """An offer of that death was seen.

        Args:
            died_with: calls that the death left without an owner; 0 when that is not known.
            mine: calls that this worker could take.
            room: calls that all workers of the pool could take; 0 when that is not known.
        """
        if death in self._left:
            return
        while len(self._left) >= MOST_DEATHS:
            oldest = next(iter(self._left))
            del self._left[oldest], self._grant[oldest], self._not_taken[oldest]
        part = math.ceil(died_with * mine / max(room, mine, 1)) if died_with and room else max(died_with, MOST_AT_ONCE)
        self._left[death] = self._grant[death] = max(1, part)
        self._not_taken[death] = died_with or MOST_AT_ONCE

    def left(self, death: str) -> int:
        """How many calls of a death it takes at once; calls of an unknown death are taken freely."""
        return self._left.get(death, MOST_AT_ONCE)

    def took(self, death: str) -> bool:
        """The worker took a call. Returns whether other workers are to have a moment now; after it this worker takes twice as many.

        When it took all of them it leaves nothing to others: calls of many small deaths come one after the other.
        """
        if death not in self._left:
            return False
        self._left[death] -= 1
        self._not_taken[death] -= 1
        if self._left[death] > 0 or self._not_taken[death] <= 0:
            return False
        self._left[death] = self._grant[death] = 2 * self._grant[death]
        return True


class Apart:
    """Which of the calls that may kill their worker this one takes: few at a time of those that died together. Pure.

    Each call comes with the number of them that one worker may have within a probation; the smallest counts.
    """

    def __init__(self) -> None:
        self._served: list[tuple[float, int]] = []
        self._others_clear_at = float("-inf")

    def may_take(self, limit: int, in_hand: Sequence[int], now: float) -> bool:
        """Whether one more may be taken. A call that is to be alone waits until others of that death are clear here.

        Args:
            limit: the number that the call came with; 0 for a call that need not be kept apart.
            in_hand: the limits of the calls that are in hand already.
            now: seconds.
        """
        if not limit:
            return True
        if limit == 1 and now < self._others_clear_at:
            return False
        here = [*self._limits(now), *in_hand]
        return len(here) < min([limit, *here])

    def took(self, limit: int, probation: float, now: float) -> float:
        """The call was adopted. Returns seconds for which this worker should take nothing else; 0 when it may go on.

        Args:
            limit: the number that the call came with; 0 for a call that need not be kept apart.
            probation: seconds; also for a call that only moved along with calls that are kept apart.
            now: seconds.
        """
        if not limit:
            self._others_clear_at = max(self._others_clear_at, now + probation)
            return 0.0
        self._served = [(until, its) for until, its in self._served if until > now]
        self._served.append((now + probation, limit))
        full = len(self._served) >= min(its for _, its in self._served)
        return probation if full else 0.0

    def clear_at(self, now: float) -> float:
        """When the first call is clear; ``now`` when none is under probation."""
        times = [self._others_clear_at, *(until for until, _ in self._served)]
        return min((until for until in times if until > now), default=now)

    def _limits(self, now: float) -> list[int]:
        return [its for until, its in self._served if until > now]
