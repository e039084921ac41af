"""What sealing costs: ``python -m benchmarks.sealed [rounds]``.

Opening, checkpointing and adopting a call with keys and without, turn by turn in the same run, so that a busy machine is busy for
both; one at a time, so each figure is a round trip of a worker. Then how long sealing and opening take without Redis.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio

from benchmarks.sessions import computed, show
from coordinator import Worker
from coordinator.keyring import KeyRing
from coordinator.worker.sealer import Place, Sealer
from tests.redis_server import RedisServer

ROUNDS = 1000
SIZES = (1024, 8 * 1024, 60 * 1024)
HOW = ("plain", "sealed")


async def _timed(took: list[float], do: Callable[[], Awaitable[Any]]) -> Any:
    began = time.perf_counter()
    done = await do()
    took.append((time.perf_counter() - began) * 1000)
    return done


async def _measure(workers: dict[str, tuple[Worker, Worker]], size: int, rounds: int) -> dict[str, list[float]]:
    data = {"call_sid": "CA0123456789", "pad": "x" * (size - 40)}
    took: dict[str, list[float]] = {f"{what}, {how}": [] for what in ("open", "checkpoint", "adopt") for how in HOW}
    for n in range(rounds):
        for how, (owner, heir) in workers.items():
            call = f"{how}-{size}-{n}"
            session = await _timed(took[f"open, {how}"], lambda: owner.open(call, data))  # noqa: B023 - done at once
            await _timed(took[f"checkpoint, {how}"], lambda: session.checkpoint(data))  # noqa: B023
            await session.release()
            adopted = await _timed(took[f"adopt, {how}"], lambda: heir.adopt(call, 0))  # noqa: B023
            await adopted.close()
    return took


async def main(rounds: int) -> None:
    """Runs everything on a server of its own."""
    server = RedisServer()
    ring = KeyRing.parse(KeyRing.generate("k1"))
    try:
        async with AsyncExitStack() as stack:
            workers = {}
            for how, keys in zip(HOW, (None, ring), strict=True):
                one, other = [Worker(server.url, name=f"{how}-{n}", encryption_keys=keys) for n in range(2)]
                workers[how] = await stack.enter_async_context(one), await stack.enter_async_context(other)
            for size in SIZES:
                print(f"{size // 1024} KiB of recovery data, {rounds} rounds")
                took = await _measure(workers, size, rounds)
                for what, times in took.items():
                    plain = took[what.replace("sealed", "plain")] if "sealed" in what else None
                    show(f"  {what}", times[rounds // 10 :], plain, "plain")
        sealer, place = Sealer("recovery", ring), Place("call", "acme", 1)
        for size in SIZES:
            raw = b"x" * size
            written = sealer.seal(place, raw, "bytes")
            show(f"seal {size // 1024} KiB", computed(rounds, lambda: sealer.seal(place, raw, "bytes")))  # noqa: B023
            show(f"open {size // 1024} KiB", computed(rounds, lambda: sealer.open(place, **written)))  # noqa: B023
    finally:
        server.close()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
