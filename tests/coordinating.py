"""A coordinator of one partition inside the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from prometheus_client import CollectorRegistry

from coordinator.daemon.partition_loop import PartitionConnections, PartitionLoop
from coordinator.errors import first_error
from coordinator.metrics import Metrics
from coordinator.settings import load
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys


@asynccontextmanager
async def partition_loop(url: str, **settings: Any) -> AsyncIterator[PartitionLoop]:
    """Its parts, to be stepped by hand."""
    s = load(redis_url=url, **settings)
    connector = Connector(url, store_timeout=s.store_timeout)
    connections = PartitionConnections.open(connector, Keys(s.prefix, 0))
    try:
        yield PartitionLoop(connections, s, Metrics(CollectorRegistry(), "test"), by="coordinator~1")
    finally:
        await connector.aclose()


async def stepped(loop: PartitionLoop) -> float:
    """One step of it, and all the work that it began has ended; returns what the step does, raises what it raises."""
    try:
        async with anyio.create_task_group() as tasks:
            pause = await loop.step(tasks)
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    return pause


@asynccontextmanager
async def coordinating(url: str, **settings: Any) -> AsyncIterator[PartitionLoop]:
    """The same, running."""
    async with partition_loop(url, **settings) as loop, anyio.create_task_group() as tasks:
        tasks.start_soon(loop.run)
        tasks.start_soon(loop.run_slow)
        tasks.start_soon(loop.run_events)
        yield loop
        tasks.cancel_scope.cancel()
