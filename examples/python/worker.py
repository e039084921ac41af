"""A worker in twenty lines: opens calls, keeps their data fresh, and adopts the calls of workers that died."""

import os
import sys

import anyio

from coordinator import Session, Worker


async def serve_call(session: Session) -> None:
    """One call, opened or adopted: attach media with its recovery data, then keep that data fresh."""
    data = session.recovery_data
    assert isinstance(data, dict)
    await session.resumed()
    while True:
        await anyio.sleep(1)
        data["sequence"] += 1
        await session.checkpoint(data)


async def main(name: str, *calls: str) -> None:
    async with Worker(os.environ.get("REDIS_URL", "redis://localhost:6379"), name=name, capacity=50) as worker:
        for call in calls:
            await worker.open(call, recovery_data={"call_sid": call, "sequence": 0})
        await worker.serve(serve_call)


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
