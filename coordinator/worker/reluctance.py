"""The sessions that this worker declined, gave up, or cannot serve: other workers come first. Pure but for the clock."""

from __future__ import annotations

from coordinator import clock

__all__ = ["Reluctance"]

PASSES = 3
"""How often a worker passes on a session that it declined itself, so that other workers see it first."""
PASS_SECONDS = 0.05
"""Pause between two times that it gives the same session back unseen."""
DECLINED_SECONDS = 30.0
FAILED_SECONDS = 60.0
"""Time for which a worker remembers that it failed a session, ..."""
FAILED_PAUSE_SECONDS = 0.5
"""... and before it takes it again when no other worker does: twice as long each time, ..."""
LONGEST_FAILED_PAUSE_SECONDS = 4.0
"""... so that a provider that is away for a moment does not cost the call all its recoveries."""
UNABLE_SECONDS = 30.0
"""Time for which a worker leaves a session that it cannot serve to other workers; then it tries again."""
LONGEST_PAUSE_SECONDS = 1.0


class Reluctance:
    """One for each membership, by session id.

    Attributes:
        unable_seconds: for so long a session that this worker cannot serve is left to others.
    """

    def __init__(self, unable_seconds: float = UNABLE_SECONDS) -> None:
        self.unable_seconds = unable_seconds
        self._declined: dict[str, tuple[int, float]] = {}
        self._unable: dict[str, tuple[float, float]] = {}
        self._failed: dict[str, tuple[int, float]] = {}
        self._foreign: dict[str, tuple[float, float]] = {}

    def declined(self, session_id: str) -> None:
        """This worker does not want that session."""
        now = clock.now()
        passes, _ = self._declined.get(session_id, (0, 0.0))
        self._declined = {known: one for known, one in self._declined.items() if now - one[1] < DECLINED_SECONDS}
        self._declined[session_id] = (passes, now)

    def passes(self, session_id: str) -> bool:
        """Whether a session is passed on once more, because this worker declined it."""
        passes, at = self._declined.get(session_id, (PASSES, 0.0))
        if passes >= PASSES or clock.now() - at >= DECLINED_SECONDS:
            return False
        self._declined[session_id] = (passes + 1, at)
        return True

    def failed(self, session_id: str) -> None:
        """This worker served that session and gave it up: other workers come first, and it waits before it takes it again."""
        now = clock.now()
        self._failed = {known: one for known, one in self._failed.items() if now - one[1] < FAILED_SECONDS}
        times, _ = self._failed.get(session_id, (0, now))
        self._failed[session_id] = times + 1, now
        self._declined.pop(session_id, None)
        self.declined(session_id)

    def pause_after_failing(self, session_id: str) -> float:
        """Seconds that this worker still waits before it takes a session that it failed."""
        times, at = self._failed.get(session_id, (0, 0.0))
        if not times:
            return 0.0
        pause = min(LONGEST_FAILED_PAUSE_SECONDS, FAILED_PAUSE_SECONDS * 2.0 ** (times - 1))
        return max(0.0, at + pause - clock.now())

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks something that the session needs."""
        now = clock.now()
        self._unable = {known: since for known, since in self._unable.items() if now - since[0] < self.unable_seconds}
        self._unable[session_id] = now, PASS_SECONDS

    def can_serve(self, session_id: str) -> None:
        """What the session needs has come."""
        self._unable.pop(session_id, None)

    def is_unable(self, session_id: str) -> bool:
        """Whether this worker remembers that it cannot serve the session."""
        return session_id in self._unable

    def pause_while_unable(self, session_id: str) -> float | None:
        """Seconds to wait before a session that this worker could not serve lately is given back; None where it may be tried.

        The pause doubles each time, so that workers that all lack the same thing do not pass the session round and round.
        """
        since, pause = self._unable.get(session_id, (float("-inf"), 0.0))
        if clock.now() - since >= self.unable_seconds:
            return None
        self._unable[session_id] = since, min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause

    def pause_of_foreign(self, session_id: str) -> float:
        """Seconds to wait before another tenant's session is given back: none at first, then twice as long each time.

        A worker of that tenant may have room, and not ask for offers.
        """
        now = clock.now()
        since, pause = self._foreign.get(session_id, (now, 0.0))
        self._foreign = {known: one for known, one in self._foreign.items() if now - one[0] < self.unable_seconds}
        self._foreign[session_id] = since, min(max(PASS_SECONDS, 2 * pause), LONGEST_PAUSE_SECONDS)
        return pause
