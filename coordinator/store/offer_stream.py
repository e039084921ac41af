"""The stream of offers to a pool, as its consumers read it: group ``workers``, one consumer an instance."""

from __future__ import annotations

from coordinator.errors import CoordinatorError
from coordinator.store.connect import Blocking
from coordinator.store.executor import Executor

__all__ = ["Entry", "acknowledge", "given_before", "make_group", "wait_for"]

GROUP = "workers"
GIVEN_AT_ONCE = 100

Entry = tuple[bytes, list[bytes]]
"""Id of an entry, and its names and values in turn; none of these where only its delivery is left."""


def _entries(answer: list[tuple[bytes, list[Entry]]] | None) -> list[Entry]:
    return list(answer[0][1]) if answer else []


async def wait_for(blocking: Blocking, stream: str, instance: str, count: int, seconds: float) -> list[Entry]:
    """What is new, at most ``count``; none when nothing came in time.

    Raises:
        NoGroupError: nobody has read there yet; see `make_group`.
        StoreUnavailableError: the store did not answer.
    """
    return _entries(
        await blocking.command(
            "XREADGROUP",
            "GROUP",
            GROUP,
            instance,
            "COUNT",
            count,
            "BLOCK",
            round(seconds * 1000),
            "STREAMS",
            stream,
            ">",
        )
    )


async def given_before(run: Executor, stream: str, instance: str) -> list[Entry]:
    """What this consumer was given and has not answered. Raises as `wait_for`."""
    return _entries(
        await run.command("XREADGROUP", "GROUP", GROUP, instance, "COUNT", GIVEN_AT_ONCE, "STREAMS", stream, "0")
    )


async def acknowledge(run: Executor, stream: str, entry: bytes) -> None:
    """An entry is delivered to nobody any more.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    await run.command("XACK", stream, GROUP, entry)


async def make_group(blocking: Blocking, stream: str) -> bool:
    """Makes the group of consumers, and the stream where there is none; whether it is there now."""
    try:
        await blocking.command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    except CoordinatorError as error:
        return "BUSYGROUP" in str(error)
    return True
