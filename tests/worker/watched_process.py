"""A worker that does what it reads, a line each: a signal's name, ``exit N``, ``leave``, ``fork``, ``exec``, ``start over``."""

from __future__ import annotations

import json
import os
import signal
import sys

import anyio

from coordinator import Worker
from tests import inside


def tell(what: str, **fields: object) -> None:
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


async def obey(worker: Worker) -> None:
    while line := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
        match line.split():
            case ["exit", status]:
                os._exit(int(status))
            case ["leave"]:
                return
            case ["fork"]:
                if not (child := os.fork()):
                    while True:
                        signal.pause()
                tell("forked", pid=child)
            case ["exec"]:
                os.execvp("sleep", ["sleep", "300"])
            case ["start", "over"]:
                before = worker.id
                await worker.certify(before)
                while worker.id == before or inside.member_of(worker).ledger.joining:
                    await anyio.sleep(0.01)
                tell("anew", id=worker.id)
            case [name]:
                os.kill(os.getpid(), signal.Signals[name])


async def main() -> None:
    url, name = sys.argv[1:3]
    async with Worker(url, name=name, log_format="json", log_level="debug") as worker:
        await worker.open(f"call-{os.getpid()}")
        tell("ready", id=worker.id, ids=[member.instance for member in inside.members_of(worker)])
        await obey(worker)
    tell("left")
    sys.stdin.readline()


anyio.run(main)
