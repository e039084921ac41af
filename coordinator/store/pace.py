"""How much may be on its way to the server, and how long nothing may move: arithmetic on what the line has shown.

Requests share a line as cars share a road. A request that is sent too early stands in a queue: nothing small and urgent can pass
it, and a heartbeat on another connection waits behind it too. So no more is sent than the line has shown to carry in
`TARGET_SECONDS`. The window grows with each answer that comes quickly and shrinks with those that are late.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LARGE", "RESERVE", "Pace", "allowance"]

TARGET_SECONDS = 0.2
"""Seconds within which all that is on its way should be through."""
FIRST, LEAST, MOST = 32 * 1024, 16 * 1024, 1024 * 1024
"""Bytes of the window: for a line of which nothing is known, at least, and at most."""
LARGE = 4096
"""A request of more bytes waits for room in the window; smaller ones have a reserve beside it."""
RESERVE = 16 * 1024
SLOWEST = 8 * 1024
"""Bytes a second: a line of which nothing is known may be as slow as this."""
DISTRUST = 16
"""A line may become so many times slower than it was, from one moment to the next."""
EVIDENCE = 16 * 1024
"""Bytes from which a request shows how fast a line carries large ones: more than the text of a script."""
GULP = 64 * 1024
"""Bytes of a request, or of an answer, that a proxy on the way may hold before it passes any on."""
IDLE_BYTES = 4096
LEAST_DELAY_SECONDS = 0.0001


def allowance(size: int, *, part_of_answer: bool = False, rate: float = SLOWEST, gulp: int = GULP) -> float:
    """Seconds for which a request may show no movement at all, because a proxy on the way holds its bytes.

    Args:
        size: bytes of the request.
        part_of_answer: its answer has begun to arrive.
        rate: bytes a second that are carried at least.
        gulp: bytes of an answer that a proxy may hold before it passes any on.
    """
    return max(size, gulp if part_of_answer else 0) / rate


@dataclass(slots=True)
class Pace:
    """What one line has shown.

    Attributes:
        window: bytes that may be on their way: what the line carries in `TARGET_SECONDS`, as far as it has shown that.
        idle: seconds that an answer takes when nothing else is on its way.
        carried: bytes a second when it last carried a request of `EVIDENCE` bytes; 0 before it did.
        gulp: bytes of an answer that a proxy on the way may hold.
    """

    window: int = FIRST
    idle: float = 0.0
    carried: float = 0.0
    gulp: int = GULP
    _shrunk: float = float("-inf")

    def allowance(self, size: int, *, part_of_answer: bool = False) -> float:
        """As the function `allowance`, for this line."""
        rate = max(SLOWEST, self.carried / DISTRUST)
        return allowance(size, part_of_answer=part_of_answer, rate=rate, gulp=self.gulp)

    def answered(self, now: float, sent: float, size: int, ahead: int) -> None:
        """Learns from an answer.

        Args:
            now, sent: seconds of one clock.
            size: bytes of the request.
            ahead: bytes that were on their way before it when it was sent.
        """
        took = now - sent
        if not ahead and size <= IDLE_BYTES:
            self.idle = took if not self.idle or took < self.idle else self.idle + (took - self.idle) / 8
        delay = max(took - self.idle, LEAST_DELAY_SECONDS)
        if size >= EVIDENCE:
            self.carried = (ahead + size) / delay
        in_time = (ahead + size) * TARGET_SECONDS / delay
        if in_time >= self.window:
            self.window = min(MOST, self.window + size)
        elif delay > TARGET_SECONDS and sent >= self._shrunk:  # once for all that was sent under the old window
            lower = in_time if 2 * (ahead + size) >= self.window else self.window / 2
            self.window, self._shrunk = max(LEAST, round(lower)), now

    def failed(self) -> None:
        """Forgets what the line has shown, as it broke or stood still."""
        self.window, self.carried = FIRST, 0.0
