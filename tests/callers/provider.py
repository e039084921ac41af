"""A telephony provider as Twilio's Media Streams have it: when the socket dies the call's instructions go on.

The instructions of each call are a stream to the door, and after it a redirect to the same instructions. When a worker dies the
call so connects again, to whichever worker is behind the door. Messages are those of Media Streams: ``connected``, ``start``,
``media`` from here, ``mark`` from the worker. Source: Twilio's documentation of <Connect><Stream> and of its WebSocket messages.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from coordinator import clock

__all__ = ["Call", "Outcome"]

FRAME_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 10.0
PATIENCE_SECONDS = 20.0
"""So long a caller listens to silence."""


@dataclass
class Outcome:
    """What became of one loss of a connection.

    Attributes:
        seconds: from the loss until the call was resumed; None when the caller hung up.
        attempts: connections that were tried.
        saved: sequence of the last checkpoint that the worker reported before.
        resumed: sequence at which the next worker went on.
    """

    saved: int
    attempts: int = 0
    seconds: float | None = None
    resumed: int = -1


@dataclass
class Call:
    """A caller.

    Args:
        call_sid: of the call.
        door: returns the URL of whichever worker is behind it now.
        base: seconds of the first pause between two attempts; doubled each time, at most ten seconds.
    """

    call_sid: str
    door: Callable[[], str]
    base: float
    saved: int = 0
    connected: int = 0
    port: int = 0
    hung_up: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    _streams: Any = field(default_factory=lambda: itertools.count(1))

    async def run(self) -> None:
        """Runs the call's instructions until cancelled, or until the caller hangs up."""
        attempts, lost_at = 0, clock.now()
        while True:
            attempts += 1
            try:
                async with connect(self.door(), open_timeout=5, max_queue=64) as socket:
                    await self._stream(socket, attempts, lost_at)
            except (OSError, WebSocketException, TimeoutError):
                pass
            if self.connected:  # it was up, and died: the rest of the instructions runs at once
                self.connected = 0
                attempts, lost_at = 0, clock.now()
                self.outcomes.append(Outcome(self.saved))
            elif clock.now() - lost_at > PATIENCE_SECONDS:
                self.hung_up = True
                return
            else:
                await anyio.sleep(min(LONGEST_PAUSE_SECONDS, self.base * 2 ** (attempts - 1)))

    async def _stream(self, socket: Any, attempts: int, lost_at: float) -> None:
        stream = f"MZ{self.call_sid}{next(self._streams)}"
        numbers = itertools.count(1)

        async def say(event: str, **fields: Any) -> None:
            await socket.send(
                json.dumps({"event": event, "sequenceNumber": str(next(numbers)), "streamSid": stream, **fields})
            )

        await say("connected", protocol="Call", version="1.0.0")
        await say("start", start={"callSid": self.call_sid, "streamSid": stream, "tracks": ["inbound"]})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._speak, say)
            with contextlib.suppress(WebSocketException):
                async for text in socket:
                    self._hear(json.loads(text), attempts, lost_at)
            tasks.cancel_scope.cancel()

    async def _speak(self, say: Any) -> None:
        try:
            while True:
                await say("media", media={"track": "inbound", "payload": "//8="})
                await anyio.sleep(FRAME_SECONDS)
        except WebSocketException:
            return

    def _hear(self, message: dict[str, Any], attempts: int, lost_at: float) -> None:
        if message["event"] != "mark":
            return
        what, _, number = message["mark"]["name"].partition(":")
        if what == "resumed":
            self.connected, self.port = 1, int(message["port"])
            if self.outcomes and self.outcomes[-1].seconds is None:
                outcome = self.outcomes[-1]
                outcome.attempts, outcome.seconds, outcome.resumed = attempts, clock.now() - lost_at, int(number)
        elif what == "saved":
            self.saved = max(self.saved, int(number))
