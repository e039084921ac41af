"""A worker that is entered by hand and whose block is never left; what is believed, and when the exit is stated, are lines of JSON.

Modes: ``cleaned-up`` (`asyncio.run` ends), ``closed`` (the event loop is closed without a clean-up), ``thread`` (the main thread ends
while another one goes on), ``exit`` (the interpreter ends). A line of standard input asks for what is believed now.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

from coordinator import Session, Worker
from coordinator.store.executor import Executor, SyncExecutor
from coordinator.store.scripts import ScriptCall
from tests.inside import submit_spot

MODE = sys.argv[2]
_SESSIONS: list[Session] = []


def say(who: str, **fields: Any) -> None:
    [session] = _SESSIONS
    believes = {"held": session.held, "may_speak": session.may_speak, "lost": session.lost.is_set()}
    print(json.dumps({"who": who, **believes, **fields}), flush=True)


def tell_of(calls: Sequence[Any]) -> None:
    for call in calls:
        if isinstance(call, ScriptCall) and call.script.name in ("certify", "release"):
            say(call.script.name, cause=dict(zip(call.script.header.args, call.args, strict=True))["cause"])


def watch() -> None:
    """Tells of each certificate and release before it is sent."""
    run_many, submit = SyncExecutor.run_many, getattr(*submit_spot())

    def from_the_thread(executor: SyncExecutor, calls: Sequence[ScriptCall[Any]]) -> Any:
        tell_of(calls)
        return run_many(executor, calls)

    def from_the_loop(executor: Executor, what: Any) -> Any:
        tell_of(what)
        return submit(executor, what)

    setattr(SyncExecutor, "run_many", from_the_thread)  # noqa: B010 - as a method
    setattr(*submit_spot(), from_the_loop)


async def enter() -> None:
    worker = await Worker(sys.argv[1], name="leaves").__aenter__()
    _SESSIONS.append(await worker.open("call-1", b"data"))
    say("ready", id=worker.id)


def answer() -> None:
    while sys.stdin.readline():
        say("asked")


watch()
if MODE == "cleaned-up":
    asyncio.run(enter())
    answer()
else:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    if MODE == "closed":
        loop.close()
        answer()
    elif MODE == "thread":
        threading.Thread(target=answer).start()
