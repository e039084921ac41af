"""The open stream of a worker: events as they happen, as lines of JSON or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.server import closed_by_peer, peer_process, when_closed

__all__ = ["EventStream"]


class EventStream:
    """Writes the events of one worker until the connection, the worker or this stream's turn ends.

    Args:
        server_sent: whether to write server-sent events.
        scope: of the request.
    """

    def __init__(self, hosted: Hosted, *, server_sent: bool, scope: Mapping[str, Any]) -> None:
        self._hosted, self._server_sent, self._scope = hosted, server_sent, scope
        self._woken = anyio.Event()
        self._woken.set()  # an event may wait already
        self._closed = False
        when_closed(scope, self._close)

    def _close(self) -> None:
        self._closed = True
        self._woken.set()

    def _wake(self) -> None:
        self._woken.set()

    async def __call__(self, send: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        """Writes the whole answer."""
        if self._closed:  # the client is gone: the worker's other stream, if it has one, goes on
            return
        hosted, queue = self._hosted, self._hosted.queue
        media_type = b"text/event-stream" if self._server_sent else b"application/x-ndjson"
        headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]
        with hosted.presence.attached():
            hosted.take_stream(self, peer_process(self._scope))
            queue.wake = self._wake
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            hello = {
                "event": "hello",
                "instance": hosted.handle,
                **hosted.presence.trust,
                "sessions": sorted(s.id for s in hosted.worker.sessions),
                "draining": hosted.worker.is_draining,
            }
            await self._write(send, [hello])
            while not self._closed and hosted.presence.is_stream(self):
                await self._woken.wait()
                self._woken = anyio.Event()
                if not hosted.presence.is_stream(self):
                    await self._write(send, [{"event": "replaced"}])
                    break
                while not self._closed and (events := queue.take()):
                    await self._write(send, events)
                if hosted.is_over and not queue:
                    break
            hosted.presence.leave_stream(self, closed_by_peer=closed_by_peer(self._scope))
        if not self._closed:
            await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Callable[[Mapping[str, Any]], Awaitable[None]], events: list[dict[str, Any]]) -> None:
        lines = [json.dumps(event, separators=(",", ":")) for event in events]
        if self._server_sent:
            kinds = [event["event"] for event in events]
            text = "".join(f"event: {kind}\ndata: {line}\n\n" for kind, line in zip(kinds, lines, strict=True))
        else:
            text = "".join(f"{line}\n" for line in lines)
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
