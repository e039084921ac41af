"""What a kubelet's preStop hook calls on DRAIN_PORT: GET /prestop, and nothing else."""

from __future__ import annotations

import json
from http import HTTPStatus

from coordinator.settings import Settings
from coordinator.sidecar.access import Access, headers_of
from coordinator.sidecar.dispatch import Receive, Scope, Send
from coordinator.sidecar.draining import Draining

__all__ = ["PreStop"]


class PreStop:
    """The ASGI application; a kubelet calls hooks by the pod's address, so the token in a header is all that protects it."""

    def __init__(self, settings: Settings, draining: Draining) -> None:
        self._settings, self._draining = settings, draining
        self._access = Access(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drains, then answers."""
        if scope["type"] != "http":
            return
        status, body = HTTPStatus.NOT_FOUND, {"detail": "there is GET /prestop here, and nothing else"}
        if not self._access.may_drain(headers_of(scope)):
            status, body = (
                HTTPStatus.UNAUTHORIZED,
                {"detail": "a valid DRAIN_TOKEN or API_TOKEN is needed, as Authorization: Bearer"},
            )
        elif (scope["method"], scope["path"]) == ("GET", "/prestop"):
            self._draining.start(self._settings.drain_timeout, "prestop")
            await self._draining.done()
            status, body = HTTPStatus.OK, self._draining.progress().model_dump(exclude_none=True)
        text = json.dumps(body).encode() + b"\n"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": text})
