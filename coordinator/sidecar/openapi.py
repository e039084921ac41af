"""The OpenAPI document, made from the table of operations."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.problems import MEDIA_TYPE
from coordinator.sidecar.requests import IDEMPOTENCY_KEY, WORKER_TOKEN, Parameter
from coordinator.sidecar.routing import Answer, Operation, Table
from coordinator.version import VERSION

__all__ = ["document"]

SESSION_ID = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-z|~]+$"}
EVERYWHERE = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
WITH_BODY = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)


OPEN: dict[str, list[str]] = {}
SECURITY: dict[Caller, tuple[str, ...]] = {
    Caller.ANYONE: (),
    Caller.PROCESS: ("workerToken",),
    Caller.WORKER: ("workerToken", "workerBearer"),
    Caller.OWNER: ("workerToken", "workerBearer"),
    Caller.ADMINISTRATOR: ("apiToken",),
    Caller.TOKEN_HOLDER: ("apiToken",),
}
"""The description of each kind of caller on this machine; a caller on another machine shows an API token as well."""
WHO = {
    Caller.ANYONE: "anyone on this machine",
    Caller.PROCESS: "a process at the other end of the unix socket, with a token of its own making",
    Caller.WORKER: "a worker by its token; the one that the path names, if it names one",
    Caller.OWNER: "the worker, by its token, that owns the session",
    Caller.ADMINISTRATOR: "with an API token, or the sidecar's own user at the unix socket, which the kernel says and for which "
    "OpenAPI has no scheme",
    Caller.TOKEN_HOLDER: "with an API token",
}
SCHEMES = {
    "workerToken": {
        "type": "apiKey",
        "in": "header",
        "name": WORKER_TOKEN.name,
        "description": "the token of a worker, from the answer to its registration; for `watched` one of the process's own making",
    },
    "workerBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "the token of a worker, where no API token is shown",
    },
    "apiToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "a token of the setting API_TOKEN; every request from another machine needs it, beside a worker's token",
    },
}


def document(table: Table, *, worker_token_optional: bool = False) -> dict[str, Any]:
    """OpenAPI 3.1 of all operations."""
    models = _models(table)
    defined = {}
    for mode in ("validation", "serialization"):
        _, found = models_json_schema([(m, mode) for m in models[mode]], ref_template="#/components/schemas/{model}")
        defined.update(found.get("$defs", {}))
    paths: dict[str, Any] = {}
    for operation in table.operations:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(
            operation, optional=worker_token_optional
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "recovery-coordinator sidecar",
            "version": VERSION,
            "description": "What a voice worker in any language needs so that its calls outlive it. Plain HTTP on this machine.",
        },
        "paths": paths,
        "components": {
            "schemas": defined,
            "securitySchemes": SCHEMES,
        },
    }


def _models(table: Table) -> dict[str, list[type[BaseModel]]]:
    asked = {o.body for o in table.operations if o.body is not None}
    answered = {answer.model for o in table.operations for answer in o.answers.values() if answer.model is not None}
    return {
        "validation": sorted(asked, key=lambda m: m.__name__),
        "serialization": sorted({*answered, schemas.ProblemDocument}, key=lambda m: m.__name__),
    }


def _reference(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": dict(parameter.schema),
    }


def _security(callers: Caller, *, optional: bool) -> list[dict[str, list[str]]]:
    if Caller.ANYONE in callers:
        return [OPEN]
    names = dict.fromkeys(name for caller in callers for name in SECURITY[caller])
    found: list[dict[str, list[str]]] = [{name: []} for name in names]
    return [OPEN, *found] if optional and callers.is_worker else found


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.text}
    if answer.model is not None:
        found["content"] = _reference(answer.model)
    if answer.media_types:
        found["content"] = {media_type: {"schema": {"type": "string"}} for media_type in answer.media_types}
    if answer.headers:
        found["headers"] = {
            name: {"description": text, "schema": {"type": "integer", "minimum": 0}}
            for name, text in answer.headers.items()
        }
    return found


def _operation(operation: Operation, *, optional: bool) -> dict[str, Any]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": SESSION_ID if name == "id" else {"type": "string", "pattern": schemas.INSTANCE},
        }
        for name in re.findall(r"\{(\w+)\}", operation.template)
    ]
    headers = [*operation.headers, *([IDEMPOTENCY_KEY] if operation.takes_key else [])]
    problems = {*operation.problems, *EVERYWHERE, *(WITH_BODY if operation.body else ())}
    if in_path:
        problems |= {HTTPStatus.UNPROCESSABLE_ENTITY}
    if any(header.required for header in headers):
        problems |= {HTTPStatus.PRECONDITION_REQUIRED}
    if operation.changes:
        problems |= {HTTPStatus.UNPROCESSABLE_ENTITY}
    answers = {str(int(status)): _answer(answer) for status, answer in sorted(operation.answers.items())}
    for status in sorted(problems):
        answers.setdefault(
            str(int(status)),
            {"description": status.phrase, "content": _reference(schemas.ProblemDocument, MEDIA_TYPE)},
        )
    needed = any(field.is_required() for field in operation.body.model_fields.values()) if operation.body else False
    body = {"requestBody": {"required": needed, "content": _reference(operation.body)}} if operation.body else {}
    return {
        "operationId": operation.name,
        "summary": operation.text,
        "description": f"May be called by: {'; '.join(WHO[caller] for caller in operation.callers)}.",
        "parameters": [
            *in_path,
            *(_parameter(p, "query") for p in operation.query),
            *(_parameter(p, "header") for p in headers),
        ],
        **body,
        "responses": answers,
        "security": _security(operation.callers, optional=optional),
        "x-callers": [str(caller.name).lower() for caller in operation.callers],
    }
