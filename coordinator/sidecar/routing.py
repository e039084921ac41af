"""Operations and their table: it finds the handler of a request, and the OpenAPI document is made from it.

A handler carries its route: `operation` declares it where the handler is written.
"""

from __future__ import annotations

import inspect
import json
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from coordinator.sidecar.callers import Asker, Caller
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.requests import Parameter

if TYPE_CHECKING:
    from coordinator.sidecar.hosted import Hosted
    from coordinator.worker.session import Session

__all__ = ["Answer", "HttpCall", "HttpReply", "Operation", "Stream", "Table", "operation"]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer; its body is a document, or one that is written already."""

    status: HTTPStatus = HTTPStatus.OK
    body: BaseModel | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> bytes:
        """The body as it is sent."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body or b""
        return json.dumps(self.body.model_dump(exclude_none=True), separators=(",", ":")).encode() + b"\n"


@dataclass(slots=True)
class HttpCall:
    """One request, read and checked.

    Attributes:
        path: values of the path, decoded.
        query, headers: values of the parameters that were given.
        asker: the caller, let in by the gate.
        session: the session of an operation that changes it and that only the owner may call.
    """

    operation: Operation
    path: dict[str, str]
    query: dict[str, Any]
    headers: dict[str, Any]
    body: BaseModel | None
    scope: Mapping[str, Any]
    asker: Asker
    session: Session | None = None

    @property
    def worker(self) -> Hosted:
        """The worker that asks, or that an administrator asks about."""
        assert self.asker.worker is not None  # noqa: S101 - by the operation's callers
        return self.asker.worker

    @property
    def own_session(self) -> Session:
        """The session of the path, which is the asking worker's."""
        assert self.session is not None  # noqa: S101 - by the operation's callers
        return self.session

    def read(self, model: type[M]) -> M:
        """The body."""
        assert isinstance(self.body, model)  # noqa: S101 - by the operation's table entry
        return self.body


Stream = Callable[[Callable[[Mapping[str, Any]], Awaitable[None]]], Awaitable[None]]
"""Writes its answer itself."""
Handler = Callable[[HttpCall], Awaitable[HttpReply | Stream]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers of an operation, as the document describes it.

    Attributes:
        text: what the answer means.
        model: of its body; None without a body, or with one that is not JSON.
        headers: names and meanings; the values are whole numbers.
        media_types: the types of a body that is text.
    """

    text: str
    model: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        text: what it does, as the document says it.
        callers: the callers that may call it; there is no default.
        problems: the statuses of its problems, beside those that every operation has.
        body: model of the request's body; an empty body counts as an empty object unless it is needed.
        takes_up: which workers of another sidecar it takes up, when the path names one: none, those that are expected
            since that sidecar listened here, or all.
        kept_open: its answer lasts as long as its client does, and cannot be given again.
    """

    method: str
    template: str
    name: str
    text: str
    callers: Caller
    handler: Handler
    answers: Mapping[HTTPStatus, Answer]
    problems: tuple[HTTPStatus, ...] = ()
    body: type[BaseModel] | None = None
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    takes_up: Literal["none", "expected", "all"] = "expected"
    kept_open: bool = False

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"

    @property
    def takes_key(self) -> bool:
        """Whether a request may have an Idempotency-Key."""
        return self.changes and not self.kept_open


H = TypeVar("H", bound=Callable[..., Awaitable[HttpReply | Stream]])


def operation(
    route: str,
    *,
    callers: Caller,
    answers: Mapping[HTTPStatus, Answer],
    problems: tuple[HTTPStatus, ...] = (),
    body: type[BaseModel] | None = None,
    query: tuple[Parameter, ...] = (),
    headers: tuple[Parameter, ...] = (),
    takes_up: Literal["none", "expected", "all"] = "expected",
    kept_open: bool = False,
) -> Callable[[H], H]:
    """Makes a method the handler of an operation, which has its name; its docstring is what the document says of it.

    Args:
        route: method and path, as in ``GET /v1/sessions/{id}``.
        callers, answers, problems, body, query, headers, takes_up, kept_open: see `Operation`.
    """
    method, template = route.split(" ")

    def declare(handler: H) -> H:
        text = inspect.cleandoc(handler.__doc__ or handler.__name__).removesuffix(".")
        declared = partial(
            Operation, method, template, handler.__name__, text[0].lower() + text[1:], callers, answers=answers,
            problems=problems, body=body, query=query, headers=headers, takes_up=takes_up, kept_open=kept_open,
        )  # fmt: skip
        setattr(handler, _DECLARED, declared)
        return handler

    return declare


_DECLARED = "declared_operation"


class Table:
    """All operations."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._paths: dict[str, re.Pattern[str]] = {}

    @classmethod
    def of(cls, *routes: object) -> Table:
        """The operations whose handlers are methods of these, in the order in which they stand in the code.

        Raises:
            ValueError: as `add`.
        """
        table = cls()
        for one in routes:
            for name, handler in vars(type(one)).items():
                if (declared := getattr(handler, _DECLARED, None)) is not None:
                    table.add(declared(handler=getattr(one, name)))
        return table

    def add(self, operation: Operation) -> None:
        """Adds an operation.

        Raises:
            ValueError: it has no callers, or another operation has its name or its route.
        """
        route = f"{operation.method} {operation.template}"
        if not operation.callers:
            raise ValueError(f"{route}: it has no callers")
        for other in self.operations:
            if other.name == operation.name or f"{other.method} {other.template}" == route:
                raise ValueError(f"{route} {operation.name}: there is {other.name} already")
        self.operations.append(operation)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.template)
        self._paths[operation.template] = re.compile(pattern)

    def find(self, method: str, raw_path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a request, with the values of its path; None when the path is not one of the table's.

        The path is read as it was sent: an encoded slash is part of a value.

        Raises:
            Problem: the path has no such method.
        """
        allowed = []
        for template, pattern in self._paths.items():
            found = pattern.fullmatch(raw_path)
            if not found:
                continue
            values = {k: _decoded(v) for k, v in found.groupdict().items()}
            for operation in self.operations:
                if operation.template == template:
                    allowed.append(operation.method)
                    if operation.method == method:
                        return operation, values
        if allowed:
            names = ", ".join(sorted(allowed))
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{method} is not one of this path's methods: {names}",
                headers={"Allow": names},
            )
        return None


def _decoded(value: str) -> str:
    try:
        return urllib.parse.unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{value!r} in the path is not UTF-8") from None
