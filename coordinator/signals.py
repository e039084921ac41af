"""How programs hear signals, and where it stands what SIGTERM does to each.

- A worker whose program asked for it (``serve(drain_on=[SIGTERM])``) drains, and ``serve`` returns: `coordinator.worker.instance`.
- A coordinator stops at once, since another one goes on with what it began: `coordinator.daemon.daemon`.
- A sidecar drains its workers, and ends when they have left: `coordinator.sidecar.sidecar`.
- `coordinator supervise` passes it on to its child, and says how that ended: `coordinator.supervisor.supervisor`.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

__all__ = ["STOPS", "heard"]

STOPS = (signal.SIGTERM, signal.SIGINT)
"""Ask a program to end."""


@contextmanager
def heard(*numbers: signal.Signals) -> Iterator[AsyncIterator[str]]:
    """From now on these signals do nothing by themselves; their names are iterated over as they come, such as ``SIGTERM``."""

    async def names() -> AsyncIterator[str]:
        async for number in received:
            yield signal.Signals(number).name

    with anyio.open_signal_receiver(*numbers) as received:
        yield names()
