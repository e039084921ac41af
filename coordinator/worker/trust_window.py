"""The three standings of a holder, computed at the moment of asking: held, in doubt, lost.

Pure arithmetic on a clock that also counts while the machine sleeps. The heartbeat's thread writes it, and every asking thread
reads it. Each field is written whole by one thread, so that no lock is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrustWindow"]


@dataclass(slots=True)
class TrustWindow:
    """What one instance id knows of its own life; times in seconds of `coordinator.clock.now`.

    Attributes:
        trust_window: seconds from the sending of an acknowledged beat for which no other worker can have adopted.
        stall_limit: seconds without a tick after which this process itself must have stood still.
        sent: when the last beat that was answered OK was sent.
        ticked: when the heartbeat's thread last turned over.
        stalled: when it was last noted that the process stood still.
        over: whether the store said that this id is dead.
    """

    trust_window: float
    stall_limit: float
    sent: float = float("-inf")
    ticked: float = float("-inf")
    stalled: float = float("-inf")
    over: bool = False

    def tick(self, now: float) -> None:
        """The thread turns over; a gap is noted before the time, so that no reader sees the one without the other."""
        if now - self.ticked > self.stall_limit and self.ticked != float("-inf"):
            self.stalled = now
        self.ticked = now

    def renew(self, sent: float) -> None:
        """A beat sent at ``sent`` was answered OK."""
        self.sent = max(self.sent, sent)

    @property
    def stood_still(self) -> bool:
        """Whether the process stood still since the last beat with the answer OK was *sent*: an answer that waited is old."""
        return self.stalled > self.sent

    def continued(self, now: float) -> float:
        """When this process last went on after it stood still, ``now`` while that is not noted yet: time-outs begin anew there."""
        if now - self.ticked > self.stall_limit and self.ticked != float("-inf"):
            return now
        return self.stalled

    def held(self, now: float) -> bool:
        """Whether what this instance owns is certainly still its own."""
        return not self.over and now - self.sent < self.trust_window

    def may_speak(self, now: float) -> bool:
        """Held, or in doubt only because the store does not answer while this process never stood still."""
        if self.held(now):
            return True
        return not self.over and not self.stood_still and now - self.ticked <= self.stall_limit
