"""How fast handlers may start: a pure rule, which is told how late the event loop was."""

from __future__ import annotations

__all__ = ["HandlerPace"]

MOST = 16
LATE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 1.0


class HandlerPace:
    """Begins with one handler at a time, and doubles that as long as the loop turns over between two starts.

    Attributes:
        together: how many handlers may start now, before the loop has to turn over.
    """

    def __init__(self) -> None:
        self.together = 1

    def turned_over(self, late: float) -> float:
        """The loop turned over after a start.

        Args:
            late: seconds by which it was late.

        Returns:
            Seconds to wait before the next start: as long as the live calls have waited for this one.
        """
        if late <= LATE_SECONDS:
            self.together = min(MOST, 2 * self.together)
            return 0.0
        self.together = max(1, self.together // 4)
        return min(late, LONGEST_PAUSE_SECONDS)
