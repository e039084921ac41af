"""A caller at a provider whose instructions connect the call again when its stream ends, and who says what was heard."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

__all__ = ["Caller", "Stream"]

PAUSE_SECONDS = 0.1


@dataclass
class Stream:
    """One connection.

    Attributes:
        door: its URL.
        frames: frames that came.
        marks: frames of the whole call to which marks led, in their order.
        code: with which it was closed; None while it is open, 1006 where nobody said anything.
    """

    door: str
    frames: int = 0
    marks: list[int] = field(default_factory=list)
    code: int | None = None


class Caller:
    """Threads of its own, until `close`.

    Args:
        call: its id.
        doors: URLs that it tries one after the other, until it is closed; the list may grow.

    Attributes:
        streams: its connections that were accepted as a WebSocket, in their order.
    """

    def __init__(self, call: str, doors: list[str]) -> None:
        self._call, self._doors = call, doors
        self.streams: list[Stream] = []
        self._open: list[ClientConnection] = []
        self._numbers, self._over = itertools.count(1), threading.Event()
        self._threads: list[threading.Thread] = []
        self.connect()

    def connect(self) -> None:
        """Begins the call's instructions anew, while a stream may hang; when that ends, nothing follows it."""
        self._threads.append(threading.Thread(target=self._run, daemon=True))
        self._threads[-1].start()

    @property
    def heard(self) -> list[Stream]:
        """The streams of which something was heard."""
        return [stream for stream in self.streams if stream.frames]

    def hang_up(self) -> None:
        """Ends the call, as a provider tells of it."""
        self._over.set()
        for socket in self._open:
            with suppress(WebSocketException):
                socket.send(json.dumps({"event": "stop"}))

    def _run(self) -> None:
        while not self._over.is_set():
            for door in list(self._doors):
                with suppress(OSError, WebSocketException), connect(door, open_timeout=5, ping_interval=None) as socket:
                    self._open.append(socket)
                    self._listen(socket, Stream(door))
                if self._over.is_set() or threading.current_thread() is not self._threads[-1]:
                    return
            self._over.wait(PAUSE_SECONDS)

    def _listen(self, socket: ClientConnection, stream: Stream) -> None:
        self.streams.append(stream)
        start = {"callSid": self._call, "streamSid": f"{self._call}-{next(self._numbers)}"}
        try:
            socket.send(json.dumps({"event": "connected"}))
            socket.send(json.dumps({"event": "start", "start": start}))
            for text in socket:
                message = json.loads(text)
                assert message["streamSid"] == start["streamSid"]
                if message["event"] == "media":
                    stream.frames += 1
                else:
                    stream.marks.append(int(message["mark"]["name"]))
                    socket.send(text)
        finally:
            stream.code = socket.close_code or 1006

    def close(self) -> None:
        self._over.set()
        for socket in self._open:
            socket.close()
        for thread in self._threads:
            thread.join()
