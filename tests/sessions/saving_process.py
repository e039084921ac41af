"""A worker that saves a call's conversation as fast as it can, from many tasks, and tells what became of it."""

from __future__ import annotations

import json
import os
import sys

import anyio

from coordinator import CoordinatorError, Worker
from coordinator.sessions import RedisStore, SessionState

TASKS = 50


def tell(what: str, **fields: object) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


async def main(*arguments: str) -> None:
    url, name, call = arguments
    accepted, refused = 0, 0
    async with Worker(url, name=name) as worker, RedisStore(url, store_timeout=20) as store:
        session = await worker.open(call, b"data")
        bound = store.fenced(session)

        async def save() -> None:
            nonlocal accepted, refused
            while True:
                try:
                    await bound.save(SessionState(call, provider=name), force=True)
                    accepted += 1
                    if accepted == 10 * TASKS:
                        tell("ready")
                except CoordinatorError as error:
                    refused += type(error).__name__ == "FencedError"
                    break

        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(save)
        tell("refused", accepted=accepted, refused=refused, lost=session.lost.is_set())


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
