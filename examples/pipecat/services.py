"""Stand-ins for the services of a bot, so that the example runs without any account: keys, a model that counts, and a tone.

Put your speech-to-text, your model and your text-to-speech in their places (`DeepgramSTTService`, `OpenAILLMService`, …).
"""

import math
import struct

from pipecat.frames.frames import (
    Frame,
    InputDTMFFrame,
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
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

RATE = 8000
TONE = [round(8000 * math.sin(2 * math.pi * 440 * n / RATE)) for n in range(RATE // 50)]  # 20 ms


class Keys(FrameProcessor):
    """Takes a key that the caller presses for a sentence."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputDTMFFrame):
            await self.push_frame(UserStartedSpeakingFrame())
            await self.push_frame(TranscriptionFrame(f"key {frame.button.value}", "caller", ""))
            await self.push_frame(UserStoppedSpeakingFrame())
        else:
            await self.push_frame(frame, direction)


class Counting(FrameProcessor):
    """Answers with the number of things that the caller has said."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            said = sum(message["role"] == "user" for message in frame.context.get_messages())
            await self.push_frame(LLMFullResponseStartFrame())
            await self.push_frame(LLMTextFrame(f"That was number {said}."))
            await self.push_frame(LLMFullResponseEndFrame())
        else:
            await self.push_frame(frame, direction)


class Tone(FrameProcessor):
    """Says everything as half a second of a tone."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMTextFrame | TTSSpeakFrame):
            await self.push_frame(TTSStartedFrame())
            for _ in range(25):
                await self.push_frame(TTSAudioRawFrame(struct.pack(f"<{len(TONE)}h", *TONE), RATE, 1))
            await self.push_frame(TTSStoppedFrame())
