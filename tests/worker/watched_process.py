"""A worker that does what it reads, a line each: a signal's name, ``exit N``, ``leave``, ``fork``, ``exec``, ``start over``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

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
                fork_child()
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


def fork_child() -> None:
    """A child that has all that this process has, and lives on."""
    if not (child := os.fork()):
        while True:
            signal.pause()
    tell("forked", pid=child)


class ForkingFirst(subprocess.Popen[bytes]):
    """Forks such a child before it starts a program, once."""

    forks = "FORKS_EARLY" in os.environ

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if ForkingFirst.forks:
            ForkingFirst.forks = False
            fork_child()
        super().__init__(*arguments, **options)


async def main() -> None:
    subprocess.Popen = ForkingFirst  # type: ignore[misc, assignment]
    url, name = sys.argv[1:3]
    async with Worker(url, name=name, log_format="json", log_level="debug") as worker:
        await worker.open(f"call-{os.getpid()}")
        tell("ready", id=worker.id, ids=[member.instance for member in inside.members_of(worker)])
        await obey(worker)
    tell("left")
    sys.stdin.readline()


anyio.run(main)
