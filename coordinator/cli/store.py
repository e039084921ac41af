"""How the commands reach the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.errors import ConfigurationError, InvalidIdError
from coordinator.ids import check_name, check_session_id, partition_of
from coordinator.settings import Settings
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys

__all__ = ["check_instance", "needs_url", "newest_id", "partition_for", "partitions"]


def needs_url(settings: Settings) -> str:
    """The URL of the store that somebody else runs.

    Raises:
        ConfigurationError: none is set: an embedded Redis lives and ends with its `coordinator run`.
    """
    if settings.url is None:
        raise ConfigurationError("redis_url is not set: say which Redis (--redis-url or COORDINATOR_REDIS_URL)")
    return settings.url


def check_instance(named: str) -> str:
    """An instance's id, or its name, as somebody gave it.

    Raises:
        ConfigurationError: it can be neither.
    """
    try:
        check_name(named.partition("~")[0])
    except InvalidIdError:
        raise ConfigurationError(f"{named!r} is not an instance: give its id (name~ULID) or its name") from None
    return named


async def newest_id(part: StorePartition, named: str) -> str:
    """The id that is meant: an instance has one of its own in each partition, so a name means its newest there.

    Returns:
        The id; '' when nobody of that name was ever there.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    if "~" in named:
        return named
    found = await part.executor.command("HGET", part.keys.names, named)
    return found.decode() if found else ""


@asynccontextmanager
async def partitions(settings: Settings) -> AsyncIterator[list[StorePartition]]:
    """All partitions of a deployment, until the block is left.

    Raises:
        ConfigurationError: the deployment was made with another number of partitions.
        StoreUnavailableError: the store cannot be asked.
    """
    connector = Connector(needs_url(settings), store_timeout=settings.store_timeout)
    try:
        all_keys = [Keys(settings.prefix, p) for p in range(settings.partitions)]
        parts = [StorePartition(keys, connector.executor(keys.tag)) for keys in all_keys]
        stored = await parts[0].executor.command("HGET", all_keys[0].meta, "partitions")
        if stored is not None and int(stored) != settings.partitions:
            raise ConfigurationError(
                f"partitions is {settings.partitions}, but this deployment was made with {int(stored)}: "
                f"use --partitions {int(stored)}"
            )
        yield parts
    finally:
        await connector.aclose()


def partition_for(parts: list[StorePartition], session_id: str) -> StorePartition:
    """Where a session lies.

    Raises:
        InvalidIdError: it is no session id.
    """
    return parts[partition_of(check_session_id(session_id), len(parts))]
