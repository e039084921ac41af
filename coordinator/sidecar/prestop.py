"""The handler of a kubelet's preStop hook on DRAIN_PORT: GET /prestop, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from coordinator.settings import Settings
from coordinator.sidecar.access import SidecarAccess, headers_of
from coordinator.sidecar.draining import SidecarDrain
from coordinator.sidecar.problems import MEDIA_TYPE, Problem
from coordinator.web.gate import Receive, Scope, Send

__all__ = ["PreStop"]


class PreStop:
    """The ASGI application; a kubelet calls hooks by the pod's address, so only the token in a header protects it."""

    def __init__(self, settings: Settings, draining: SidecarDrain) -> None:
        self._settings, self._draining = settings, draining
        self._access = SidecarAccess(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drains, then answers."""
        if scope["type"] != "http":
            return
        try:
            done = await self._drain(scope)
        except Problem as problem:
            await _send(send, problem.status, MEDIA_TYPE, problem.document(), problem.headers)
        else:
            await _send(send, HTTPStatus.OK, "application/json", done, {})

    async def _drain(self, scope: Scope) -> dict[str, Any]:
        if not self._access.may_drain(headers_of(scope)):
            raise Problem(
                HTTPStatus.UNAUTHORIZED, "a valid DRAIN_TOKEN or API_TOKEN is needed, as Authorization: Bearer",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if (scope["method"], scope["path"]) != ("GET", "/prestop"):
            raise Problem(HTTPStatus.NOT_FOUND, "this port serves only GET /prestop")
        self._draining.start(self._settings.drain_timeout, "prestop")
        await self._draining.done()
        return self._draining.progress().model_dump(exclude_none=True)


async def _send(
    send: Send, status: HTTPStatus, media_type: str, document: Mapping[str, Any], more: Mapping[str, str]
) -> None:
    text = json.dumps(document).encode() + b"\n"
    headers = {"Content-Type": media_type, "Content-Length": str(len(text)), **more}
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": lines})
    await send({"type": "http.response.body", "body": text})
