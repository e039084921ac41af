"""How many job processes are kept warm while calls of a death are taken over. Pure.

A job process takes a second of a processor to start. Those that replace the ones in use would take it from the calls that are joining
their rooms, whose callers hear nothing meanwhile.
"""

from __future__ import annotations

import math

__all__ = ["WarmProcesses", "share_of"]

CALM_SECONDS = 3.0
"""So long after the last call was taken over, reserves are made again."""


def share_of(died_with: int, free: int, room: int) -> int:
    """How many calls of a death this worker may expect.

    Args:
        died_with: calls that the death left without an owner; 0 when that is not known.
        free: calls that this worker could take.
        room: calls that all workers of the pool could take; 0 when that is not known.
    """
    return math.ceil(died_with * free / max(room, free)) if died_with and room and free else died_with


class WarmProcesses:
    """What is wanted of one server's pool of processes.

    Args:
        reserve: as many as are kept warm in quiet times.
        most: as many as are ever started ahead.
    """

    def __init__(self, reserve: int, most: int) -> None:
        self._reserve, self._most = reserve, max(reserve, most)
        self._coming: dict[str, int] = {}
        self._last = -math.inf

    def took(self, death: str, share: int, now: float) -> None:
        """A call of a death was taken over.

        Args:
            share: as many calls of it as this worker may expect.
            now: seconds.
        """
        if not self.hurries(now):
            self._coming.clear()
        self._last = now
        self._coming[death] = self._coming.get(death, share) - 1

    def hurries(self, now: float) -> bool:
        """Whether calls are being taken over now."""
        return now - self._last < CALM_SECONDS

    def wanted(self, now: float) -> int:
        """How many should be warm: the calls that may still come, and in quiet times the reserve."""
        if not self.hurries(now):
            return self._reserve
        return min(self._most, sum(max(0, left) for left in self._coming.values()))
