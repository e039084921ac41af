"""Reads and checks a request's parameters and body."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ValidationError

from coordinator.bounds import MOST_DEPTH, is_nested_deeper
from coordinator.printable import named
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.schemas import BASE64, RULES

__all__ = [
    "IDEMPOTENCY_KEY", "IF_MATCH", "IF_MATCH_OPTIONAL", "WORKER_TOKEN", "Parameter", "read_body", "read_parameters",
]  # fmt: skip

MOST_DIGITS = 64
"""Most digits of a whole number: real ones have fewer, and the time that reading takes grows with their square."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or header.

    Attributes:
        read: turns the parameter's text into a value; raises ValueError.
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
    "a key for this request: a repetition with the same key gets the first answer again",
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
    _key,
)
WORKER_TOKEN = Parameter(
    "Worker-Token",
    "the token of the worker that asks",
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
    _key,
)


def read_parameters(parameters: tuple[Parameter, ...], given: Mapping[str, list[str]]) -> dict[str, Any]:
    """Reads the parameters that were given.

    Raises:
        Problem: a parameter is invalid, repeated or missing.
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
    """Reads the body of a request.

    Raises:
        Problem: the body is not JSON, is nested too deep, or does not fit the model.
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
    """The message for one invalid value of a body; no message shows recovery data."""
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
