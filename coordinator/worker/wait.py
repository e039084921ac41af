"""How long an heir waits for a session."""

from __future__ import annotations

from collections.abc import Callable

from coordinator import clock

__all__ = ["Wait"]

POLL_SECONDS = 0.05
LATER_POLL_SECONDS = 0.25
"""Pause between two looks, once an heir has waited for a second: it is told when the owner has let go."""


class Wait:
    """How long an heir waits for a session.

    Args:
        seconds: the shortest wait.
        planned: the heir accepts an offer of an owner that drains: then it waits as long as that owner may take to let go.
        gives_way: returns whether something more urgent waits for the program; then a planned wait longer than ``seconds`` ends.
        accepted: is called when the owner has been asked.
    """

    def __init__(
        self,
        seconds: float,
        *,
        planned: bool = False,
        gives_way: Callable[[], bool] = lambda: False,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self._began, self._seconds = clock.now(), seconds
        self.planned, self._gives_way, self.accepted = planned, gives_way, accepted
        self._until = self._began + seconds

    def owner_lets_go_within(self, seconds: float) -> None:
        """The owner drains, and lets go within so many seconds, busy or not."""
        if self.planned:
            self._until = max(self._until, clock.now() + seconds)

    @property
    def left(self) -> float:
        """Seconds for which the heir goes on waiting, 0 when it is over."""
        now = clock.now()
        if now >= self._began + self._seconds and self._gives_way():
            return 0.0
        return max(0.0, self._until - now)

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        often = clock.now() - self._began < 1.0
        return min(POLL_SECONDS if often else LATER_POLL_SECONDS, self.left)
