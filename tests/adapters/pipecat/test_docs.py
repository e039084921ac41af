"""The page on Pipecat says what the example and the code do."""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest
import redis

from coordinator.adapters.pipecat import PipecatCall, WebsocketDoor
from coordinator.adapters.pipecat.call import HANGS_AFTER_SECONDS
from tests.acceptance.processes import Process, coordinator
from tests.adapters.pipecat.provider import Caller
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "pipecat.md").read_text()
EXAMPLE = ROOT / "examples" / "pipecat" / "server.py"


def has_workers() -> bool:
    """Whether this Pipecat is one for which the example is written."""
    return find_spec("pipecat") is not None and find_spec("pipecat.pipeline.worker") is not None


def test_the_page_shows_the_example() -> None:
    """Character for character, with ten numbered lines."""
    assert EXAMPLE.read_text().rstrip() in PAGE
    assert re.findall(r"# (\d+)\b", EXAMPLE.read_text()) == [str(number) for number in range(1, 11)]


def test_the_page_has_the_defaults() -> None:
    """Times and arguments stand there as they are in the code."""
    defaults = {name: one.default for name, one in inspect.signature(WebsocketDoor).parameters.items()}
    assert f"`comes_back_within` ({defaults['comes_back_within']:g} s)" in PAGE
    assert f"`quiet_within` ({defaults['quiet_within']:g} s)" in PAGE
    assert f"`hangs_after` ({HANGS_AFTER_SECONDS:g} s)" in PAGE
    for name in re.findall(r"`call\.(\w+)", PAGE):
        assert hasattr(PipecatCall, name) or f"self.{name}" in inspect.getsource(PipecatCall)
    for name in re.findall(r"`(?:await )?door\.(\w+)", PAGE):
        assert hasattr(WebsocketDoor, name)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.skipif(
    not has_workers(), reason="no Pipecat >= 1.3 is installed here: `make adapters` runs this where it is"
)
async def test_the_example_runs(url: str, redis_client: redis.Redis) -> None:
    """Two of its servers: one is killed and another ended by SIGTERM, and the call goes on with all that was said."""
    ports = [free_port() for _ in range(3)]
    servers: list[Process] = []
    leads_to = ports[0]

    def start(port: int) -> Process:
        servers.append(
            Process(program=[sys.executable, str(EXAMPLE)], PORT=str(port), COORDINATOR_REDIS_URL=url, COORDINATOR_WATCH_EXIT="true",
                    PYTHONPATH=f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        )  # fmt: skip
        return servers[-1]

    async def listens(port: int) -> None:
        def connects() -> bool:
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        await eventually(connects, 60, "a server listens")

    caller = Caller("CA1", lambda: f"ws://127.0.0.1:{leads_to}/media")

    async def counts(number: int) -> None:
        """The caller presses a key, hears something, and the answer with this number is kept."""
        then = time.monotonic()
        await caller.press("1")
        await eventually(lambda: any(one.at > then for one in caller.heard), 30, "the caller hears the bot")
        text = f"That was number {number}."
        await eventually(lambda: text in str(redis_client.hget("{recovery:0}:session:CA1", "data")), 30, text)

    async def comes_again(connects: int) -> None:
        await eventually(lambda: caller.connects > connects and caller.is_connected, 30, "the provider comes again")

    try:
        with coordinator(url):
            for port in ports:
                start(port)
            for port in ports:
                await listens(port)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(caller.run)
                await comes_again(0)
                await counts(1)
                for index, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
                    leads_to = ports[index + 1]
                    connects = caller.connects
                    servers[index].send(end)
                    await comes_again(connects)
                    await counts(index + 2)
                await eventually(lambda: not servers[1].alive, 30, "the drained server ends")
                await caller.hang_up()
                tasks.cancel_scope.cancel()
    finally:
        for server in servers:
            server.close()
