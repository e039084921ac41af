"""Recovery data: a JSON-able mapping or bytes, stored byte for byte, given back as it was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coordinator.errors import DataTooLargeError, InvalidDataError

__all__ = ["RecoveryData", "decode", "encode"]

RecoveryData = Mapping[str, Any] | bytes


def encode(data: RecoveryData, limit: int) -> tuple[bytes, str]:
    """Bytes to store, and how they were given (``json`` or ``bytes``).

    Args:
        data: bytes, or a mapping with text keys of what JSON can say.
        limit: most bytes.

    Raises:
        InvalidDataError: neither, or not JSON-able.
        DataTooLargeError: above the limit.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        raw, encoding = bytes(data), "bytes"
    elif isinstance(data, Mapping):
        try:
            text = json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            raw, encoding = text.encode(), "json"
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidDataError(f"recovery data is not JSON-able: {error}") from error
    else:
        raise InvalidDataError(f"recovery data must be a mapping or bytes, not {type(data).__name__}")
    if len(raw) > limit:
        raise DataTooLargeError(len(raw), limit)
    return raw, encoding


def decode(raw: bytes, encoding: str) -> dict[str, Any] | bytes:
    """What was given to `encode`."""
    if encoding == "json":
        value: dict[str, Any] = json.loads(raw)
        return value
    return raw
