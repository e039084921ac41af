"""Workers are killed under calls that come back by themselves; counts how many of them are resumed, and how soon."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from dataclasses import dataclass
from typing import Any

import anyio

from coordinator.cli.figures import percentile
from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.callers.provider import Call, Outcome
from tests.redis_server import RedisServer
from tests.waiting import eventually

BASE_SECONDS = 0.1
KEYS = Keys("recovery", 0)


@dataclass(frozen=True)
class Callers:
    """What the callers met with.

    Attributes:
        kills: workers that were killed.
        lost: connections that died with them.
        resumed: of these, calls that went on from their checkpoint.
        first_try: of these, at the first connection.
        seconds: p50, p99 and longest time from the loss to "resumed".
        behind: calls that went on from less than the last checkpoint that was reported.
    """

    kills: int
    lost: int
    resumed: int
    first_try: int
    seconds: tuple[float, float, float]
    behind: list[str]


class _Farm:
    """Workers behind a door."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._names = itertools.count(1)
        self._chance = random.Random(1)
        self.ports: dict[int, dict[str, Any]] = {}

    async def start(self) -> None:
        name = f"door-{next(self._names)}"
        self._process.write(f"start {name}\n")
        await eventually(lambda: any(line["name"] == name for line in self._process.told("ready")), 30)
        line = next(line for line in self._process.told("ready") if line["name"] == name)
        self.ports[line["port"]] = line

    def kill(self, served: set[int]) -> int:
        port = self._chance.choice(sorted(served & self.ports.keys()))
        os.kill(self.ports.pop(port)["pid"], signal.SIGKILL)
        return port

    def door(self) -> str:
        return f"ws://127.0.0.1:{self._chance.choice(list(self.ports))}/"


async def kill_workers(
    kills: int, *, calls: int = 20, workers: int = 4, certified: bool, settings: dict[str, Any]
) -> Callers:
    """Kills one worker after the other, as soon as all calls are up, and starts another in its place.

    Args:
        certified: the workers' parent states their ends, as the supervisor does; else coordinators find out.
        settings: of coordinators and workers.
    """
    server = RedisServer()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    coordinator = Process(
        "coordinator", "run", "--redis-url", server.url, "--http-port", "0", "--log-level", "error", *flags
    )
    process = Process("tests.callers.workers", server.url, "certify" if certified else "silent", json.dumps(settings))
    try:
        farm = _Farm(process)
        for _ in range(workers):
            await farm.start()
        made = [Call(f"CA{n}", farm.door, BASE_SECONDS) for n in range(calls)]
        async with anyio.create_task_group() as tasks:
            for call in made:
                tasks.start_soon(call.run)
            await eventually(lambda: all(call.connected for call in made), 30)
            client = server.client()
            await eventually(lambda: not _on_hold(client), 30)
            for _ in range(kills):
                await farm.start()
                port = farm.kill({call.port for call in made})
                await eventually(lambda port=port: all(c.hung_up or (c.connected and c.port != port) for c in made), 40)  # type: ignore[misc]
            tasks.cancel_scope.cancel()
        return _sum(kills, made)
    finally:
        process.close()
        coordinator.close()
        server.close()


def _on_hold(client: Any) -> bool:
    seconds, _ = client.time()
    until = client.hget(KEYS.detector, "hold_until_ms")
    return until is None or int(until) > seconds * 1000


def _sum(kills: int, made: list[Call]) -> Callers:
    outcomes: list[Outcome] = [outcome for call in made for outcome in call.outcomes]
    good = [outcome for outcome in outcomes if outcome.seconds is not None]
    seconds = sorted(outcome.seconds or 0.0 for outcome in good)
    behind = [f"resumed at {o.resumed}, {o.saved} was saved" for o in good if o.resumed < o.saved]
    spread = (percentile(seconds, 0.5) or 0.0, percentile(seconds, 0.99) or 0.0, max(seconds, default=0.0))
    return Callers(kills, len(outcomes), len(good), sum(o.attempts == 1 for o in good), spread, behind)
