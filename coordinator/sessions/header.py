"""The text fields that a stored session begins with: what heartbeats change, and what versions leave out.

omnivoice-core and this package both begin a session's JSON with text fields (id, times, call, status). So its status and its last
sign of life can be found, and the latter replaced, without reading the conversation. ``lua/lib/header.lua`` does the
same; a test compares the two.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

__all__ = ["JsonHeader", "read_header", "version_of"]

_FIELD = re.compile(rb'"((?:[^"\\]|\\.)*)":"((?:[^"\\]|\\.)*)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonHeader:
    """Where things stand in a session's JSON.

    Attributes:
        status: as it stands there, escapes included.
        updated_at: its first and its last position plus one, without the quotes.
    """

    status: bytes
    updated_at: tuple[int, int]


def read_header(value: bytes) -> JsonHeader | None:
    """The header, None when ``status`` and ``updated_at`` are not among the text fields at the beginning."""
    if value[:1] != b"{":
        return None
    at, status, updated_at = 1, None, None
    while match := _FIELD.match(value, at):
        if match[1] == b"status" and status is None:
            status = match[2]
        elif match[1] == b"updated_at" and updated_at is None:
            updated_at = match.span(2)
        if status is not None and updated_at is not None:
            return JsonHeader(status, updated_at)
        if value[match.end() : match.end() + 1] != b",":
            return None
        at = match.end() + 1
    return None


def version_of(value: bytes) -> str:
    """Digest of a session's bytes without its ``updated_at``: heartbeats do not change it, anything else does."""
    header = read_header(value)
    if header is not None:
        start, end = header.updated_at
        value = value[:start] + value[end:]
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()
