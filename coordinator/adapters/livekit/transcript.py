"""Makes a conversation fit into recovery data: the oldest turns go first, instructions stay. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["fitted_items", "size_of"]

STAYING_ROLES = ("system", "developer")


def size_of(value: object) -> int:
    """Bytes of a value as it is stored."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def fitted_items(items: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The newest items, and all instructions, that fit into so many bytes. A tool's result without its call goes, too.

    Args:
        items: as ``ChatContext.to_dict()["items"]`` has them, the oldest first.
        most: bytes.
    """
    stays = [item.get("type") == "message" and item.get("role") in STAYING_ROLES for item in items]
    sizes = [size_of(item) + 1 for item in items]
    left = most - 1 - sum(size for size, stay in zip(sizes, stays, strict=True) if stay)
    first = len(items)
    while first > 0 and (stays[first - 1] or sizes[first - 1] <= left):
        first -= 1
        left -= 0 if stays[first] else sizes[first]
    kept = [item for n, item in enumerate(items) if n >= first or stays[n]]
    called = {item.get("call_id") for item in kept if item.get("type") == "function_call"}
    return [item for item in kept if item.get("type") != "function_call_output" or item.get("call_id") in called]
