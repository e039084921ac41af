"""Child processes of `demo` and `bench`."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from coordinator.cli.processes import CoordinatorProcess, StartError, free_port, interruptible, started
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_ends_with_the_block() -> None:
    """Leaving the block kills the process and waits for its end."""
    async with started("calm", "http.server", ["0"]) as child:
        pid = child.pid
        assert child.alive

    assert gone(pid)


async def test_a_child_ends_when_the_block_is_cancelled() -> None:
    """So does leaving it by cancellation."""
    with anyio.CancelScope() as scope:
        async with started("calm", "http.server", ["0"]) as child:
            pid = child.pid
            scope.cancel()
            await anyio.sleep_forever()

    assert gone(pid)


async def test_last_words() -> None:
    """What a child wrote to standard error can be told when it failed."""
    async with started("wrong", "http.server", ["--no-such-option"]) as child:
        await eventually(lambda: not child.alive, description="it ends")

        assert "no-such-option" in child.last_words()


async def test_lines_of_a_killed_child_end_with_the_last_whole_one() -> None:
    """What a child wrote before it was killed is read to the end."""
    async with started("help", "http.server", ["--help"], output=True) as child:
        lines = [line async for line in child.lines()]

    assert any("usage:" in line for line in lines)


async def test_a_coordinator_that_cannot_start_is_told() -> None:
    """Waiting for a coordinator that ended raises with what it said."""
    async with CoordinatorProcess.run("wrong", "http://localhost", "recovery") as coordinator:
        with pytest.raises(StartError, match="wrong did not start"):
            await coordinator.ready()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_the_block_in_order(number: Any) -> None:
    """Cleanup inside the block runs, then KeyboardInterrupt is raised."""
    cleaned = False
    with pytest.raises(KeyboardInterrupt):
        async with interruptible():
            try:
                await anyio.lowlevel.checkpoint()
                os.kill(os.getpid(), number)
                await anyio.sleep_forever()
            finally:
                cleaned = True

    assert cleaned


async def test_without_a_signal_the_block_simply_ends() -> None:
    """Nothing is raised when nobody interrupts."""
    async with interruptible():
        await anyio.lowlevel.checkpoint()


def test_free_port() -> None:
    """The port is one that can be bound."""
    assert 1024 <= free_port() <= 65535
