"""Instances that fall silent all at once, and how far apart they are declared."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
PROCESSES = 4
SURVIVORS = 20


@dataclass(frozen=True)
class Silence:
    """What it gave; seconds from the kill, by the server's clock.

    Attributes:
        declared: instances that were.
        first, last: the first and the last declaration.
        adopted: the last adoption.
        causes: of their deaths.
        wrongly: instances that were declared dead and lived.
    """

    declared: int
    first: float
    last: float
    adopted: float
    causes: frozenset[str]
    wrongly: list[str]


def fall_silent(instances: int, settings: dict[str, Any] | None = None) -> Silence:
    """So many instances, in a few processes that are killed together, with a call each; others have room for all of them."""
    own = {"capacity": 2 * instances, **(settings or {})}
    each = instances // PROCESSES
    with ExitStack() as stack:
        server = stack.enter_context(closing(RedisServer()))
        client: Any = stack.enter_context(closing(server.client()))
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()]
        for _ in range(2):
            arguments = ["run", "--redis-url", server.url, "--http-port", "0", "--log-level", "error", *flags]
            stack.enter_context(closing(Process("coordinator", *arguments)))

        def crowd(name: str, workers: int, calls: int) -> Process:
            arguments = (server.url, json.dumps(own), name, str(workers), str(calls))
            return stack.enter_context(closing(Process("tests.faults.crowd", *arguments)))

        living = crowd("lives", SURVIVORS, 1)
        falling = [crowd(f"falls-{n}", each, 1) for n in range(PROCESSES)]
        for process in (living, *falling):  # they start side by side
            process.wait_for("ready", 1, 120)
        wait_until(lambda: _no_hold(client), 30, "the hold at the start is over")
        at = _seconds(client)
        for process in falling:
            process.send(signal.SIGKILL)
        calls = [f"falls-{n}-{k}-0" for n in range(PROCESSES) for k in range(each)]
        wait_until(lambda: _all_served(client, calls), 120, "a survivor has every call")
        events = [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in client.xrange(KEYS.events)]
    died = [(e["instance"], int(e["at"]) / 1000 - at, e["cause"]) for e in events if e["type"] == "died"]
    adopted = [int(e["at"]) / 1000 - at for e in events if e["type"] == "adopted"]
    wrongly = [instance for instance, when, _ in died if when < 0 or not instance.startswith("falls-")]
    times = [when for _, when, _ in died]
    return Silence(len(died), min(times), max(times), max(adopted), frozenset(cause for *_, cause in died), wrongly)


def _seconds(client: Any) -> float:
    seconds, micros = client.time()
    return float(seconds) + float(micros) / 1e6


def _no_hold(client: Any) -> bool:
    last, until = client.hmget(KEYS.detector, "last_scan_ms", "hold_until_ms")
    return last is not None and int(until or 0) < _seconds(client) * 1000


def _all_served(client: Any, calls: list[str]) -> bool:
    time.sleep(0.1)  # a look at a thousand records is not free
    pipe = client.pipeline(transaction=False)
    for call in calls:
        pipe.hmget(KEYS.session(call), "state", "owner")
    return all(state == b"active" and owner.startswith(b"lives-") for state, owner in pipe.execute())
