"""From an ASGI request to an operation and back."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

import anyio
import structlog
from prometheus_client import Counter
from pydantic import BaseModel

from coordinator.errors import CoordinatorError
from coordinator.sidecar.access import Access, headers_of
from coordinator.sidecar.idempotency import Answered
from coordinator.sidecar.operations import (
    IDEMPOTENCY_KEY,
    WORKER_TOKEN,
    Call,
    Operation,
    Reply,
    Table,
    read_body,
    read_parameters,
)
from coordinator.sidecar.problems import MEDIA_TYPE, Problem, problem_of
from coordinator.sidecar.server import when_closed

__all__ = ["Dispatcher", "Receive", "Scope", "Send"]

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_TO_ALL = ("/healthz", "/readyz", "/metrics")
"""What probes and Prometheus ask, without a token."""
MOST_QUERY_BYTES = 2048
MOST_HEAD_BYTES = 16 * 1024


class Dispatcher:
    """The ASGI application: operations of a table, and another application for all other paths.

    Args:
        rest: answers paths that the table does not have.
        most_body: bytes that a body may have.
        failures: counts answers that nobody meant, by operation.
    """

    def __init__(
        self, table: Table, access: Access, rest: Callable[..., Awaitable[None]], most_body: int, failures: Counter
    ) -> None:
        self._table, self._access, self._rest = table, access, rest
        self._most_body, self._failures = most_body, failures
        self._answered = Answered()

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
            found = self._table.find(scope["method"], raw_path)
            if found is None:
                if raw_path.startswith("/v1/"):
                    raise Problem(HTTPStatus.NOT_FOUND, f"{raw_path[:200]} is no path of this interface")
                if raw_path not in OPEN_TO_ALL:
                    self._access.check(scope, headers)
                await self._rest(scope, receive, send)
                return
            self._access.check(scope, headers)
            operation, path = found
            name = operation.name
            answer = await self._run(operation, path, headers, scope, receive)
            if isinstance(answer, Reply):
                await _send(send, answer)
            else:
                await answer(send)
        except Problem as problem:
            await _send_problem(send, problem)
        except Exception as error:
            self._failures.labels(name).inc()
            log.exception("request_failed", operation=name, error=repr(error))
            await _send_problem(
                send, Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the sidecar has a defect: its log says more")
            )

    async def _run(
        self,
        operation: Operation,
        path: dict[str, str],
        headers: Mapping[str, list[str]],
        scope: Scope,
        receive: Receive,
    ) -> Any:
        if operation.token and not self._access.has_token(headers):
            raise Problem(
                HTTPStatus.UNAUTHORIZED, "this needs a valid API token (setting API_TOKEN) as Authorization: Bearer",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if len(scope["query_string"]) > MOST_QUERY_BYTES:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the query is longer than {MOST_QUERY_BYTES} bytes")
        query = _query_of(scope["query_string"])
        raw = await self._body(receive, headers)
        known = (*operation.headers, WORKER_TOKEN, *((IDEMPOTENCY_KEY,) if operation.changes else ()))
        call = Call(
            operation, path, read_parameters(operation.query, query), read_parameters(known, headers),
            read_body(operation.body, raw) if operation.body else None, scope,
        )  # fmt: skip
        bearer = self._access.bearer(headers)
        if bearer and WORKER_TOKEN.name not in call.headers and not self._access.has_token(headers):
            call.headers[WORKER_TOKEN.name] = bearer  # many HTTP libraries know no other header for a token
        key = call.headers.get(IDEMPOTENCY_KEY.name)
        if not operation.changes:  # what waits for somebody who has gone waits for nobody
            with anyio.CancelScope() as waiting:
                when_closed(scope, waiting.cancel)
                return await self._handle(call)
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the client went away")
        if key is None:
            return await self._handle(call)
        parts = (operation.name, scope["raw_path"], scope["query_string"], raw, str(headers.get("if-match")))
        fingerprint = hashlib.sha256(repr(parts).encode()).digest()

        async def run() -> Reply:
            answer = await self._handle(call)
            assert isinstance(answer, Reply)  # noqa: S101 - only what changes nothing is a stream
            return answer

        return await self._answered.once(call.headers.get(WORKER_TOKEN.name, ""), key, fingerprint, run)

    @staticmethod
    async def _handle(call: Call) -> Any:
        try:
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
                raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end")
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


def _query_of(raw: bytes) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = {}
        for name, value in urllib.parse.parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=32):
            found.setdefault(name.lower(), []).append(value)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the query cannot be read: {error}") from None
    return found


async def _send(send: Send, reply: Reply) -> None:
    body = b"" if reply.body is None else _json(reply.body.model_dump(exclude_none=True))
    await _send_bytes(send, reply.status, body, "application/json" if body else "", reply.headers)


async def _send_problem(send: Send, problem: Problem) -> None:
    await _send_bytes(send, problem.status, _json(problem.document()), MEDIA_TYPE, problem.headers)


def _json(document: Mapping[str, Any] | BaseModel) -> bytes:
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
