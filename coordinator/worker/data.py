"""Recovery data: a JSON-able mapping or bytes, stored byte for byte, given back as it was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypeVar

from coordinator.bounds import MOST_DEPTH, READABLE_DEPTH, check_json, is_nested_deeper
from coordinator.errors import DataTooLargeError, InvalidDataError
from coordinator.worker.sealer import is_sealed

__all__ = ["Data", "RecoveryData", "decode", "encode"]

RecoveryData = Mapping[str, Any] | bytes
Data = TypeVar("Data", bound=RecoveryData, default=Any)
"""The recovery data of one program's calls, for a type checker: ``Worker[bytes]``, ``Worker[dict[str, Any]]``, or ``Worker[Call]``
with a typed dictionary. It has no effect at run time; a call that was opened without recovery data has ``b""``."""


def encode(data: RecoveryData, limit: int) -> tuple[bytes, str]:
    """Returns the bytes to store, and how they were given (``json`` or ``bytes``).

    Args:
        data: bytes, or a mapping with text keys and values that JSON has.
        limit: the largest number of bytes.

    Raises:
        InvalidDataError: the data is neither, is not JSON-able, is nested too deep, or has whole numbers that other readers
            would round.
        DataTooLargeError: the data is above the limit.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        raw, encoding = bytes(data), "bytes"
    elif isinstance(data, Mapping):
        try:
            text = json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            raw, encoding = text.encode(), "json"
        except RecursionError:
            raise InvalidDataError(f"recovery data is nested more than {MOST_DEPTH} deep") from None
        except UnicodeEncodeError:  # its own message shows what it could not encode
            raise InvalidDataError(
                "recovery data has text that cannot be encoded as UTF-8 (a lone surrogate)"
            ) from None
        except (TypeError, ValueError) as error:
            raise InvalidDataError(f"recovery data is not JSON-able: {error}") from None
    else:
        raise InvalidDataError(f"recovery data must be a mapping or bytes, not {type(data).__name__}")
    if len(raw) > limit:
        raise DataTooLargeError(len(raw), limit)
    return check_json("recovery data", raw) if encoding == "json" else raw, encoding


def decode(raw: bytes, encoding: str) -> dict[str, Any] | bytes:
    """Returns what was given to `encode`.

    Raises:
        InvalidDataError: the stored data is sealed, is not a JSON object, or is nested too deep.
    """
    if is_sealed(encoding):
        raise InvalidDataError("the stored recovery data is sealed, and was not opened")
    if encoding != "json":
        return raw
    if is_nested_deeper(raw, READABLE_DEPTH):
        raise InvalidDataError(f"the stored recovery data is nested more than {READABLE_DEPTH} deep")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidDataError("the stored recovery data is not a JSON object")
    return value
