"""Workers for the alerts' tests, several in one process: opens calls, adopts what is offered, tells it as JSON lines.

Arguments: the URL, how it serves (``serve``, or ``poison``: it releases whatever it has), then ``name:call,call`` a worker.
Everything else is set by the environment.
"""

from __future__ import annotations

import json
import os
import sys

import anyio

from coordinator import Worker


def tell(what: str, **fields: object) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


async def serve(url: str, mode: str, name: str, calls: list[str]) -> None:
    async with Worker(url, name=name) as worker:
        for call in calls:
            session = await worker.open(call, b"data")
            if mode == "poison":
                await session.release("it fails")
        tell("ready", instance=worker.id)
        async for offer in worker.offers():
            adopted = await offer.adopt()
            if adopted is not None:
                tell("adopted", session=adopted.id)
                if mode == "poison":
                    await adopted.release("it fails again")


async def main(*arguments: str) -> None:
    url, mode, *workers = arguments
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            name, _, calls = worker.partition(":")
            tasks.start_soon(serve, url, mode, name, [call for call in calls.split(",") if call])


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
