"""A worker to copy: opens the calls that it is given, serves them, and adopts the calls of workers that died."""

import signal
import sys
from contextlib import suppress

import anyio

from coordinator import Session, SessionHeldError, Worker

STAGE_SECONDS = 0.5


async def serve_call(session: Session) -> None:
    """One call, opened or adopted: attaches its media with the recovery data, then keeps that data fresh."""
    data = {"sequence": 0, **(session.recovery_data or {})}  # a call may have none yet
    print(session.id, "adopted" if session.recovered else "opened", f"at {data['sequence']}", flush=True)
    await session.resumed()  # its media is up
    while True:
        await anyio.sleep(STAGE_SECONDS)
        data["sequence"] += 1
        session.stage(data)  # returns at once: audio never waits for the store


async def main(name: str, *calls: str) -> None:
    async with Worker(name=name) as worker:  # the Redis of COORDINATOR_REDIS_URL
        for call in calls:
            with suppress(SessionHeldError):  # it goes on where it is
                await worker.open(call, recovery_data={"call_sid": call})
        await worker.serve(serve_call, drain_on=[signal.SIGTERM])
        print(f"{name}: {len((await worker.drain()).handed_over)} calls handed over", flush=True)


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
