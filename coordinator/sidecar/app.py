"""From an ASGI request to an operation and back."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import anyio
import structlog
from prometheus_client import Counter

from coordinator.errors import CoordinatorError
from coordinator.printable import told, trace
from coordinator.sidecar.access import SidecarAccess, headers_of
from coordinator.sidecar.callers import Asker
from coordinator.sidecar.gate import CallerGate
from coordinator.sidecar.hosted import hash_of
from coordinator.sidecar.idempotency import Answered
from coordinator.sidecar.problems import MEDIA_TYPE, Problem, problem_of
from coordinator.sidecar.requests import IDEMPOTENCY_KEY, read_body, read_parameters
from coordinator.sidecar.routing import HttpCall, HttpReply, Operation, Table
from coordinator.sidecar.server import kind_of, peer_uid, when_closed
from coordinator.web.access import OPEN_TO_ALL
from coordinator.web.connections import LISTENER, Connections
from coordinator.web.gate import Receive, Scope, Send
from coordinator.web.seldom import Seldom

__all__ = ["App"]

log = structlog.get_logger()

MOST_QUERY_BYTES = 2048
MOST_HEAD_BYTES = 16 * 1024


class App:
    """The ASGI application: operations of a table, and another application for all other paths.

    Args:
        access: decides which requests are let in at all.
        gate: decides which callers may call an operation.
        rest: answers paths that the table does not have.
        most_body: bytes that a body may have.
        failures: counts answers to unexpected errors, by operation.
    """

    def __init__(
        self,
        table: Table,
        access: SidecarAccess,
        gate: CallerGate,
        rest: Callable[..., Awaitable[None]],
        most_body: int,
        failures: Counter,
    ) -> None:
        self._table, self._access, self._gate, self._rest = table, access, gate, rest
        self._most_body, self._failures = most_body, failures
        self._answered = Answered()
        self._seldom = Seldom()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            return
        name = "unknown"
        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD_BYTES:
                raise Problem(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"headers may have {MOST_HEAD_BYTES} bytes in all",
                    headers={"Connection": "close"},
                )  # fmt: skip
            headers = headers_of(scope)
            raw_path = scope["raw_path"].decode("ascii")
            if raw_path not in OPEN_TO_ALL:
                self._access.check(scope, headers)
            found = self._table.find(scope["method"], raw_path)
            if found is None:
                if raw_path.startswith("/v1/"):
                    raise Problem(HTTPStatus.NOT_FOUND, f"no such endpoint: {raw_path[:200]}")
                await self._rest(scope, receive, send)
                return
            operation, path = found
            name = operation.name
            answer = await self._run(operation, path, headers, scope, receive)
            if isinstance(answer, HttpReply):
                await _send(send, answer)
            else:
                await answer(send)
        except Problem as problem:
            await _send_problem(send, problem)
        except Exception as error:  # noqa: BLE001 - the other requests are answered
            self._failures.labels(name).inc()
            if times := self._seldom.count(name):
                log.error("request_failed", operation=name, times=times, error=told(error), exception=trace(error))
            await _send_problem(
                send, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error: see the sidecar's log")
            )

    async def _run(
        self,
        operation: Operation,
        path: dict[str, str],
        headers: Mapping[str, list[str]],
        scope: Scope,
        receive: Receive,
    ) -> Any:
        asker = await self._admit(operation, path, scope, headers)
        listener: Connections | None = scope["state"].get(LISTENER)
        if listener is None or asker.worker is None:
            return await self._answer(operation, path, headers, scope, receive, asker)
        kind = kind_of(scope)
        with listener.counted(kind, asker.worker.handle) as fits:
            if not fits:
                raise Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE, f"too many requests of the kind {kind!r} by {asker.worker.handle} "
                    "are being answered: ask again", headers={"Retry-After": "1"},
                )  # fmt: skip
            return await self._answer(operation, path, headers, scope, receive, asker)

    async def _answer(
        self,
        operation: Operation,
        path: dict[str, str],
        headers: Mapping[str, list[str]],
        scope: Scope,
        receive: Receive,
        asker: Asker,
    ) -> Any:
        if len(scope["query_string"]) > MOST_QUERY_BYTES:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the query is longer than {MOST_QUERY_BYTES} bytes")
        query = _query_of(scope["query_string"])
        raw = await self._body(receive, headers)
        known = (*operation.headers, *((IDEMPOTENCY_KEY,) if operation.takes_key else ()))
        call = HttpCall(
            operation, path, read_parameters(operation.query, query), read_parameters(known, headers),
            read_body(operation.body, raw) if operation.body else None, scope, asker,
        )  # fmt: skip
        key = call.headers.get(IDEMPOTENCY_KEY.name)
        if not operation.changes:  # a request that only waits ends with its client
            with anyio.CancelScope() as waiting:
                when_closed(scope, waiting.cancel)
                return await self._handle(call)
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the client went away")
        if key is None:
            return await self._handle(call)
        parts = (operation.name, scope["raw_path"], scope["query_string"], raw, str(headers.get("if-match")))
        fingerprint = hashlib.sha256(repr(parts).encode()).digest()

        async def run() -> HttpReply:
            answer = await self._handle(call)
            assert isinstance(answer, HttpReply)  # noqa: S101 - an operation whose answer is a stream takes no key
            return answer

        return await self._answered.once(_who(call), key, fingerprint, run)

    async def _admit(
        self, operation: Operation, path: dict[str, str], scope: Scope, headers: Mapping[str, list[str]]
    ) -> Asker:
        try:
            return await self._gate.admit(operation, path, scope, headers)
        except CoordinatorError as error:
            raise problem_of(error) from error

    async def _handle(self, call: HttpCall) -> Any:
        try:
            self._gate.check_owner(call)
            return await call.operation.handler(call)
        except CoordinatorError as error:
            raise problem_of(error) from error

    async def _body(self, receive: Receive, headers: Mapping[str, list[str]]) -> bytes:
        announced = headers.get("content-length", ["0"])[0]
        if announced.isdigit() and int(announced) > self._most_body:
            raise self._too_large()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the request was not complete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most_body:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> Problem:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have at most {self._most_body} bytes",
            headers={"Connection": "close"},
        )  # fmt: skip


def _who(call: HttpCall) -> str:
    """The identity to which an answer may be given again: the same worker, by the same way in."""
    client = call.scope.get("client") or ("",)
    door = f"unix:{peer_uid(call.scope)}" if client[0] == "unix" else client[0]
    return f"{door} {call.asker.worker.handle if call.asker.worker else hash_of(call.asker.token)}"


def _query_of(raw: bytes) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = {}
        for name, value in urllib.parse.parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=32):
            found.setdefault(name.lower(), []).append(value)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the query cannot be read: {error}") from None
    return found


async def _send(send: Send, reply: HttpReply) -> None:
    body = reply.document
    await _send_bytes(send, reply.status, body, "application/json" if body else "", reply.headers)


async def _send_problem(send: Send, problem: Problem) -> None:
    await _send_bytes(send, problem.status, _json(problem.document()), MEDIA_TYPE, problem.headers)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


async def _send_bytes(send: Send, status: int, body: bytes, media_type: str, headers: Mapping[str, str]) -> None:
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    if media_type:
        lines.append((b"content-type", media_type.encode()))
    if status != HTTPStatus.NO_CONTENT:
        lines.append((b"content-length", str(len(body)).encode()))
    lines.append((b"cache-control", b"no-store"))
    with anyio.CancelScope(shield=True):
        await send({"type": "http.response.start", "status": int(status), "headers": lines})
        await send({"type": "http.response.body", "body": body})
