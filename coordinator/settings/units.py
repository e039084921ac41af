"""What values are written in: durations, sizes, labels."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from coordinator.bounds import MOST_DEPTH, MOST_SECONDS
from coordinator.printable import named

__all__ = ["Duration", "Labels", "Size", "parse_duration", "parse_labels", "parse_size", "shown_duration"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SIZES = {"": 1, "b": 1, "kib": 1024, "kb": 1000, "mib": 1024**2, "mb": 1000**2}


def parse_duration(value: object) -> float:
    """Seconds of a duration: ``2s``, ``250ms``, ``5m``, ``24h``, ``7d`` or a number of seconds.

    Raises:
        ValueError: the value is none of these, negative, or more than ten years.
    """
    text = str(value) if isinstance(value, str | int | float) else ""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(ms|s|min|m|h|d|)\s*", text)
    if not match or isinstance(value, bool):
        raise ValueError(f"{named(value)} is not a duration: use 2s, 250ms, 5m, 24h or a number of seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > MOST_SECONDS:
        raise ValueError(f"{named(value)} is more than ten years")
    return seconds


def parse_size(value: object) -> int:
    """Bytes of a size: ``64KiB``, ``1MiB`` or a number of bytes.

    Raises:
        ValueError: the value is none of these.
    """
    text = str(value) if isinstance(value, str | int) else ""
    match = re.fullmatch(r"\s*([0-9]{1,20})\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in _SIZES or isinstance(value, bool):
        raise ValueError(f"{named(value)} is not a size: use 64KiB, 1MiB or a number of bytes")
    return int(match[1]) * _SIZES[match[2]]


def parse_labels(value: object) -> object:
    """Reads a mapping of labels, as JSON or as ``zone=a,version=2``.

    Raises:
        ValueError: the value is neither.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        if value.count("{") + value.count("[") > MOST_DEPTH:
            raise ValueError(f"invalid labels {named(value)}: nested values are not allowed")
        return json.loads(value)
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise ValueError(f"invalid labels {named(value)}: use zone=a,version=2 or a JSON object")
    return {name.strip(): text.strip() for name, _, text in pairs}


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Labels = Annotated[dict[str, str], NoDecode, BeforeValidator(parse_labels)]
"""Labels; the source that found them does not decode them, as they need not be JSON."""


def shown_duration(seconds: float) -> str:
    """A duration for messages: in milliseconds below one second, else in seconds."""
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
