"""The provider's end of a websocket inside the test's own process, and contexts as Pipecat's are used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import anyio
from starlette.websockets import WebSocket

__all__ = ["FakeContext", "Line", "start_of"]


def start_of(call_sid: str, stream: str = "MZ1") -> dict[str, Any]:
    """Twilio's start message."""
    return {"event": "start", "streamSid": stream, "start": {"callSid": call_sid, "streamSid": stream}}


class Line:
    """One connection.

    Attributes:
        websocket: the server's end, not accepted yet.
        sent: texts that came from the server.
        code: of the close frame; 0 while it is open.
    """

    def __init__(self, *messages: object) -> None:
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[str] = []
        self.code = 0
        self.closed = anyio.Event()
        self._to_server.put_nowait({"type": "websocket.connect"})
        for message in messages:
            self.say(message)
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": []}
        self.websocket = WebSocket(scope, receive=self._to_server.get, send=self._hear)

    async def _hear(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            self.sent.append(message.get("text") or message["bytes"].decode())
        elif message["type"] == "websocket.close":
            self.code = message["code"]
            self.closed.set()
            self._to_server.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

    def say(self, message: object) -> None:
        """The provider says this."""
        text = message if isinstance(message, str) else json.dumps(message)
        self._to_server.put_nowait({"type": "websocket.receive", "text": text})

    def stop(self) -> None:
        """The caller hangs up."""
        self.say({"event": "stop", "stop": {}})
        self.drop()

    def drop(self) -> None:
        """The connection breaks."""
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": 1006})


class FakeContext:
    """What a call uses of an ``LLMContext``."""

    def __init__(self, messages: Sequence[Any] = ()) -> None:
        self.messages = [*messages]

    def get_messages(self) -> list[Any]:
        return self.messages

    def set_messages(self, messages: Sequence[Any]) -> None:
        self.messages[:] = messages
