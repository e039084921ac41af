"""From the deadline of a silent instance to its declaration, and to the adoption of its call."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio

from coordinator import clock
from coordinator.cli.bench_store import Bench
from coordinator.cli.figures import percentile, rounded
from coordinator.cli.processes import CoordinatorProcess, started
from coordinator.store import calls
from coordinator.store.lookups import now_ms

__all__ = ["deaths"]

LIVING = 1000
"""Instances that live on meanwhile, so that the deaths are no mass death to the breaker."""
PER_SECOND = 50
PATIENCE = 60.0


class Ears:
    """Follows the events of a partition."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.last = b"0"
        self.detection: dict[str, float] = {}
        self.takeover: dict[str, float] = {}

    async def listen(self) -> None:
        """Follows them until it is cancelled."""
        while True:
            await anyio.sleep(0.02)
            command = ("XREAD", "COUNT", 2000, "STREAMS", self.bench.keys.events, self.last)
            for _, entries in await self.bench.executor.command(*command) or ():
                for self.last, fields in entries:
                    self._heard(dict(zip(fields[::2], fields[1::2], strict=True)))

    def _heard(self, event: dict[bytes, bytes]) -> None:
        if event[b"type"] == b"died" and event[b"cause"] == b"silence":
            self.detection[event[b"instance"].decode()] = float(event[b"detection_ms"])
        elif event[b"type"] == b"adopted":
            self.takeover[event[b"session"].decode()] = float(event[b"takeover_ms"])


async def deaths(bench: Bench, url: str, count: int, storm: int) -> dict[str, object]:
    """``count`` instances with a call each fall silent, `PER_SECOND` a second; then one with ``storm`` calls exits.

    The daemon and the worker that adopts are processes of their own. Times are the server's, in whole ms; detection
    counts from the deadline, a takeover from the deadline or the certificate to the adoption.
    """
    ears = Ears(bench)
    settings = bench.settings
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        daemon = await stack.enter_async_context(
            CoordinatorProcess.run("bench-coordinator", url, bench.keys.prefix, "--log-level", "error")
        )
        await daemon.ready()
        arguments = ["--redis-url", url, "--prefix", bench.keys.prefix, "--capacity", str(count + storm)]
        await stack.enter_async_context(started("bench-worker", "coordinator.cli.bench_worker", arguments))
        await bench.join([f"living-{i}" for i in range(LIVING)], capacity=0)
        tasks.start_soon(ears.listen)
        await _hold_over(bench)

        dead_after = settings.dead_after
        for i in range(count):
            due = clock.now() + 1 / PER_SECOND
            [instance] = await bench.join([f"silent-{i}"], dead_after, capacity=0)
            await bench.open_many([f"silent-{i}"], instance)
            await anyio.sleep(max(0.0, due - clock.now()))
        with anyio.move_on_after(PATIENCE):
            while sum(name.startswith("silent-") for name in ears.takeover) < count:
                await anyio.sleep(0.05)
        takeover = list(ears.takeover.values())

        sessions = [f"storm-{i:06d}" for i in range(storm)]
        [crowded] = await bench.join(["storm"], capacity=0)
        await bench.open_many(sessions, crowded)
        await bench.all_ok([calls.certify(bench.keys, instance=crowded, cause="exited", by="bench", reason="bench")])
        with anyio.move_on_after(PATIENCE):
            while sum(name.startswith("storm-") for name in ears.takeover) < storm:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    stormed = [at for name, at in ears.takeover.items() if name.startswith("storm-")]
    return {
        "detection_after_deadline_ms": _spread(list(ears.detection.values()), count),
        "takeover_after_deadline_ms": _spread(takeover, count),
        "exit_of_one_with_many_ms": {**_spread(stormed, storm), "last": max(stormed, default=None)},
        "dead_after_ms": clock.in_ms(dead_after),
    }


def _spread(values: list[float], expected: int) -> dict[str, object]:
    return {
        "expected": expected,
        "seen": len(values),
        "p50": rounded(percentile(values, 0.5)),
        "p99": rounded(percentile(values, 0.99)),
    }


async def _hold_over(bench: Bench) -> None:
    """Waits until the hold at the start has ended."""
    while True:
        ends = await bench.executor.command("HGET", bench.keys.detector, "hold_until_ms")
        if ends is not None and int(ends) < await now_ms(bench.executor):
            return
        await anyio.sleep(0.05)
