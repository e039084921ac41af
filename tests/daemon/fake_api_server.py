"""A small API server that speaks what pod events use: list with pages, watch with bookmarks, a conditional patch, errors."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from coordinator.web.server import HttpServer, listen

NAMESPACE = "calls"
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
OF_REPLICA_SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "voice-6d4", "uid": "rs", "controller": True}
OF_STATEFUL_SET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "voice", "uid": "ss", "controller": True}


def terminated(at: datetime | None = None, reason: str = "Error") -> dict[str, Any]:
    """The state of a container that ended, by default now."""
    when = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"terminated": {"exitCode": 137, "reason": reason, "startedAt": None, "finishedAt": when}}


def pod_object(
    name: str,
    uid: str = "",
    owner: dict[str, Any] | None = OF_REPLICA_SET,
    phase: str = "Running",
    **states: dict[str, Any],
) -> dict[str, Any]:
    """A pod with a container ``worker`` that runs, or with the containers and states given."""
    states = states or {"worker": RUNNING}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid or f"uid-of-{name}",
            "resourceVersion": "1",
            "ownerReferences": [owner] if owner else [],
        },
        "spec": {"containers": [{"name": container, "image": "x"} for container in states]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": container, "state": state} for container, state in states.items()],
        },
    }


def ended(pod: dict[str, Any], phase: str = "Failed", at: datetime | None = None) -> dict[str, Any]:
    """The same pod as its kubelet leaves it: every container ended, then the phase."""
    pod = copy.deepcopy(pod)
    pod["status"]["phase"] = phase
    for container in pod["status"]["containerStatuses"]:
        container["state"] = terminated(at)
    return pod


class FakeApiServer:
    """Pods and what happened to them.

    Attributes:
        greeting: what every watch begins with.
        refuse: HTTP status that every request gets, 0 for none.
        patched: names of the pods that were annotated, each time.
        tokens: the Authorization headers that came.
        page: most pods that a list gives at a time.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 10
        self.refuse = 0
        self.greeting = b""
        self.page = 500
        self.patched: list[str] = []
        self.tokens: list[str] = []
        self.selectors: list[str | None] = []
        self.lists = self.watches = self.open_watches = 0
        self._forgotten = 0
        self._history: list[tuple[int, bytes]] = []
        self._changed = anyio.Event()
        self._end_watches = 0

    def put(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Makes or replaces a pod."""
        kind = "MODIFIED" if pod["metadata"]["name"] in self.pods else "ADDED"
        pod = self._tell(kind, pod)
        self.pods[pod["metadata"]["name"]] = pod
        return pod

    def delete(self, name: str) -> None:
        """Takes the pod away, whatever runs in it."""
        self._tell("DELETED", self.pods.pop(name))

    def bookmark(self) -> None:
        """Tells watchers how far they are."""
        self.version += 1
        self._send({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}})

    def forget(self) -> None:
        """Nobody can go on from a version of before now."""
        self.version += 1
        self._forgotten = self.version
        self._history.clear()

    def send_raw(self, line: bytes) -> None:
        """Sends a line to whoever watches now."""
        self._send_line(line)

    def end_watches(self) -> None:
        """Ends every open watch, as the server does after the time that was asked for."""
        self._end_watches += 1
        self._wake()

    def _tell(self, kind: str, pod: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        pod = copy.deepcopy(pod)
        pod["metadata"]["resourceVersion"] = str(self.version)
        self._send({"type": kind, "object": pod})
        return pod

    def _send(self, event: dict[str, Any]) -> None:
        self._send_line(json.dumps(event, ensure_ascii=False).encode())

    def _send_line(self, line: bytes) -> None:
        self._history.append((self.version, line + b"\n"))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _gone(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "status": "Failure",
            "reason": "Expired",
            "code": 410,
            "message": "too old resource version",
        }

    async def _get(self, request: Request) -> Response:
        self.tokens.append(request.headers.get("authorization", ""))
        self.selectors.append(request.query_params.get("labelSelector"))
        if self.refuse:
            return JSONResponse({"kind": "Status", "code": self.refuse, "message": "refused"}, self.refuse)
        if request.query_params.get("watch"):
            self.watches += 1
            return StreamingResponse(self._stream(int(request.query_params["resourceVersion"])))
        self.lists += 1
        start = int(request.query_params.get("continue", "0"))
        pods = list(self.pods.values())
        more = {"continue": str(start + self.page)} if start + self.page < len(pods) else {}
        items = [{k: v for k, v in pod.items() if k not in ("kind", "apiVersion")} for pod in pods]  # as the real one
        about = {"resourceVersion": str(self.version), **more}
        return JSONResponse({"kind": "PodList", "metadata": about, "items": items[start : start + self.page]})

    async def _stream(self, since: int) -> AsyncIterator[bytes]:
        if since < self._forgotten:
            yield json.dumps({"type": "ERROR", "object": self._gone()}).encode() + b"\n"
            return
        at = next((n for n, (version, _) in enumerate(self._history) if version > since), len(self._history))
        ends = self._end_watches
        self.open_watches += 1
        try:
            yield self.greeting
            while ends == self._end_watches:
                changed = self._changed
                while at < len(self._history):
                    yield self._history[at][1]
                    at += 1
                await changed.wait()
        finally:
            self.open_watches -= 1

    async def _patch(self, request: Request) -> Response:
        if self.refuse:
            return JSONResponse({"kind": "Status", "code": self.refuse, "message": "refused"}, self.refuse)
        assert request.headers["content-type"] == "application/merge-patch+json"
        about = json.loads(await request.body())["metadata"]
        pod = self.pods.get(request.path_params["name"])
        if pod is None:
            return JSONResponse({"kind": "Status", "code": 404, "message": "not found"}, 404)
        if about["resourceVersion"] != pod["metadata"]["resourceVersion"]:
            return JSONResponse({"kind": "Status", "code": 409, "message": "the object has been modified"}, 409)
        pod = copy.deepcopy(pod)
        pod["metadata"].setdefault("annotations", {}).update(about["annotations"])
        self.patched.append(pod["metadata"]["name"])
        return JSONResponse(self.put(pod))

    def application(self) -> Starlette:
        base = f"/api/v1/namespaces/{NAMESPACE}/pods"
        return Starlette(routes=[Route(base, self._get), Route(f"{base}/{{name}}", self._patch, methods=["PATCH"])])


@asynccontextmanager
async def fake_api_server(port: int = 0) -> AsyncIterator[FakeApiServer]:
    """Serves on loopback until left."""
    fake = FakeApiServer()
    with listen("127.0.0.1", port) as where:
        fake.url = f"http://127.0.0.1:{where.getsockname()[1]}"
        server = HttpServer(fake.application(), [where])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            try:
                yield fake
            finally:
                fake.end_watches()
                server.stop()
