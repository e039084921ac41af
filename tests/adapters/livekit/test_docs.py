"""The page on LiveKit says what the example and the code do."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "livekit.md").read_text()
EXAMPLE = ROOT / "examples" / "livekit" / "agent.py"
HERE = find_spec("livekit") is not None and find_spec("livekit.agents") is not None


def test_the_page_shows_the_example() -> None:
    """Character for character, with its numbered lines."""
    assert EXAMPLE.read_text().rstrip() in PAGE
    assert re.findall(r"# (\d+)\b", EXAMPLE.read_text()) == [str(number) for number in range(1, 5)]


def test_a_program_without_livekit_imports_nothing_of_it() -> None:
    """The package can be imported where the framework is not, and loads nothing before it is used."""
    import coordinator.adapters.livekit as adapter

    assert adapter.__all__ == ["LiveKitCall", "RecoveringServer", "recover"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = adapter.nothing


@pytest.mark.skipif(not HERE, reason="livekit-agents is in no environment but its own: make adapters")
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("livekit")
def test_the_example_runs() -> None:
    """Two of its agents: one is killed, and the call goes on with all that was said."""
    from tests.voice_stacks.livekit import Stack, until
    from tests.voice_stacks.livekit_caller import Caller
    from tests.voice_stacks.livekit_server import why_none

    if why := why_none():
        pytest.skip(why)

    async def main() -> None:
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        async with (
            Stack(agent="counter", program=[str(EXAMPLE)], environment={"PYTHONPATH": path}) as stack,
            Caller(stack.livekit.url, "room") as caller,
        ):
            await caller.dispatch("counter")
            await until(lambda: caller.participants, "an agent joins")
            began = time.monotonic()

            def hears() -> bool:
                return caller.hearing.first(500, began) is not None

            while not hears():  # until it listens
                await caller.say("one")
                for _ in range(20):
                    await asyncio.sleep(0.1)
                    if hears():
                        break
            [key] = stack.redis.client().keys("*:session:AJ_*")

            def kept() -> str:
                return str(stack.redis.client().hget(key, "data"))

            await until(lambda: "That was number" in kept(), "its answer is kept")
            said = max(int(number) for number in re.findall(r"That was number (\d+)", kept()))
            owner = str(stack.redis.client().hget(key, "owner"))
            [victim] = [agent for agent in stack.agents if f"'{agent.name}" in owner]
            began = time.monotonic()
            victim.send(signal.SIGKILL)
            try:
                await until(lambda: "I am back." in kept(), "the heir says so")
            except AssertionError:
                stack.print_logs()
                raise
            await until(hears, "the heir is heard")
            await caller.say("two")
            await until(lambda: f"That was number {said + 1}" in kept(), f"it goes on counting: {kept()}")
            assert '"topic":"numbers"' in kept()

    asyncio.run(main())
