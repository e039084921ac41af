"""Ids: how new ones are made, and in which partition a session lies. Their alphabets stand in `coordinator.bounds`."""

from __future__ import annotations

import os
import secrets
import threading
import time
import zlib

from coordinator.bounds import check_name, check_pool, check_session_id

__all__ = [
    "check_name", "check_pool", "check_session_id", "name_of", "new_instance_id", "new_lineage", "new_request_id",
    "partition_of", "ulid",
]  # fmt: skip

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]


def ulid() -> str:
    """A new ULID: 48 bits of milliseconds, 80 bits of chance, 26 characters that sort by time (github.com/ulid/spec)."""
    return _text(_new_value())


def _new_value() -> int:
    return (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")


def _text(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])


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
    """A new id for a request, by which a repetition is recognised; greater than all ids that this process made before."""
    return _text(_LAST.after(_new_value()))


class _Rising:
    """ULIDs of one process that rise, whatever the clock does."""

    def __init__(self) -> None:
        self._last, self._lock = 0, threading.Lock()

    def after(self, made: int) -> int:
        """That ULID, or the one after the last."""
        with self._lock:
            self._last = max(self._last + 1, made)
            return self._last


_LAST = _Rising()


def new_lineage() -> str:
    """A new id for the history of a partition's data."""
    return secrets.token_hex(16)


def partition_of(session_id: str, partitions: int) -> int:
    """The partition in which a session lies for ever."""
    return zlib.crc32(session_id.encode()) % partitions
