"""A caller on a provider's media streams: connects to a door, and again wherever a connection ends, as the call's instructions say.

It speaks Twilio's protocol, with the messages ``connected``, ``start``, ``media``, ``dtmf`` and ``stop``, and hears what workers
say: each has a loudness of its own.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

__all__ = ["Caller", "Heard"]

FRAME_SECONDS = 0.02
SILENCE = base64.b64encode(b"\xff" * 160).decode()
AGAIN_SECONDS = 0.05
LOUD = 100


def _linear(byte: int) -> int:
    """A sample of G.711 mu-law as 16 bits."""
    byte = ~byte & 0xFF
    sample = (((byte & 0x0F) << 3) + 0x84) << ((byte & 0x70) >> 4)
    return 0x84 - sample if byte & 0x80 else sample - 0x84


LOUDNESS = [abs(_linear(byte)) for byte in range(256)]


@dataclass(frozen=True)
class Heard:
    """A piece of audio that is no silence."""

    at: float
    level: int
    connection: int
    seconds: float


@dataclass
class Caller:
    """One call.

    Args:
        door: returns the URL to connect to now.

    Attributes:
        heard: the audio, as it came.
        ends: when connections ended, with their numbers and the code of the close frame; 1006 without one.
        hung_up: whether the caller is gone.
    """

    call_sid: str
    door: Callable[[], str]
    heard: list[Heard] = field(default_factory=list)
    ends: list[tuple[float, int, int]] = field(default_factory=list)
    connects: int = 0
    hung_up: bool = False
    again: bool = True
    _sockets: dict[int, Any] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def run(self) -> None:
        """Keeps a connection until the caller hangs up."""
        while not self.hung_up:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                await self.connect_once()
            if not self.again:
                return
            await anyio.sleep(AGAIN_SECONDS)

    async def connect_once(self) -> None:
        """One connection, to its end."""
        async with connect(self.door(), open_timeout=10, max_queue=None, close_timeout=1) as socket:
            self.connects += 1
            number = self.connects
            self._sockets[number] = socket
            stream = f"MZ{self.call_sid}{number}"
            await self._say(number, "connected", protocol="Call", version="1.0.0")
            await self._say(
                number, "start", streamSid=stream,
                start={"callSid": self.call_sid, "streamSid": stream, "accountSid": "AC1", "tracks": ["inbound"],
                       "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}, "customParameters": {}},
            )  # fmt: skip
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._speak, number)
                with contextlib.suppress(WebSocketException):
                    async for text in socket:
                        self._hear(json.loads(text), number)
                tasks.cancel_scope.cancel()
            self._sockets.pop(number, None)
            self.ends.append((time.monotonic(), number, socket.close_code or 1006))

    async def _say(self, number: int, event: str, **fields: Any) -> None:
        message = {"event": event, "sequenceNumber": str(next(self._numbers)), **fields}
        await self._sockets[number].send(json.dumps(message))

    async def _speak(self, number: int) -> None:
        with contextlib.suppress(WebSocketException, KeyError):
            while True:
                await self._say(number, "media", media={"track": "inbound", "payload": SILENCE})
                await anyio.sleep(FRAME_SECONDS)

    def _hear(self, message: dict[str, Any], number: int) -> None:
        if message["event"] != "media":
            return
        samples = base64.b64decode(message["media"]["payload"])
        level = sorted(LOUDNESS[one] for one in samples)[len(samples) // 2] if samples else 0
        if level > LOUD:
            self.heard.append(Heard(time.monotonic(), level, number, len(samples) / 8000))

    @property
    def is_connected(self) -> bool:
        """Whether a connection is up."""
        return bool(self._sockets)

    async def press(self, key: str) -> None:
        """Presses a key, on the newest connection."""
        await self._say(max(self._sockets), "dtmf", dtmf={"track": "inbound_track", "digit": key})

    async def hang_up(self) -> None:
        """Ends the call."""
        self.hung_up = True
        for number in list(self._sockets):
            with contextlib.suppress(WebSocketException):
                await self._say(number, "stop", stop={"callSid": self.call_sid})
                await self._sockets[number].close()

    async def drop(self) -> None:
        """Breaks the newest connection, as a bad line does: nothing is said."""
        self._sockets[max(self._sockets)].transport.abort()

    def heard_after(self, then: float, level: int) -> Heard | None:
        """The first that a worker said after that time, by its level."""
        return next((one for one in self.heard if one.at > then and abs(one.level - level) < level / 4), None)
