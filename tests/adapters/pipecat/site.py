"""A place with a store, a coordinator, servers with bots, and callers before a door."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process, coordinator
from tests.adapters.pipecat.provider import Caller
from tests.waiting import eventually

__all__ = ["CallSite", "call_site"]

KEYS = Keys("recovery", 0)
LEVELS = (1000, 2000, 4000, 8000, 16000)
START_SECONDS = 60.0


class BotServer:
    """A server process, by the loudness of its voice."""

    def __init__(self, process: Process, level: int) -> None:
        self.process, self.level = process, level

    @property
    def address(self) -> str:
        """Of its websockets."""
        return f"ws://127.0.0.1:{self.process.told('ready')[0]['port']}/media"

    def told(self, what: str) -> list[dict[str, Any]]:
        """As `Process.told`."""
        return self.process.told(what)


class CallSite:
    """Servers and callers.

    Attributes:
        server: the one to which the door leads now.
    """

    def __init__(self, url: str, client: Any, tasks: anyio.abc.TaskGroup, stack: AsyncExitStack) -> None:
        self._url, self._client, self._tasks, self._stack = url, client, tasks, stack
        self._count = 0
        self.server: BotServer | None = None

    async def start(self, *, watched: bool = False, **options: Any) -> BotServer:
        """Starts a server; the door leads to the first one.

        Args:
            watched: whether an exit watcher certifies its end.
            options: as `tests.adapters.pipecat.server.Options`, and the worker's settings.
        """
        level = LEVELS[self._count % len(LEVELS)]
        self._count += 1
        process = Process(
            "tests.adapters.pipecat.server", self._url, f"voice-{self._count}", str(level), json.dumps(options),
            COORDINATOR_WATCH_EXIT=str(watched).lower(),
        )  # fmt: skip
        self._stack.callback(process.close)
        await eventually(lambda: process.told("ready") or not process.alive, START_SECONDS, "a server is ready")
        assert process.alive, process.errors()[-3000:]
        server = BotServer(process, level)
        self.server = self.server or server
        return server

    def door(self) -> str:
        """Where callers connect."""
        assert self.server is not None
        return self.server.address

    async def call(self, call_sid: str = "CA1", *, turns: int = 2) -> Caller:
        """Begins a call that has had so many turns."""
        caller = Caller(call_sid, self.door)
        self.run(caller.run)
        server = self.server
        assert server is not None
        await eventually(lambda: any(one["call"] == call_sid for one in server.told("bot")), 30, "its bot has the call")
        for number in range(1, turns + 1):
            await self.turn(caller, server, number)
        return caller

    async def turn(self, caller: Caller, server: BotServer, number: int) -> None:
        """The caller presses the key of that number and hears the whole answer."""
        then = time.monotonic()
        await caller.press(str(number))
        await eventually(lambda: caller.heard_after(then, server.level), 20, "the caller hears the answer")
        await eventually(lambda: not caller.heard_after(time.monotonic() - 0.3, server.level), 20, "the answer is over")
        await eventually(
            lambda: f"turn {number}" in str(self.stored(caller.call_sid).get("context")), 20, "the answer is kept"
        )

    def run(self, what: Any, *arguments: Any) -> None:
        """As a task beside the test."""
        self._tasks.start_soon(what, *arguments)

    def stored(self, call_sid: str = "CA1") -> dict[str, Any]:
        """The call's recovery data; empty when it is closed."""
        return dict(json.loads(self._client.hget(KEYS.session(call_sid), "data") or b"{}"))

    def state(self, call_sid: str = "CA1") -> str:
        """Of the call's session."""
        return str((self._client.hget(KEYS.session(call_sid), "state") or b"").decode())

    async def settled(self) -> None:
        """The coordinator judges: its hold after the start is over."""

        def on_hold() -> bool:
            until = self._client.hget(KEYS.detector, "hold_until_ms")
            return until is None or int(until) > self._client.time()[0] * 1000

        await eventually(lambda: not on_hold(), 30, "the hold of the start is over")

    @staticmethod
    def kill(server: BotServer) -> float:
        """Ends it with SIGKILL; returns when."""
        then = time.monotonic()
        server.process.send(signal.SIGKILL)
        return then


@asynccontextmanager
async def call_site(url: str, client: Any) -> AsyncIterator[CallSite]:
    """A site with a coordinator on an empty store."""
    async with AsyncExitStack() as stack:
        stack.enter_context(coordinator(url))
        async with anyio.create_task_group() as tasks:
            site = CallSite(url, client, tasks, stack)
            await site.settled()
            yield site
            tasks.cancel_scope.cancel()
