"""What the frames of a pipeline say of its bot: whether a call can move unheard, and whether the pipeline moves. Pure."""

from __future__ import annotations

__all__ = ["CallFloor", "PipelinePulse"]


class CallFloor:
    """Whether anybody speaks, by the names of the frames that pass.

    An answer counts from the end of the caller's turn, as the bot is about to speak.
    """

    def __init__(self) -> None:
        self._caller = self._bot = self._answering = False

    def passed(self, frame: str) -> None:
        """A frame of this name passed."""
        match frame:
            case "UserStartedSpeakingFrame":
                self._caller = True
            case "UserStoppedSpeakingFrame":
                self._caller, self._answering = False, True
            case "LLMFullResponseStartFrame":
                self._answering = True
            case "BotStartedSpeakingFrame":
                self._bot, self._answering = True, False
            case "BotStoppedSpeakingFrame" | "InterruptionFrame":
                self._bot = self._answering = False

    @property
    def is_quiet(self) -> bool:
        """Whether neither speaks, and the bot is not about to."""
        return not (self._caller or self._bot or self._answering)


class PipelinePulse:
    """Whether a pipeline moves.

    Frames are sent through it regularly. A speech service holds them back while the bot speaks, so audio that goes out counts too.

    Args:
        limit: seconds without either after which the pipeline hangs; None: it is not watched.
        now: the time, in seconds.
    """

    def __init__(self, limit: float | None, now: float) -> None:
        self._limit, self._moved = limit, now

    def moved(self, now: float) -> None:
        """A frame came through, or audio went out."""
        self._moved = now

    def is_alive(self, now: float) -> bool:
        """Whether the pipeline moved a while ago."""
        return self._limit is None or now - self._moved <= self._limit
