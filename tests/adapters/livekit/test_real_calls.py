"""Real calls on a real LiveKit server: agents are killed, moved and hung up, and a caller listens."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is in no environment but its own: make adapters")

from tests.store.harness import Bench
from tests.voice_stacks.livekit import Fault, Stack, drained, one_recovery, to_job, to_worker, until
from tests.voice_stacks.livekit_server import why_none

pytestmark = [
    pytest.mark.skipif(bool(why_none()), reason=why_none()),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("livekit"),
]


FAULTS: list[tuple[str, Fault, bool]] = [
    *[(f"kill {n}", to_worker(signal.SIGKILL), True) for n in range(1, 6)],
    ("rollout", to_worker(signal.SIGTERM), True),
    ("drain", drained, True),
    ("job killed", to_job(signal.SIGKILL), False),
    ("job frozen", to_job(signal.SIGSTOP), False),
    ("worker frozen", to_worker(signal.SIGSTOP), False),
]
"""One after the other on one LiveKit server, each with a call of its own; whether the worker is started again afterwards."""


def test_a_caller_is_heard_again_after_every_fault() -> None:
    """Kills, a rollout, a drain, jobs that die or hang, a frozen worker: each time an heir is heard that knows all that was kept."""

    async def main() -> None:
        async with Stack(environment={"COORDINATOR_WEDGED_AFTER": "2s"}) as stack:
            knew = {what: (await one_recovery(stack, fault, replace=replace)).knew for what, fault, replace in FAULTS}
            assert knew == {what: True for what, _, _ in FAULTS}

    asyncio.run(main())


@pytest.mark.parametrize("words", [0, 800], ids=["short", "long"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_an_agent_session_knows_what_was_said(number: signal.Signals, words: int) -> None:
    """An heir has the chat context and user data of before; it is not entered again, and told that it recovered after a crash only."""

    async def main() -> None:
        instructions = {"WORDY": str(words)}  # more than travels with an offer
        async with Stack(agent="talk", environment=instructions) as stack, stack.call() as (caller, agent, job):
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
