"""The OpenAPI document, made from the table of operations."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from coordinator.sidecar import wire
from coordinator.sidecar.operations import IDEMPOTENCY_KEY, TRUST, WORKER_TOKEN, Operation, Parameter, Table
from coordinator.sidecar.problems import MEDIA_TYPE
from coordinator.version import VERSION

__all__ = ["document"]

TRUST_TEXT = "for how long the worker may rely on what it owns, from the sending of the request"
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


def document(table: Table) -> dict[str, Any]:
    """OpenAPI 3.1 of all operations."""
    models = _models(table)
    schemas = {}
    for mode in ("validation", "serialization"):
        _, found = models_json_schema([(m, mode) for m in models[mode]], ref_template="#/components/schemas/{model}")
        schemas.update(found.get("$defs", {}))
    paths: dict[str, Any] = {}
    for operation in table.operations:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "recovery-coordinator sidecar",
            "version": VERSION,
            "description": "What a voice worker in any language needs so that its calls outlive it. Plain HTTP on this machine.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(table: Table) -> dict[str, list[type[BaseModel]]]:
    asked = {o.body for o in table.operations if o.body is not None}
    answered = {model for o in table.operations for model, _ in o.answers.values() if model is not None}
    return {
        "validation": sorted(asked, key=lambda m: m.__name__),
        "serialization": sorted({*answered, wire.ProblemDocument}, key=lambda m: m.__name__),
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


def _operation(operation: Operation) -> dict[str, Any]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": SESSION_ID if name == "id" else {"type": "string", "pattern": wire.INSTANCE},
        }
        for name in re.findall(r"\{(\w+)\}", operation.template)
    ]
    headers = [*operation.headers, WORKER_TOKEN, *([IDEMPOTENCY_KEY] if operation.changes else [])]
    problems = {*operation.problems, *EVERYWHERE, *(WITH_BODY if operation.body else ())}
    if in_path:
        problems |= {HTTPStatus.UNPROCESSABLE_ENTITY}
    if any(header.required for header in headers):
        problems |= {HTTPStatus.PRECONDITION_REQUIRED}
    if operation.changes:
        problems |= {HTTPStatus.UNPROCESSABLE_ENTITY}
    answers = {
        str(int(status)): {"description": text, **({"content": _reference(model)} if model else {})}
        for status, (model, text) in sorted(operation.answers.items())
    }
    for status in sorted(problems):
        answers.setdefault(
            str(int(status)),
            {"description": status.phrase, "content": _reference(wire.ProblemDocument, MEDIA_TYPE)},
        )
    if operation.name == "events":
        text = {"schema": {"type": "string"}}
        answers["200"]["content"] = {"application/x-ndjson": text, "text/event-stream": text}
    if operation.name == "alive":
        answers["204"]["headers"] = {TRUST: {"description": TRUST_TEXT, "schema": {"type": "integer", "minimum": 0}}}
    needed = any(field.is_required() for field in operation.body.model_fields.values()) if operation.body else False
    body = {"requestBody": {"required": needed, "content": _reference(operation.body)}} if operation.body else {}
    return {
        "operationId": operation.name,
        "summary": operation.text,
        "parameters": [
            *in_path,
            *(_parameter(p, "query") for p in operation.query),
            *(_parameter(p, "header") for p in headers),
        ],
        **body,
        "responses": answers,
        "security": [{"token": []}] if operation.token else [{}, {"token": []}],
    }
