"""The stream of events as coordinators read it: group ``coordinators``, one name for all, so that each event is read once."""

from __future__ import annotations

from coordinator.clock import in_ms
from coordinator.errors import StoreUnavailableError
from coordinator.store.connect import Blocking
from coordinator.store.consumers import consumers_of
from coordinator.store.executor import StorePartition
from coordinator.store.faults import NoGroupError

__all__ = ["forget_reader", "idle_readers", "read_new"]

GROUP = "coordinators"
READER = "coordinator"
"""All read under one name: nothing is acknowledged, so names of their own would tell nothing, and would stay for ever."""
COUNT = 500


async def read_new(part: StorePartition, blocking: Blocking | None, seconds: float) -> list[dict[str, str]]:
    """Events that no coordinator has read yet, the oldest first; at most `COUNT`.

    Args:
        blocking: a connection on which reading may wait; without one it returns at once.
        seconds: how long it waits there until there is something.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    wait = ("BLOCK", in_ms(seconds)) if blocking is not None else ()
    command = blocking.command if blocking is not None else part.executor.command

    async def read() -> list[dict[str, str]]:
        answer = await command(
            "XREADGROUP", "GROUP", GROUP, READER, "NOACK", "COUNT", COUNT, *wait, "STREAMS", part.keys.events, ">"
        )
        return [_event(fields) for _, fields in (answer[0][1] if answer else [])]

    try:
        return await read()
    except NoGroupError:
        await _make_group(part)
        return await read()


def _event(fields: list[bytes]) -> dict[str, str]:
    values = [value.decode("utf-8", "replace") for value in fields]
    return dict(zip(values[::2], values[1::2], strict=False))


async def _make_group(part: StorePartition) -> None:
    try:
        await part.executor.command("XGROUP", "CREATE", part.keys.events, GROUP, "0", "MKSTREAM")
    except StoreUnavailableError as error:
        if "BUSYGROUP" not in error.detail:  # another coordinator was faster
            raise


async def idle_readers(part: StorePartition, seconds: float) -> list[str]:
    """Consumers under names of their own, as coordinators had before, that have not read for so many seconds.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    found = await consumers_of(part.executor, part.keys.events, GROUP)
    return [name for name, row in found.items() if name != READER and int(row.get("idle") or 0) > in_ms(seconds)]


async def forget_reader(part: StorePartition, name: str) -> None:
    """Deletes a consumer; nothing is pending for it, since events are read without acknowledgement. Safe to repeat.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    await part.executor.command("XGROUP", "DELCONSUMER", part.keys.events, GROUP, name)
