"""How late the event loop is, counted while the thread that watches it was awake.

A machine, container or process that stood still has a loop that is late by the whole pause, and nothing is wrong with it. A
thread that turns over many times a second tells the two apart: a blocked loop is late while that thread goes on, and a pause is
a gap of the thread's own. A library that holds the interpreter's lock stops both: that is taken for a pause.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONGEST_GAP_SECONDS", "Lag"]

LONGEST_GAP_SECONDS = 0.1
"""Most seconds that count between two looks: a thread that looks less often stood still."""


@dataclass(slots=True)
class Lag:
    """What one thread has seen of the loop. Pure, and used by that thread alone. Times in seconds of one clock.

    Attributes:
        awake: for how long that thread was awake since its first look.
    """

    awake: float = 0.0
    _looked: float = float("inf")
    _turn: int = -1
    _turned: float = 0.0

    def look(self, now: float, turn: int) -> None:
        """The thread turns over.

        Args:
            turn: how often the loop has turned over.
        """
        self.awake += min(max(0.0, now - self._looked), LONGEST_GAP_SECONDS)
        self._looked = now
        if turn != self._turn:
            self._turn, self._turned = turn, self.awake

    @property
    def seconds(self) -> float:
        """For how long the loop has not turned over while the thread was awake."""
        return self.awake - self._turned
