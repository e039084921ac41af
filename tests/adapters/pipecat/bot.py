"""A bot of real Pipecat whose services are stand-ins: keys are what the caller says, the model counts, the voice is a tone."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from typing import Any

import anyio
from pipecat.frames.frames import (
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies

try:
    from pipecat.frames.frames import EndWorkerFrame
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
except ImportError:  # before 1.3
    from pipecat.frames.frames import EndTaskFrame as EndWorkerFrame
    from pipecat.pipeline.task import PipelineParams
    from pipecat.pipeline.task import PipelineTask as PipelineWorker

__all__ = ["RATE", "SYSTEM", "BrokenSpeechError", "Voice", "context_of", "pipeline_of", "serializer_of", "transport_of"]

RATE = 8000
SYSTEM = "You count turns."
CHUNK_SECONDS = 0.02
SENTENCE_SECONDS = 0.5
LONG_SECONDS = 30.0
LONG_KEY, END_KEY, HANG_KEY, FATAL_KEY, TOOL_KEY = "9", "0", "8", "7", "6"


class BrokenSpeechError(RuntimeError):
    """What the bot raises when it is told to."""


class Ears(FrameProcessor):
    """Takes each key for a sentence of the caller's."""

    def __init__(self, keys: Callable[[str], None]) -> None:
        super().__init__()
        self._keys = keys

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputDTMFFrame):
            await self.push_frame(frame, direction)
            return
        key = frame.button.value
        self._keys(key)
        if key == FATAL_KEY:
            await self.push_error("the ears are broken", fatal=True)
            return
        await self.push_frame(UserStartedSpeakingFrame())
        await self.push_frame(InterruptionFrame())
        await self.push_frame(TranscriptionFrame(text=f"key {key}", user_id="caller", timestamp="now"))
        await self.push_frame(UserStoppedSpeakingFrame())


class Model(FrameProcessor):
    """Says how many turns the caller has had."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        said = [one["content"] for one in frame.context.get_messages() if one["role"] == "user"]
        if said and said[-1] == f"key {HANG_KEY}":
            await anyio.sleep_forever()
        await self.push_frame(LLMFullResponseStartFrame())
        text = "long" if said and said[-1] == f"key {LONG_KEY}" else "turn"
        await self.push_frame(LLMTextFrame(text=f"{text} {len(said)}"))
        await self.push_frame(LLMFullResponseEndFrame())
        if said and said[-1] == f"key {END_KEY}":
            await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)


class Voice(FrameProcessor):
    """Says each sentence as a tone of a loudness of its own, by which a caller tells workers apart.

    Args:
        level: of 16 bits.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def _tone(self, seconds: float) -> list[bytes]:
        samples = [
            round(self._level * math.copysign(1, math.sin(math.pi * n / 8 + 0.1)))
            for n in range(int(RATE * CHUNK_SECONDS))
        ]
        return [struct.pack(f"<{len(samples)}h", *samples)] * round(seconds / CHUNK_SECONDS)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMTextFrame | TTSSpeakFrame):
            seconds = LONG_SECONDS if frame.text.startswith("long") else SENTENCE_SECONDS
            await self.push_frame(TTSStartedFrame())
            for chunk in self._tone(seconds):
                await self.push_frame(TTSAudioRawFrame(audio=chunk, sample_rate=RATE, num_channels=1))
            await self.push_frame(TTSStoppedFrame())


class ReportingSerializer(TwilioFrameSerializer):
    """Tells of a hang-up in the place of asking Twilio for it."""

    told: Callable[[], None]

    async def _hang_up_call(self) -> None:
        self.told()


def serializer_of(stream_id: str, call_id: str, hung_up: Callable[[], None]) -> Any:
    """Twilio's, which hangs up when its pipeline ends."""
    serializer = ReportingSerializer(stream_id, call_id, account_sid="AC1", auth_token=os.environ.get("TOKEN", "none"))
    serializer.told = hung_up
    return serializer


def transport_of(websocket: Any, serializer: Any) -> Any:
    """The transport for FastAPI's websockets."""
    return FastAPIWebsocketTransport(
        websocket, FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer)
    )


def context_of() -> Any:
    """The context of a new call."""
    return LLMContext([{"role": "system", "content": SYSTEM}])


def pipeline_of(transport: Any, context: Any, level: int, keys: Callable[[str], None] = lambda _: None) -> Any:
    """The pipeline's worker or task."""
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
    )
    pipeline = Pipeline([transport.input(), Ears(keys), user, Model(), Voice(level), transport.output(), assistant])
    return PipelineWorker(
        pipeline, params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE), enable_rtvi=False
    )
