"""Ids: their alphabets, how new ones are made, and in which partition a session lies."""

from __future__ import annotations

import os
import re
import secrets
import time
import zlib

from coordinator.errors import InvalidIdError

__all__ = [
    "check_name", "check_pool", "check_session_id", "name_of", "new_instance_id", "new_lineage", "new_request_id",
    "partition_of", "ulid",
]  # fmt: skip

_SESSION = re.compile(r"[!-z|~]{1,256}")  # printable ASCII without white space and braces
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid() -> str:
    """A new ULID: 48 bits of milliseconds, 80 bits of chance, 26 characters that sort by time (github.com/ulid/spec)."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def new_instance_id(name: str) -> str:
    """A new id for one run of the process called ``name``; never reused.

    Raises:
        InvalidIdError: the name breaks its rule.
    """
    return f"{check_name(name)}~{ulid()}"


def name_of(instance_id: str) -> str:
    """The name in an instance id."""
    return instance_id.partition("~")[0]


def new_request_id() -> str:
    """A new id for a request, by which its repetition is known."""
    return ulid()


def new_lineage() -> str:
    """A new id for the history of a partition's data."""
    return secrets.token_hex(16)


def check_session_id(session_id: str) -> str:
    """The id itself, if SIP Call-IDs, E.164 numbers and the like would look so.

    Raises:
        InvalidIdError: it is not 1 to 256 printable ASCII characters without white space and braces.
    """
    if not isinstance(session_id, str) or not _SESSION.fullmatch(session_id):
        rule = "a session id: 1 to 256 printable ASCII characters without white space and braces"
        raise InvalidIdError(session_id, rule)
    return session_id


def check_name(name: str) -> str:
    """The instance name itself.

    Raises:
        InvalidIdError: it is not 1 to 63 characters of A-Z a-z 0-9 . _ -
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidIdError(name, "an instance name: 1 to 63 characters of A-Z a-z 0-9 . _ -")
    return name


def check_pool(pool: str) -> str:
    """The pool itself.

    Raises:
        InvalidIdError: it is not 1 to 63 characters of A-Z a-z 0-9 . _ -
    """
    if not isinstance(pool, str) or not _NAME.fullmatch(pool):
        raise InvalidIdError(pool, "a pool: 1 to 63 characters of A-Z a-z 0-9 . _ -")
    return pool


def partition_of(session_id: str, partitions: int) -> int:
    """The partition in which a session lies for ever."""
    return zlib.crc32(session_id.encode()) % partitions
