"""A child that serves one call and does what it reads, a line each; it tells what it sees."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from coordinator import ChildSession, CoordinatorError
from coordinator.clock import now


def tell(what: str, **fields: object) -> None:
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


def fork() -> None:
    """A child that has all that this process has, and lives on."""
    if not (pid := os.fork()):
        while True:
            signal.pause()
    tell("forked", pid=pid)


async def tried(what: str, does: Callable[[], Awaitable[Any]]) -> None:
    try:
        await does()
    except CoordinatorError as error:
        tell("failed", at=what, error=type(error).__name__, text=str(error))
    else:
        tell("done", at=what)


async def obey(session: ChildSession) -> None:
    while line := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
        what, _, rest = line.partition(" ")
        match what:
            case "checkpoint":
                await tried(what, lambda rest=rest: session.checkpoint(json.loads(rest)))  # type: ignore[misc]
            case "stage":
                session.stage(json.loads(rest))
                tell("done", at=what)
            case "close" | "resumed":
                await tried(what, getattr(session, what))
            case "release":
                await tried(what, lambda rest=rest: session.release(rest))  # type: ignore[misc]
            case "say":
                data = session.recovery_data
                tell("said", held=session.held, may_speak=session.may_speak, epoch=session.epoch, data=str(data))
            case "last-words":

                async def last_words(rest: str = rest) -> None:
                    await session.checkpoint(json.loads(rest))

                session.letting_go = last_words
                tell("done", at=what)
            case "busy":
                with session.busy():
                    tell("busy")
                    await anyio.to_thread.run_sync(sys.stdin.readline)
            case "fork":
                fork()
            case "block":
                signal.pause()
            case "watch":  # when belief ends, by the clock that parent and child share
                while session.held:
                    pass
                tell("unheld", at=now())
            case "raise":
                raise RuntimeError("a fault in the child")
            case "leave":
                return


async def main() -> None:
    address, call, *rest = sys.argv[1:]
    tell("started")
    try:
        async with ChildSession(address, call, *map(float, rest)) as session, anyio.create_task_group() as tasks:
            tell(
                "joined",
                epoch=session.epoch,
                data=str(session.recovery_data),
                recovered=session.recovered,
                cause=session.cause,
            )

            async def follow() -> None:
                await session.lost.wait()
                tell("lost", reason=session.lost_reason, held=session.held)

            tasks.start_soon(follow)
            if "PREPARES" in os.environ:
                sys.stdin.readline()
                await session.owned()
                tell("owned", epoch=session.epoch, data=str(session.recovery_data), planned=session.planned)
            await obey(session)
            tasks.cancel_scope.cancel()
    except CoordinatorError as error:
        tell("refused", error=type(error).__name__, text=str(error))
    tell("left")


anyio.run(main)
