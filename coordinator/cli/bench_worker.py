"""The benchmark's worker, a process of its own: adopts every call that it is offered, and closes it."""

from __future__ import annotations

import argparse
import os
import sys

import anyio

from coordinator import Session, Worker


async def adopt_all(url: str, prefix: str, capacity: int) -> None:
    """Adopts calls until it is killed. The handler returns at once, so that each call is closed as soon as it is adopted."""

    async def hang_up(session: Session) -> None:
        """The caller has nothing to say."""

    async with Worker(url, name="bench-worker", prefix=prefix, capacity=capacity) as worker:
        await worker.serve(hang_up)


def main() -> None:
    """Reads its arguments; ends when its standard input does."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.cli.bench_worker")
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--capacity", type=int, required=True)
    args = parser.parse_args()

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adopt_all, args.redis_url, args.prefix, args.capacity)
            await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
            os._exit(0)

    anyio.run(run)


if __name__ == "__main__":
    main()
