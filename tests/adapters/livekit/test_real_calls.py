"""Real calls on a real LiveKit server: agents are killed, moved and hung up, and a caller listens."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is in no environment but its own: make adapters")

from tests.store.harness import Bench
from tests.voice_stacks.livekit import NONE, Fault, Heard, Stack, drained, one_recovery, to_job, to_worker, until
from tests.voice_stacks.livekit_server import why_none

pytestmark = [
    pytest.mark.skipif(bool(why_none()), reason=why_none()),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("livekit"),
]


def run(fault: Fault, times: int, *, replace: bool, environment: Mapping[str, str] = NONE) -> list[Heard]:
    async def main() -> list[Heard]:
        async with Stack(environment=environment) as stack:
            return [await one_recovery(stack, fault, replace=replace) for _ in range(times)]

    return asyncio.run(main())


def test_a_killed_worker_is_heard_again_each_time() -> None:
    """Five kills: the caller hears the heir each time, which knows all that was kept."""
    found = run(to_worker(signal.SIGKILL), 5, replace=True)
    assert [one.knew for one in found] == [True] * 5


@pytest.mark.parametrize("fault", [to_worker(signal.SIGTERM), drained], ids=["SIGTERM", "drain"])
def test_a_moved_call_is_heard_again(fault: Fault) -> None:
    """A rollout and a drain from outside: the heir goes on with all that was kept."""
    found = run(fault, 2, replace=True)
    assert [one.knew for one in found] == [True] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_job_that_dies_or_hangs_is_heard_again(number: signal.Signals) -> None:
    """A job process alone: its call goes on, and its worker serves on."""
    found = run(to_job(number), 2, replace=False, environment={"COORDINATOR_WEDGED_AFTER": "2s"})
    assert [one.knew for one in found] == [True] * 2


def test_a_frozen_worker_is_replaced() -> None:
    """A worker that stands still while its job goes on speaking: the heir has the call, and the other is out of the room."""
    found = run(to_worker(signal.SIGSTOP), 1, replace=True)
    assert [one.knew for one in found] == [True]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_an_agent_session_knows_what_was_said(number: signal.Signals) -> None:
    """An heir has the chat context and user data of before; it is not entered again, and told that it recovered after a crash only."""

    async def main() -> None:
        async with Stack(agent="talk") as stack, stack.call() as (caller, agent, job):
            [heir] = [one for one in stack.agents if one is not agent]
            await until(lambda: len(agent.told("said", job)) >= 3, "three sentences were said")
            said = agent.told("said", job)[-1]["n"]
            began = time.monotonic()
            agent.send(number)
            await until(lambda: caller.hearing.first(heir.pitch, began), "the heir is heard")
            await until(lambda: heir.told("serves", job), "the heir says what it knows")
            [serves] = heir.told("serves", job)
            sentences = [text for text in serves["said"] if text.startswith("sentence")]
            assert sentences[: said - 1] == [f"sentence {n}" for n in range(1, said)]
            assert serves["pizzas"] >= said - 1
            assert not heir.told("enters")
            planned = number is signal.SIGTERM
            await until(lambda: len(heir.told("said", job)) >= 2, "it goes on")
            assert bool(heir.told("on_recovered")) is not planned
            again = heir.told("said", job)[0]["n"]
            assert again == serves["pizzas"] + 1

    asyncio.run(main())


def test_a_caller_who_hangs_up_ends_the_call() -> None:
    """The caller leaves: the session is closed, and nobody is offered it."""

    async def main() -> None:
        async with Stack(agent="talk") as stack:
            async with stack.call() as (_, _, job):
                record = Bench(stack.redis.client()).record(job)
                assert record["state"] == "active"
            await until(lambda: Bench(stack.redis.client()).record(job)["state"] == "closed", "it is closed")

    asyncio.run(main())


def test_without_the_adapter_nobody_is_heard_again() -> None:
    """The control: the same agent on LiveKit's own server is silent for good after a kill."""

    async def main() -> None:
        async with Stack(environment={"CONTROL": "1"}) as stack, stack.call() as (caller, agent, _):
            began = time.monotonic()
            agent.send(signal.SIGKILL)
            await asyncio.sleep(8)
            assert max(caller.hearing.last(one.pitch) for one in stack.agents) < began + 1

    asyncio.run(main())
