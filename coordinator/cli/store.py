"""How the commands reach the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator import bounds
from coordinator.cli.tables import complain
from coordinator.errors import ConfigurationError, InvalidIdError, StoreUnavailableError
from coordinator.ids import check_session_id, partition_of
from coordinator.settings import Settings
from coordinator.store import lookups
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from coordinator.store.url import StoreUrl

__all__ = ["check_instance", "connector", "needs_url", "newest_id", "partition_for", "partitions"]


def needs_url(settings: Settings) -> str:
    """Returns the URL of a store that runs already.

    Raises:
        ConfigurationError: no URL is set: an embedded Redis lives and ends with its `coordinator run`.
    """
    if settings.url is None:
        raise ConfigurationError("redis_url is not set: name the store (--redis-url or COORDINATOR_REDIS_URL)")
    return settings.url


def connector(settings: Settings) -> Connector:
    """A connector to the store of these settings; standard error warns of a URL that leaves certificates unverified.

    Raises:
        ConfigurationError: no URL is set, or it cannot be used.
    """

    def warn(url: StoreUrl) -> None:
        complain(f"warning: {url.shown}: {url.unverified}")

    return Connector(
        needs_url(settings), store_timeout=settings.store_timeout, durability=settings.replicated, warn=warn
    )


def check_instance(named: str) -> str:
    """Returns an instance's id or name, as a person gave it.

    Raises:
        ConfigurationError: the text is neither.
    """
    try:
        return bounds.check_instance(named) if "~" in named else bounds.check_name(named)
    except InvalidIdError as error:
        raise ConfigurationError(f"{error}; give an instance's id (name~ULID) or its name") from None


async def newest_id(part: StorePartition, named: str) -> str:
    """Returns the id that is meant: an instance has its own in each partition, so a name means its newest one there.

    Returns:
        The id; '' when no instance ever had that name.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    if "~" in named:
        return named
    return await lookups.newest_of(part, named)


@asynccontextmanager
async def partitions(settings: Settings) -> AsyncIterator[list[StorePartition]]:
    """All partitions of a deployment, until the block is left.

    Raises:
        ConfigurationError: the deployment was made with another number of partitions.
        StoreUnavailableError: the store cannot be asked.
    """
    connections = connector(settings)
    try:
        all_keys = [Keys(settings.prefix, p) for p in range(settings.partitions)]
        parts = [StorePartition(keys, connections.executor(keys.tag)) for keys in all_keys]
        stored = await _number(parts)
        if stored is not None and stored != settings.partitions:
            raise ConfigurationError(
                f"partitions is {settings.partitions}, but this deployment was made with {stored}: "
                f"use --partitions {stored}"
            )
        yield parts
    finally:
        await connections.aclose()


async def _number(parts: list[StorePartition]) -> int | None:
    """The number of partitions that the store was made with, by the first one that answers; None before the first start."""
    for part in parts:
        try:
            found = await lookups.partitions_of(part)
        except StoreUnavailableError:
            if part is parts[-1]:
                raise
            continue
        return found
    return None


def partition_for(parts: list[StorePartition], session_id: str) -> StorePartition:
    """Returns the partition of a session.

    Raises:
        InvalidIdError: invalid session id.
    """
    return parts[partition_of(check_session_id(session_id), len(parts))]
