"""The provider's websocket as the bot gets it: it falls silent at once, and tells what passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketState

from coordinator.adapters.pipecat.start_message import carries_audio, says_stop

__all__ = ["MediaSocket"]

CLOSE_SECONDS = 1.0
"""Time for the provider's answer when the socket is closed: it may be gone."""


class MediaSocket(WebSocket):
    """Any transport that takes an accepted websocket of Starlette or FastAPI takes this one.

    A message to the provider is asked for its right to be sent in the moment in which it is sent, wherever it waited before.

    Args:
        websocket: an accepted one.
        may_send: whether what the bot sends goes to the provider now; else it is dropped.
        heard: is called once, when the first audio for the caller was sent.

    Attributes:
        hung_up: set when the provider said that the stream is over.
        disconnected: set when the connection ended.
    """

    def __init__(
        self, websocket: WebSocket, may_send: Callable[[], bool], heard: Callable[[], None] | None = None
    ) -> None:
        super().__init__(websocket.scope, receive=self._hear, send=self._say)
        self.client_state, self.application_state = WebSocketState.CONNECTED, WebSocketState.CONNECTED
        self._outside, self._may_send, self._heard = websocket, may_send, heard
        self.hung_up, self.disconnected = anyio.Event(), anyio.Event()

    async def _hear(self) -> Message:
        message = await self._outside.receive()
        if message["type"] == "websocket.disconnect":
            self.disconnected.set()
        elif (text := message.get("text")) and says_stop(text):
            self.hung_up.set()
        return message

    async def _say(self, message: Message) -> None:
        if message["type"] != "websocket.send":
            await self._outside.send(message)
            return
        if not self._may_send():
            return
        await self._outside.send(message)
        if self._heard is not None and carries_audio(message.get("bytes") or message.get("text") or ""):
            heard, self._heard = self._heard, None
            heard()

    def silence(self) -> None:
        """From now on the bot's transport finds nobody at the other end: it sends nothing, and has no call to hang up."""
        self._may_send = _never
        self.client_state = WebSocketState.DISCONNECTED

    async def end(self, code: int, reason: str = "") -> None:
        """Closes the provider's connection; never raises. Safe to repeat."""
        self.silence()
        outside = self._outside
        if WebSocketState.DISCONNECTED in (outside.client_state, outside.application_state):
            return
        with anyio.move_on_after(CLOSE_SECONDS), contextlib.suppress(Exception):  # it may have closed it just now
            await outside.close(code, reason)


def _never() -> bool:
    return False
