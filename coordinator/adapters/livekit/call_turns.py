"""What a turn took and what the call is doing, as LiveKit tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coordinator.voice.kept_turns import KeptTurns
from coordinator.voice.latencies import TurnLatencies
from coordinator.voice.progress import CallState

__all__ = ["CallTurns"]

STATES = {"listening": CallState.LISTENING, "thinking": CallState.PROCESSING, "speaking": CallState.RESPONDING}
"""What an agent's state means; others are about its beginning."""


class CallTurns(KeptTurns):
    """One per call. Pure: what it knows goes to an heir as `to_data` has it."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self._heard: float | None = None

    def agent_is(self, state: str) -> None:
        """The agent's state changed."""
        if state in STATES:
            self.moves_to(STATES[state])

    def caller_is(self, state: str) -> None:
        """The caller's state changed; who speaks has the word."""
        if state == "speaking":
            self.moves_to(CallState.LISTENING)

    def said(self, role: str, metrics: Mapping[str, Any]) -> tuple[TurnLatencies, float]:
        """Something was said.

        Args:
            metrics: of LiveKit's ``ChatMessage``, in seconds: of a caller's message and of the answer to it.

        Returns:
            What the turn took, as far as it is known, and how long the agent spoke; nothing is known of a caller's own turn.
        """
        if role == "user":
            self._heard = _seconds(metrics, "transcription_delay")
            return TurnLatencies(), 0.0
        latencies = TurnLatencies(
            stt=self._heard,
            agent=_seconds(metrics, "llm_node_ttft"),
            tts=_seconds(metrics, "tts_node_ttfb"),
            e2e=_seconds(metrics, "e2e_latency"),
        )
        self._heard = None
        self.totals.add(latencies)
        began, ended = _seconds(metrics, "started_speaking_at"), _seconds(metrics, "stopped_speaking_at")
        return latencies, max(0.0, (ended or 0.0) - (began or 0.0)) if began and ended else 0.0


def _seconds(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if known and isinstance(value, int | float) else None
