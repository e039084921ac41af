"""What each request passes before it is answered: it must be a plain request, and each kind has room of its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from coordinator.web.connections import LISTENER, Connections

__all__ = ["PROBLEM", "Gate", "KindOf", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
KindOf = Callable[[Scope], str]

PROBLEM = "application/problem+json"
"""Media type of every answer that replaces the one that was asked for (RFC 9457)."""
RETRY_AFTER_SECONDS = b"1"
CLOSE = (b"connection", b"close")


class Gate:
    """An ASGI application around another one.

    Args:
        kind_of: the kind of a request, by which it has room.
        most_body: bytes of a body for which it waits; the application answers longer ones.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], kind_of: KindOf, most_body: int) -> None:
        self._app, self._kind_of, self._most_body = app, kind_of, most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            return
        refusal = _refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal, (CLOSE,))
            return
        came = await self._body(receive)
        if came is None:
            return
        listener: Connections | None = scope["state"].get(LISTENER)
        kind = self._kind_of(scope)
        if listener is None or not listener.enter(kind):
            text = f"too many requests of the kind {kind!r} are being answered: ask again"
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE, text, ((b"retry-after", RETRY_AFTER_SECONDS),))
            return
        try:
            await self._app(scope, _first(came, receive), send)
        finally:
            listener.finish(kind)

    async def _body(self, receive: Receive) -> list[MutableMapping[str, Any]] | None:
        """The body as it came: a request takes up room when it is whole, not while its client is slow. None: the client went away."""
        came: list[MutableMapping[str, Any]] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            came.append(message)
            size += len(message.get("body", b""))
            if not message.get("more_body") or size > self._most_body:
                return came


def _first(came: list[MutableMapping[str, Any]], receive: Receive) -> Receive:
    waiting = list(reversed(came))

    async def next_one() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return next_one


def _refusal(scope: Scope) -> tuple[HTTPStatus, str] | None:
    """Why a request is refused by its head alone; None when it is not."""
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
        # A program in between may see the end of this request elsewhere than this side does (RFC 9112, 6.1).
        return HTTPStatus.BAD_REQUEST, "a body has a length or is chunked, not both, and is not chunked in HTTP/1.0"
    if b"origin" in names:
        return HTTPStatus.FORBIDDEN, "pages of a browser have no access: a request with an Origin header is refused"
    return None


async def _answer(send: Send, status: HTTPStatus, detail: str, more: tuple[tuple[bytes, bytes], ...]) -> None:
    document = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    text = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    headers = [
        (b"content-type", PROBLEM.encode()),
        (b"content-length", str(len(text)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": text})
