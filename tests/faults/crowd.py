"""``python -m tests.faults.crowd URL SETTINGS NAME WORKERS CALLS``: many workers in one process, which write nothing down.

Each opens so many calls, and takes over what it is offered; ``ready`` on standard output when all have.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

import anyio

from coordinator import FencedError, NameInUseError, Session, StoreUnavailableError, Worker


async def wait_forever(_: Session) -> None:
    """The handler of a call that goes on."""
    await anyio.sleep_forever()


async def main(*arguments: str) -> None:
    """Until it is killed."""
    url, settings, name, workers, calls = arguments
    opened = anyio.Semaphore(0)

    async def one(number: int) -> None:
        async with Worker(url, name=f"{name}-{number}", **json.loads(settings)) as worker:
            for call in range(int(calls)):
                await worker.open(f"{name}-{number}-{call}", b"data")
            opened.release()
            await worker.serve(wait_forever)

    async def one_at_last(number: int) -> None:
        """So many at once may be slower than one that starts is given: whatever starts it does so again."""
        while True:
            with contextlib.suppress(StoreUnavailableError, NameInUseError, FencedError):
                return await one(number)

    async with anyio.create_task_group() as tasks:
        for number in range(int(workers)):
            tasks.start_soon(one_at_last, number)
        for _ in range(int(workers)):
            await opened.acquire()
        os.write(1, json.dumps({"what": "ready"}).encode() + b"\n")


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
