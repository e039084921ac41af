"""What a turn took and what the call is doing, as the frames of a pipeline tell it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.adapters.pipecat.bot_outcome import BotOutcome
from coordinator.bounds import MOST_SECONDS
from coordinator.voice.kept_turns import KeptTurns
from coordinator.voice.latencies import TurnLatencies
from coordinator.voice.progress import CallState

__all__ = ["TURN_FRAMES", "FrameTurns", "SeenFrame", "ServiceTime"]

TURN_FRAMES = frozenset((
    "BotStartedSpeakingFrame", "BotStoppedSpeakingFrame", "LLMFullResponseStartFrame", "LLMTextFrame", "MetricsFrame",
    "TTSStartedFrame", "TranscriptionFrame", "UserStartedSpeakingFrame", "UserStoppedSpeakingFrame",
    "VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame",
))  # fmt: skip
"""Names of the frames of which `FrameTurns` wants to know."""
FIRST_BYTE, FIRST_WORD = "TTFBMetricsData", "TTFATMetricsData"
"""Pipecat's names of what a service took until its first byte, and a model until the first word of its answer."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """One time that a service of the pipeline measured of itself.

    Attributes:
        service: its name, as it is that of the frames which it pushes.
        kind: what was measured, by the name of Pipecat's class.
        seconds: what it took.
    """

    service: str
    kind: str
    seconds: Any


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """A frame as it is pushed for the first time.

    Attributes:
        name: of its class.
        at: when, in seconds of `coordinator.clock`.
        source: the name of the processor that pushed it.
        stop_seconds: of a ``VADUserStoppedSpeakingFrame``: how long the caller had been silent by then.
        times: of a ``MetricsFrame``.
    """

    name: str
    at: float
    source: str = ""
    stop_seconds: Any = 0.0
    times: tuple[ServiceTime, ...] = ()


@dataclass(slots=True)
class _Turn:
    """One turn of the caller's, and the answer to it as it comes on: when each thing happened, None if it has not."""

    spoke_until: float | None = None
    heard_at: float | None = None
    ended_at: float | None = None
    words_at: float | None = None
    times: dict[tuple[str, str], float] = field(default_factory=dict)

    def forget_answer(self) -> None:
        """What was said or measured was not the answer to this turn."""
        self.words_at = None
        self.times.clear()


class FrameTurns(KeptTurns):
    """One per bot.

    A turn is an answer to the caller: it is over in the moment in which the bot begins to speak. What the bot says of its own accord
    is none.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self._turn, self._next = _Turn(), _Turn()
        self._caller_speaks = self._is_over = False
        self._models: set[str] = set()
        self._voices: set[str] = set()

    # -- what passes ---------------------------------------------------------------------------------------------------

    def passed(self, frame: SeenFrame) -> TurnLatencies:
        """A frame was pushed; nothing is taken from it once the bot has ended, as its pipeline's end says nothing of the call.

        Returns:
            What the turn took that is over with this frame, as far as it is known; nothing of all other frames.
        """
        if self._is_over:
            return TurnLatencies()
        match frame.name:
            case "VADUserStartedSpeakingFrame":
                self._ears.spoke_until = None
            case "VADUserStoppedSpeakingFrame":
                self._ears.spoke_until = frame.at - (_seconds(frame.stop_seconds) or 0.0)
            case "TranscriptionFrame":
                ears = self._turn if self._turn.words_at is None else self._ears
                ears.heard_at = frame.at
            case "UserStartedSpeakingFrame":
                self._caller_started()
            case "UserStoppedSpeakingFrame":
                self._caller_stopped(frame.at)
            case "LLMFullResponseStartFrame":
                self._model_began(frame.source)
            case "LLMTextFrame":
                self._turn.words_at = frame.at if self._turn.words_at is None else self._turn.words_at
            case "MetricsFrame":
                self._measured(frame.times)
            case "TTSStartedFrame":
                self._voices.add(frame.source)
            case "BotStartedSpeakingFrame":
                return self._bot_started(frame.at)
            case "BotStoppedSpeakingFrame":
                if self.progress.state is CallState.RESPONDING:
                    self._talks(CallState.LISTENING)
        return TurnLatencies()

    def connected(self) -> None:
        """The call's media is up. Safe to repeat."""
        if not self._is_over and self.progress.state is CallState.RECONNECTING:
            self.moves_to(CallState.CONNECTED)

    def ended(self, outcome: BotOutcome) -> None:
        """The bot has ended, or is about to: what it was doing then is what was cut off, unless the call is over. Safe to repeat."""
        self._is_over = True
        self.moves_to(CallState.DISCONNECTED if outcome is BotOutcome.CLOSE else CallState.RECONNECTING)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _ears(self) -> _Turn:
        """The turn to which what the caller says belongs."""
        return self._turn if self._turn.ended_at is None else self._next

    def _talks(self, state: CallState) -> None:
        self.connected()  # a conversation has media
        self.moves_to(state)

    def _following(self) -> None:
        self._turn, self._next = self._next, _Turn()

    def _caller_started(self) -> None:
        if self._turn.ended_at is not None:  # it gets no answer of its own
            self._following()
        self._turn.forget_answer()
        self._caller_speaks = True
        self._talks(CallState.LISTENING)

    def _caller_stopped(self, at: float) -> None:
        if not self._caller_speaks:
            return
        self._caller_speaks = False
        self._turn.ended_at = at
        if self.progress.state is not CallState.RESPONDING:
            self._talks(CallState.PROCESSING)

    def _model_began(self, model: str) -> None:
        self._models.add(model)
        if self._turn.ended_at is None:  # a model that was asked too early is asked again
            self._turn.forget_answer()
        if not self._caller_speaks and self.progress.state is not CallState.RESPONDING:
            self._talks(CallState.PROCESSING)

    def _measured(self, times: tuple[ServiceTime, ...]) -> None:
        for one in times:
            seconds = _seconds(one.seconds)
            if seconds:  # a pipeline begins with zeros of all its services
                self._turn.times.setdefault((one.service, one.kind), seconds)

    def _bot_started(self, at: float) -> TurnLatencies:
        self._talks(CallState.RESPONDING)
        turn = self._turn
        if turn.ended_at is None:
            return TurnLatencies()
        self._following()
        latencies = self._latencies(turn, turn.ended_at, at)
        self.totals.add(latencies)
        return latencies

    def _latencies(self, turn: _Turn, ended_at: float, at: float) -> TurnLatencies:
        """What services measured of themselves comes before what the frames show, which has the pipeline's own time in it."""
        silent_since = ended_at if turn.spoke_until is None else turn.spoke_until
        stt = agent = tts = None
        if turn.heard_at is not None and (turn.spoke_until is not None or turn.heard_at > ended_at):
            stt = max(0.0, turn.heard_at - silent_since)
        if turn.words_at is not None:
            agent = max(0.0, turn.words_at - max(ended_at, turn.heard_at or ended_at))
            tts = max(0.0, at - max(turn.words_at, ended_at))
        return TurnLatencies(
            stt=stt,
            agent=_time_of(turn, self._models, FIRST_WORD) or _time_of(turn, self._models, FIRST_BYTE) or agent,
            tts=_time_of(turn, self._voices - self._models, FIRST_BYTE) or tts,
            e2e=max(0.0, at - silent_since),
        )


def _time_of(turn: _Turn, services: set[str], kind: str) -> float | None:
    """The first time of this kind that one of these services measured."""
    return next(
        (seconds for (service, what), seconds in turn.times.items() if what == kind and service in services), None
    )


def _seconds(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and 0 <= value <= MOST_SECONDS else None
