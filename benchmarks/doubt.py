"""How long the owner of many calls is in doubt after lost writes: ``python -m benchmarks.doubt [calls] [round trip in ms]``.

A worker over a line that takes its time; then the server seems to be another one, as after a failover. The hold lasts for
`DEAD_AFTER`; what is told is the time from its end until each call is held again.
"""

from __future__ import annotations

import sys
import time

import anyio

from coordinator import Session, Worker
from coordinator.cli.figures import percentile
from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.slow_line import SlowLine

CALLS, ROUND_TRIP_MS = 1000, 2.0
TOGETHER = 50
DATA = b"x" * 1000


async def run(server: RedisServer, calls: int, round_trip: float) -> None:
    """One failover, and the figures."""
    keys, client = Keys("recovery", 0), server.client()
    line = SlowLine(server.path, delay=round_trip / 2000, gulp=65536)
    try:
        async with Worker(line.url, name="many", capacity=2 * calls) as worker:
            sessions: list[Session] = []

            async def open_some(first: int) -> None:
                for n in range(first, calls, TOGETHER):
                    sessions.append(await worker.open(f"call-{n}", DATA))

            async with anyio.create_task_group() as tasks:
                for first in range(TOGETHER):
                    tasks.start_soon(open_some, first)
            client.hset(keys.meta, "server", "of-another-server")
            began = time.monotonic()
            while all(session.held for session in sessions):
                await anyio.sleep(0.001)
            doubted = time.monotonic() - began
            hold_until_ms = 0
            while not hold_until_ms:
                hold_until_ms = int(client.hget(keys.detector, "hold_until_ms") or 0)
                await anyio.sleep(0.001)
            seconds, micros = client.time()
            end = time.monotonic() + hold_until_ms / 1000 - (seconds + micros / 1e6)
            after = list[float]()
            for one in sessions:  # looking at all of them again and again would take as long as what is measured
                while not one.held:
                    await anyio.sleep(0.01)
                after.append(time.monotonic() - end)
            p50, p99, last = (f"{percentile(after, share):.2f} s" for share in (0.5, 0.99, 1.0))
            print(f"{calls} calls, {round_trip:g} ms a round trip: in doubt {doubted:.2f} s after the failover")
            print(f"held again after the end of the hold: p50 {p50}, p99 {p99}, last {last}")
            worker._instance.abandon()
    finally:
        line.close()


def main() -> None:
    """The command."""
    given = sys.argv[1:]
    calls = int(given[0]) if given else CALLS
    round_trip = float(given[1]) if len(given) > 1 else ROUND_TRIP_MS
    server = RedisServer()
    try:
        anyio.run(run, server, calls, round_trip)
    finally:
        server.close()


if __name__ == "__main__":
    main()
