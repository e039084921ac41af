"""Stand-ins for the models of an agent, so that the example runs without any: an LLM that counts, and a voice that is a tone."""

import math
import struct
from typing import Any

from livekit.agents import APIConnectOptions, llm, tts
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS

RATE = 24_000


class Counting(llm.LLM):
    """Answers with the number of things that the caller has said: it knows them from the context alone."""

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: Any = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: Any,
    ) -> llm.LLMStream:
        return _Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _Answer(llm.LLMStream):
    async def _run(self) -> None:
        said = sum(item.type == "message" and item.role == "user" for item in self.chat_ctx.items)
        delta = llm.ChoiceDelta(role="assistant", content=f"That was number {said}.")
        self._event_ch.send_nowait(llm.ChatChunk(id=f"answer-{said}", delta=delta))


class Tone(tts.TTS):
    """Says everything with half a second of one tone."""

    def __init__(self, pitch: float = 500.0) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=RATE, num_channels=1)
        self.pitch = pitch

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        return _Sound(tts=self, input_text=text, conn_options=conn_options)


class _Sound(tts.ChunkedStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        pitch = self._tts.pitch  # type: ignore[attr-defined]
        samples = [int(8000 * math.sin(2 * math.pi * pitch * n / RATE)) for n in range(RATE // 2)]
        output_emitter.initialize(request_id="tone", sample_rate=RATE, num_channels=1, mime_type="audio/pcm")
        output_emitter.push(struct.pack(f"<{len(samples)}h", *samples))
        output_emitter.flush()
