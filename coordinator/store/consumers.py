"""Consumers of a stream's group, as XINFO lists them."""

from __future__ import annotations

from typing import Any

from coordinator.errors import StoreUnavailableError
from coordinator.store.executor import Executor
from coordinator.store.faults import NoGroupError
from coordinator.store.shapes import text_if_any

__all__ = ["consumers_of"]


async def consumers_of(run: Executor, stream: str, group: str) -> dict[str, dict[str, Any]]:
    """Name -> what the server says of it, as ``pending`` and ``idle``; none where there is no such stream or group.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    try:
        rows = await run.command("XINFO", "CONSUMERS", stream, group)
    except NoGroupError:
        return {}
    except StoreUnavailableError as error:
        if "no such key" in error.detail:
            return {}
        raise
    found = {}
    for row in rows:
        said = {str(text_if_any(k)): v for k, v in zip(row[::2], row[1::2], strict=False)}
        name = text_if_any(said.get("name"))
        if name is not None:
            found[name] = said
    return found
