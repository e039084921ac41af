"""A program with workers of the library: ``python -m tests.supervisor.library_worker URL CALL[@NAME] ...``.

Each call is one worker's. A line on its standard input says how to end: ``exit N`` at once, ``raise``, ``leave``; ``fork`` leaves
a child behind that lives on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio

from coordinator import Worker
from tests.inside import members_of


def say(what: str, **fields: Any) -> None:
    """One line."""
    print(json.dumps({"what": what, **fields}), flush=True)


def leave_a_child() -> None:
    """It has a copy of everything, and does nothing with it."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    say("forked", pid=child)


async def main(url: str, calls: list[str]) -> None:
    """Serves nothing, and lives until it is told to end."""
    async with AsyncExitStack() as stack:
        workers = []
        for one in calls:
            call, _, name = one.partition("@")
            worker = await stack.enter_async_context(Worker(url, name=name or None))
            await worker.open(call, {"n": 0})
            workers.append(worker)
        say("ready", pid=os.getpid(), instances=[[m.instance for m in members_of(worker)] for worker in workers])
        while True:
            line = await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            if not line:  # nobody will tell
                await anyio.sleep_forever()
            match line.split():
                case ["exit", number]:
                    os._exit(int(number))
                case ["raise"]:
                    raise RuntimeError("as it was told")
                case ["fork"]:
                    leave_a_child()
                case ["ids"]:
                    say("ids", instances=[[m.instance for m in members_of(worker)] for worker in workers])
                case _:
                    return


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2:])
