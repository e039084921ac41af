"""What a program remembers of a partition, so that it outlives a wipe although another program makes the partition anew."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_PAST", "Past"]


@dataclass(slots=True)
class Past:
    """A program's memory, sent with each beat, join and look.

    Attributes:
        lineage: with which the program last agreed; '' before the first time.
        since_ms: since when it knows that one, by the server's clock of then. A hold that began later is for the same change.
        epoch: the highest that it was told.
        now_ms: time of the last answer, by the server's clock.
    """

    lineage: str = ""
    since_ms: int = 0
    epoch: int = 0
    now_ms: int = 0

    def agree(self, lineage: str, now_ms: int = 0) -> None:
        """Takes the store's lineage. ``now_ms``: when it said so; 0 for the time of the last answer that had one."""
        self.now_ms = now_ms or self.now_ms
        if lineage != self.lineage:
            self.lineage, self.since_ms = lineage, self.now_ms

    def saw(self, epoch: int) -> None:
        """Takes an epoch that the store told."""
        self.epoch = max(self.epoch, epoch)


NO_PAST = Past()
"""The past of a program that remembers nothing."""
