"""A worker whose program forks: what parent and child believe are lines of JSON. Ends when its standard input does."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import anyio
import anyio.to_thread

from coordinator import FencedError, Session, Worker

warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of forks in a process with threads


def say(who: str, **fields: Any) -> None:
    print(json.dumps({"who": who, "pid": os.getpid(), **fields}), flush=True)


def believes(session: Session) -> dict[str, bool]:
    return {"held": session.held, "may_speak": session.may_speak, "lost": session.lost.is_set()}


def child(session: Session) -> None:
    """Of `multiprocessing`."""
    errors: list[str] = []

    def write() -> None:
        try:
            anyio.run(session.checkpoint, b"the child's")
        except FencedError as fenced:
            errors.append(type(fenced).__name__)

    writing = threading.Thread(target=write)  # in this one, say sniffio and uvloop, the parent's loop still runs
    writing.start()
    writing.join(10)
    say("child", error="".join(errors), **believes(session))
    time.sleep(3600)


def fork(kind: str, session: Session) -> None:
    """Makes a child that stays."""
    if kind == "multiprocessing":
        multiprocessing.get_context("fork").Process(target=child, args=(session,)).start()
    elif kind == "subprocess":
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], close_fds=False)
        say("child", pid=other.pid)
    elif kind == "exits" and not os.fork():  # a child that leaves the blocks that it was forked in
        say("child", **believes(session))
        raise SystemExit


async def main(url: str, kind: str) -> None:
    async with Worker(url, name="forks") as worker:
        session = await worker.open("call-1", b"the parent's")
        say("ready", id=worker.id)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        fork(kind, session)
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            say("parent", **believes(session))


anyio.run(main, sys.argv[1], sys.argv[2])
