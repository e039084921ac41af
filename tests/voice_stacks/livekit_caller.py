"""A caller: joins a room, says nothing, and writes down what it hears, 20 ms by 20 ms."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from livekit import api, rtc

from tests.voice_stacks.livekit_server import KEY, SECRET
from tests.voice_stacks.tone import RATE, heard

__all__ = ["Caller", "Hearing"]

STEP_SECONDS = 0.02


@dataclass
class Hearing:
    """What was heard: times of `time.monotonic` of loud frames, by pitch."""

    frames: dict[int, list[float]] = field(default_factory=dict)

    def hear(self, pitch: int, at: float) -> None:
        self.frames.setdefault(pitch, []).append(at)

    def last(self, pitch: int, before: float = float("inf")) -> float:
        return max((at for at in self.frames.get(pitch, []) if at <= before), default=float("-inf"))

    def first(self, pitch: int, after: float) -> float | None:
        """When a pitch was first heard after a time."""
        return min((at for at in self.frames.get(pitch, []) if at >= after), default=None)

    def longest_silence(self, begin: float, end: float) -> float:
        times = sorted(at for some in self.frames.values() for at in some if begin <= at <= end)
        return max((after - before for before, after in zip([begin, *times], [*times, end], strict=True)), default=0.0)

    def two_voices(self, one: int, other: int) -> float:
        """Seconds in which both were heard."""
        slots = [{round(at / STEP_SECONDS) for at in self.frames.get(pitch, [])} for pitch in (one, other)]
        return len(slots[0] & slots[1]) * STEP_SECONDS


class Caller:
    """One caller in one room."""

    def __init__(self, url: str, room: str) -> None:
        self.url, self.room_name = url, room
        self.hearing = Hearing()
        self._room = rtc.Room()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Caller:
        token = (
            api.AccessToken(KEY, SECRET)
            .with_identity(f"caller-{self.room_name}")
            .with_grants(api.VideoGrants(room_join=True, room=self.room_name))
            .to_jwt()
        )
        self._room.on("track_subscribed", self._subscribed)
        await self._room.connect(self.url, token)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._room.disconnect()

    async def dispatch(self, agent: str, metadata: str = "") -> None:
        async with api.LiveKitAPI(self.url.replace("ws", "http", 1), KEY, SECRET) as lk:
            await lk.agent_dispatch.create_dispatch(
                api.CreateAgentDispatchRequest(agent_name=agent, room=self.room_name, metadata=metadata)
            )

    def _subscribed(self, track: rtc.Track, *_: object) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            task = asyncio.create_task(self._listen(track))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1, frame_size_ms=20)
        async for event in stream:
            now = time.monotonic()
            for pitch in heard(bytes(event.frame.data)):
                self.hearing.hear(pitch, now)

    async def say(self, text: str) -> None:
        """Says something in writing, which agents take for speech."""
        await self._room.local_participant.send_text(text, topic="lk.chat")

    @property
    def participants(self) -> list[str]:
        return sorted(self._room.remote_participants)
