"""Operations and their table: from it requests find their handler, and the OpenAPI document is made.

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

from pydantic import BaseModel, ValidationError

from coordinator.bounds import MOST_DEPTH, is_nested_deeper
from coordinator.printable import named
from coordinator.sidecar.callers import Asker, Caller
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.wire import BASE64, RULES

if TYPE_CHECKING:
    from coordinator.sidecar.hosted import Hosted
    from coordinator.worker.session import Session

__all__ = ["Answer", "Call", "Operation", "Parameter", "Reply", "Stream", "Table", "operation"]

M = TypeVar("M", bound=BaseModel)

MOST_DIGITS = 64
"""Of a whole number: those that anybody means have fewer, and the time that reading takes grows with their square."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or header.

    Attributes:
        read: turns its text into a value; raises ValueError.
    """

    name: str
    text: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    required: bool = False


def _epoch(text: str) -> int:
    found = re.fullmatch(r'"([0-9]{1,16})"', text)
    if not found:
        raise ValueError(f'{text!r} is not an epoch in quotation marks, as in "1795253061046"')
    return int(found[1])


def _key(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise ValueError("it must be 1 to 128 printable characters without white space")
    return text


IF_MATCH = Parameter(
    "If-Match",
    "the epoch under which the session is owned",
    {"type": "string", "pattern": '^"[0-9]{1,16}"$'},
    _epoch,
    required=True,
)
IF_MATCH_OPTIONAL = Parameter(IF_MATCH.name, IF_MATCH.text, IF_MATCH.schema, _epoch)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "the answer to the first request with this key is given again",
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
    _key,
)
WORKER_TOKEN = Parameter(
    "Worker-Token",
    "which worker asks",
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
    _key,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; its body is a document, or one that is written already."""

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
class Call:
    """One request, read and checked.

    Attributes:
        path: values of the path, decoded.
        query, headers: values of the parameters that were given.
        asker: who asks, let in by the gate.
        session: for an operation that only the owner may call, and that changes it.
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
Handler = Callable[[Call], Awaitable[Reply | Stream]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers of an operation, as the document describes it.

    Attributes:
        text: what it means.
        model: of its body, None when it has none or one that is no JSON.
        headers: of their names what they say; their values are whole numbers.
        media_types: of a body that is text.
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
        callers: who may call it; there is no default.
        problems: statuses of the problems that it may answer, beside those that all have.
        body: model of the request's body; an empty body counts as an empty object unless it is needed.
        takes_up: which workers that the path names, and that lived behind another sidecar, are taken up by it: none, those
            expected since that sidecar listened here, all.
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

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"


H = TypeVar("H", bound=Callable[..., Awaitable[Reply | Stream]])


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
) -> Callable[[H], H]:
    """Makes a method the handler of an operation, which has its name; its docstring is what the document says of it.

    Args:
        route: method and path, as in ``GET /v1/sessions/{id}``.
        callers, answers, problems, body, query, headers, takes_up: see `Operation`.
    """
    method, template = route.split(" ")

    def declare(handler: H) -> H:
        text = inspect.cleandoc(handler.__doc__ or handler.__name__).removesuffix(".")
        declared = partial(
            Operation, method, template, handler.__name__, text[0].lower() + text[1:], callers, answers=answers,
            problems=problems, body=body, query=query, headers=headers, takes_up=takes_up,
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
        """The operations whose handlers are methods of these, in the order in which they are written.

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
        """One more.

        Raises:
            ValueError: nobody may call it, or another one has its name or its route.
        """
        route = f"{operation.method} {operation.template}"
        if not operation.callers:
            raise ValueError(f"{route}: say who may call it")
        for other in self.operations:
            if other.name == operation.name or f"{other.method} {other.template}" == route:
                raise ValueError(f"{route} {operation.name}: there is {other.name} already")
        self.operations.append(operation)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.template)
        self._paths[operation.template] = re.compile(pattern)

    def find(self, method: str, raw_path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a request, with the values of its path; None when the path is not one of the table's.

        The path is looked at as it was sent: an encoded slash is part of a value.

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


def read_parameters(parameters: tuple[Parameter, ...], given: Mapping[str, list[str]]) -> dict[str, Any]:
    """Values of those that were given.

    Raises:
        Problem: one is wrong, is there twice, or is missing.
    """
    values = {}
    for parameter in parameters:
        texts = given.get(parameter.name.lower(), [])
        if not texts:
            if parameter.required:
                raise Problem(
                    HTTPStatus.PRECONDITION_REQUIRED, f"the header {parameter.name} is missing: {parameter.text}"
                )
            continue
        try:
            if len(texts) > 1:
                raise ValueError("it is given more than once")
            values[parameter.name] = parameter.read(texts[0])
        except ValueError as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"{parameter.name}: {error}") from None
    return values


def read_body(model: type[BaseModel], raw: bytes) -> BaseModel:
    """The body of a request.

    Raises:
        Problem: no JSON, nested too deep, or not what the model says.
    """
    if is_nested_deeper(raw, MOST_DEPTH + 1):
        detail = f"the body is nested more than {MOST_DEPTH + 1} deep; recovery data may be {MOST_DEPTH} deep"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    try:
        document = json.loads(raw.decode(), parse_constant=_no_number, parse_int=_whole) if raw else {}
    except UnicodeDecodeError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not UTF-8") from None
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)[:5]]
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(faults)) from None


_SAID = {"missing": "it is needed", "extra_forbidden": "there is no such field"}


def _fault(error: Mapping[str, Any]) -> str:
    """What is wrong with one value of a body; recovery data is shown in no message."""
    where = ".".join(str(part)[:80] for part in error["loc"]) or "body"
    pattern = error.get("ctx", {}).get("pattern")
    if pattern == BASE64:
        return f"{where}: it is not base64 in one line"
    if (rule := RULES.get(pattern)) is not None:
        return f"{where}: {named(error['input'])} is not {rule}"
    if error["type"] in ("missing", "value_error", "extra_forbidden") or "recovery_data" in where:
        return f"{where}: {_SAID.get(error['type'], error['msg'])}"
    said = re.sub(r"valid dictionary.*", "JSON object", error["msg"])
    return f"{where}: {said}, not {named(error['input'])}"


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)
