"""How long to ask for a name that is in use: until its holder has had its time, or is seen to live."""

from __future__ import annotations

__all__ = ["NameWait"]

SLACK = 0.5
"""Seconds by which a trust window must have moved to prove a beat; less may be the travel time of an answer."""


class NameWait:
    """What one join learns of a predecessor whose trust window is not over; that may be much longer than the newcomer's own.

    Args:
        began: when the name was asked for first, by any clock that goes on.
        patience: seconds for which a predecessor that beats is waited for.
        quiet: seconds without a beat after which the predecessor is taken for silent.
    """

    def __init__(self, began: float, patience: float, quiet: float) -> None:
        self._until, self._quiet = began + patience, quiet
        self._free_at = float("-inf")
        self._beat_at = float("-inf")

    def is_over(self, now: float, left: float) -> bool:
        """Whether to give up.

        Args:
            now: by the same clock.
            left: seconds for which the predecessor may still trust itself, if it is silent from now on.
        """
        if now + left > self._free_at + SLACK:
            if self._free_at > float("-inf"):
                self._beat_at = now
            self._free_at = now + left
        return now > self._until and (now - self._beat_at < self._quiet or now > self._free_at + SLACK)
