"""An agent under test with an ``AgentSession``: its sentences are tones, and it tells what it knows of the call."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, JobContext, cli

from coordinator.adapters.livekit import LiveKitCall, RecoveringServer, recover
from coordinator.errors import CoordinatorError
from tests.voice_stacks.tone import FRAME, RATE, Tone

OPTIONS: dict[str, Any] = {"port": 0, "host": "127.0.0.1", "num_idle_processes": 2, "load_threshold": 10.0}
OPTIONS["load_fnc"] = lambda: 0.1  # LiveKit gives no calls to a machine that is busy with others
server = RecoveringServer(recovery={"name": os.environ.get("NAME", "a")}, **OPTIONS)


def tell(what: str, **more: object) -> None:
    os.write(
        1, json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n"
    )  # whole: other processes write there, too


@dataclass
class Order:
    """The user data of a call."""

    pizzas: int = 0


async def sound(seconds: float) -> AsyncIterator[rtc.AudioFrame]:
    tone = Tone(int(os.environ["PITCH"]))
    for _ in range(int(seconds * 50)):
        yield rtc.AudioFrame(tone.frame(), RATE, 1, FRAME)


class Pizzeria(Agent):
    async def on_enter(self) -> None:
        tell("enters")


INSTRUCTIONS = "You sell pizza." + " And nothing else." * int(os.environ.get("WORDY", "0"))


@server.rtc_session(agent_name="talk")
async def entrypoint(ctx: JobContext) -> None:
    session = AgentSession[Order](userdata=Order(), vad=None)

    async def again(call: LiveKitCall) -> None:
        tell("on_recovered", cause=call.cause, gap=call.gap)
        await session.say("I am back", audio=sound(0.2))

    try:
        call = await recover(ctx, session, Pizzeria(instructions=INSTRUCTIONS), on_recovered=again)
    except CoordinatorError as error:
        tell("refused", error=str(error))
        return
    tell(
        "serves",
        job=ctx.job.id,
        metadata=ctx.job.metadata,
        planned=call.planned,
        pizzas=session.userdata.pizzas,
        said=[item.text_content for item in session.current_agent.chat_ctx.items if item.type == "message"],
    )

    async def talk() -> None:
        while not call.lost.is_set():
            session.userdata.pizzas += 1
            tell("says", n=session.userdata.pizzas)
            await session.say(f"sentence {session.userdata.pizzas}", audio=sound(0.4))
            tell("said", job=ctx.job.id, n=session.userdata.pizzas)
            await asyncio.sleep(0.2)

    talking = asyncio.create_task(talk())

    async def ended(reason: str) -> None:
        talking.cancel()
        tell("ended", reason=reason)

    ctx.add_shutdown_callback(ended)


if __name__ == "__main__":
    cli.run_app(server)
