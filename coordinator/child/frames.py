"""What parent and child say to each other: one JSON object a line, over a unix socket."""

from __future__ import annotations

import base64
import json
from typing import Any

from coordinator.errors import (
    CoordinatorError,
    DataTooLargeError,
    FencedError,
    InvalidDataError,
    InvalidIdError,
    InvalidValueError,
    KeyUnknownError,
    SessionGoneError,
    SessionHeldError,
    StoreUnavailableError,
)

__all__ = ["Frame", "data_of", "error_of", "frame", "parse", "told_error", "with_data"]

Frame = dict[str, Any]

_ERRORS: dict[str, tuple[type[CoordinatorError], tuple[str, ...]]] = {
    "fenced": (FencedError, ("session_id", "epoch", "detail")),
    "gone": (SessionGoneError, ("session_id", "detail")),
    "held": (SessionHeldError, ("session_id", "owner", "state")),
    "unavailable": (StoreUnavailableError, ("kind", "detail")),
    "too_large": (DataTooLargeError, ("size", "limit")),
    "key_unknown": (KeyUnknownError, ("session_id", "key_id")),
    "invalid_id": (InvalidIdError, ("value", "rule")),
    "invalid_value": (InvalidValueError, ("name", "value", "rule")),
}
"""Errors that the child raises as the parent did, with the attributes that make them."""


def frame(said: Frame) -> bytes:
    """One line."""
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def parse(line: bytes) -> Frame:
    """The other way round.

    Raises:
        ValueError: it is not a JSON object.
    """
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def with_data(said: Frame, raw: bytes, encoding: str) -> Frame:
    """Adds recovery data, as `coordinator.worker.data.encode` returns it."""
    return {**said, "data": base64.b64encode(raw).decode(), "encoding": encoding}


def data_of(said: Frame) -> tuple[bytes, str]:
    """The recovery data in it, and how it was given.

    Raises:
        ValueError: there is none, or it is broken.
    """
    data, encoding = said.get("data"), said.get("encoding")
    if not isinstance(data, str) or encoding not in ("json", "bytes"):
        raise ValueError("no recovery data")
    return base64.b64decode(data, validate=True), encoding


def told_error(error: CoordinatorError) -> Frame:
    """An error, so that the other side can raise it."""
    for name, (kind, attributes) in _ERRORS.items():
        if type(error) is kind:
            return {"error": name, "about": [getattr(error, attribute, None) for attribute in attributes]}
    name = "invalid_data" if isinstance(error, InvalidDataError) else "other"
    return {"error": name, "about": [str(error)]}


def error_of(said: Frame) -> CoordinatorError:
    """The error that `told_error` described."""
    kind, _ = _ERRORS.get(str(said.get("error")), (CoordinatorError, ()))
    about = said.get("about")
    if said.get("error") == "invalid_data":
        kind = InvalidDataError
    try:
        return kind(*about) if isinstance(about, list) else kind(str(about))
    except TypeError:
        return CoordinatorError(str(about))
