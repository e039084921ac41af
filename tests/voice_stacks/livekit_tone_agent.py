"""An agent under test: it sounds one tone without a pause, and counts turns. ``CONTROL=1``: without this project.

Started as ``python -m tests.voice_stacks.livekit_tone_agent start`` with the pitch in PITCH, and the worker's name in NAME.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

from livekit import rtc
from livekit.agents import AgentServer, JobContext, cli

from coordinator.adapters.livekit import LiveKitCall, RecoveringServer
from coordinator.errors import CoordinatorError
from tests.voice_stacks.tone import FRAME, RATE, Tone

CONTROL = "CONTROL" in os.environ
OPTIONS: dict[str, Any] = {
    "port": 0,
    "host": "127.0.0.1",
    "num_idle_processes": int(os.environ.get("IDLE", "2")),
    "load_threshold": 10.0,
}
OPTIONS["load_fnc"] = lambda: 0.1  # LiveKit gives no calls to a machine that is busy with others
server = (
    AgentServer(**OPTIONS) if CONTROL else RecoveringServer(recovery={"name": os.environ.get("NAME", "a")}, **OPTIONS)
)


def tell(what: str, **more: object) -> None:
    os.write(
        1, json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n"
    )  # whole: other processes write there, too


@server.rtc_session(agent_name="tone")
async def entrypoint(ctx: JobContext) -> None:  # noqa: PLR0915 - one agent, from its beginning to its end
    tone, silence = Tone(int(os.environ["PITCH"])), bytes(2 * FRAME)
    call = LiveKitCall(ctx)
    if not CONTROL:
        try:
            await call.begin()
        except CoordinatorError as error:
            tell("refused", error=str(error))
            ctx.shutdown("its call is not here")
            return
    speaks = not (call.planned or call.recovered)
    if call.recovered and not call.planned:
        await call.takes_over()
        speaks = True
    await ctx.connect()
    source = rtc.AudioSource(RATE, 1, queue_size_ms=60)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    publication = await ctx.room.local_participant.publish_track(track)

    async def sound() -> None:
        while not call.lost.is_set():
            frame = rtc.AudioFrame(tone.frame() if speaks else silence, RATE, 1, FRAME)
            await source.capture_frame(frame)
        source.clear_queue()

    sounding = asyncio.create_task(sound())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(publication.wait_for_subscription(), 2)
    if call.planned:
        try:
            await call.takes_over()
        except CoordinatorError as error:
            tell("refused", error=str(error))
            ctx.shutdown("its call is not here")
            return
        speaks = True
    turns = int(call.data.get("turns", 0))
    await call.speaks_again()
    tell(
        "serves", job=ctx.job.id, turns=turns, planned=call.planned, recovered=call.recovered, metadata=ctx.job.metadata
    )

    async def count() -> None:
        nonlocal turns
        while not call.lost.is_set():
            turns += 1
            with contextlib.suppress(CoordinatorError):
                await call.keep_now({"turns": turns})
                tell("kept", job=ctx.job.id, turns=turns)
            await asyncio.sleep(0.1)

    counting = asyncio.create_task(count())

    async def stop() -> None:
        await call.lost.wait()
        await sounding
        tell("lost", turns=turns)
        await asyncio.sleep(1.5)
        ctx.shutdown("another worker has the call")

    stopping = asyncio.create_task(stop())

    async def end(reason: str) -> None:
        for task in (counting, stopping):
            task.cancel()
        await call.end("the job crashed" if reason == "job crashed" else "")
        tell("ended", reason=reason)

    ctx.add_shutdown_callback(end)


if __name__ == "__main__":
    cli.run_app(server)
