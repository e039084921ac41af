"""What ``DURABILITY=replicas:1`` costs: ``python -m benchmarks.durability [rounds]``.

A primary with one replica on this machine. In each round a worker opens calls without and with it: one after the other, where each
waits for itself, and fifty at once, where the openings of one batch share one wait. Medians of all rounds are told. A replica that is
further away costs its round trip more.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import anyio

from coordinator import Worker
from coordinator.cli.figures import percentile
from tests.deployments import replicated

ROUNDS, ONE_BY_ONE, AT_ONCE, TOGETHER = 5, 300, 2000, 50
KINDS = ("", "replicas:1")


async def one_by_one(worker: Worker, calls: int) -> tuple[float, float]:
    """Milliseconds of an opening, p50 and p99."""
    took = []
    for n in range(calls):
        began = time.perf_counter()
        session = await worker.open(f"one-{n}", b"x" * 256)
        took.append(time.perf_counter() - began)
        await session.close()
    return (percentile(took, 0.5) or 0.0) * 1000, (percentile(took, 0.99) or 0.0) * 1000


async def at_once(worker: Worker, calls: int) -> float:
    """Openings and closings a second."""

    async def some(first: int) -> None:
        for n in range(first, calls, TOGETHER):
            await (await worker.open(f"many-{n}", b"x" * 256)).close()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for first in range(TOGETHER):
            tasks.start_soon(some, first)
    return calls / (time.perf_counter() - began)


async def run(url: str, rounds: int) -> None:
    """All rounds, and the figures."""
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for n in range(rounds):
        for kind in KINDS:
            async with Worker(url, name=f"worker-{n}-{len(kind)}", capacity=10_000, durability=kind) as worker:
                p50, p99 = await one_by_one(worker, ONE_BY_ONE)
                found[kind].append((p50, p99, await at_once(worker, AT_ONCE)))
    base = [median(column) for column in zip(*found[""], strict=True)]
    for kind in KINDS:
        p50, p99, rate = (median(column) for column in zip(*found[kind], strict=True))
        print(
            f"DURABILITY={kind or '-'}: an opening p50 {p50:.2f} ms (x{p50 / base[0]:.2f}), p99 {p99:.2f} ms; "
            f"{TOGETHER} at once {rate:,.0f} a second (x{rate / base[2]:.2f})"
        )


def main() -> None:
    """The command."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with replicated() as (url, _, _):
        anyio.run(run, url, rounds)


if __name__ == "__main__":
    main()
