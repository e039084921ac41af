"""How long each kind of evidence takes: from the end of a worker to declared, and to offered."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from coordinator.cli.figures import percentile
from tests.acceptance.processes import Process
from tests.faults.deployment import KEYS, UNWATCHED, Deployment
from tests.sidecar.conftest import Sidecar
from tests.sidecar.examples import example
from tests.store.harness import Bench
from tests.waiting import wait_until

LIVING = 40
"""Instances that live meanwhile: with fewer the mass breaker would take one death a second for a mass."""


@dataclass(frozen=True)
class Lag:
    """Times in ms, by the server's clock.

    Attributes:
        exit_to_declared: from the SIGKILL; None where nobody was killed.
        declared_to_offered: from the death in the store to the offers.
        exit_to_adopted: from the SIGKILL to the adoption of the last of its calls; None where nobody was killed.
    """

    count: int
    exit_to_declared: tuple[float, float] | None
    declared_to_offered: tuple[float, float]
    exit_to_adopted: tuple[float, float] | None
    causes: frozenset[str]


def _spread(values: list[float]) -> tuple[float, float]:
    return percentile(values, 0.5) or 0.0, percentile(values, 0.99) or 0.0


def _events(client: Any) -> list[dict[str, str]]:
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in client.xrange(KEYS.events)]


def _adopted(d: Deployment) -> dict[str, int]:
    """Instance -> when the last of its calls was adopted so far."""
    return {e["previous_owner"]: int(e["at"]) for e in _events(d.client) if e["type"] == "adopted"}


def _lag(d: Deployment, exits: dict[str, float], *, adopted: bool = True) -> Lag:
    """Of instances that ended at these times; whether their adoptions say something, too."""
    died = {e["instance"]: e for e in _events(d.client) if e["type"] == "died" and e["instance"] in exits}
    offered = {e["instance"]: int(e["at"]) for e in _events(d.client) if e["type"] == "orphaned"}
    killed = {i: at * 1000 for i, at in exits.items() if at}
    if adopted:
        wait_until(lambda: killed.keys() <= _adopted(d).keys(), 30, "the calls of all that were killed are adopted")
    until = _adopted(d)
    real = [int(died[i]["at"]) - at for i, at in killed.items()]
    return Lag(
        len(died),
        _spread(real) if real else None,
        _spread([float(offered[i] - int(e["at"])) for i, e in died.items()]),
        _spread([until[i] - at for i, at in killed.items()]) if killed and adopted else None,
        frozenset(e["cause"] for e in died.values()),
    )


def certificates(count: int) -> Lag:
    """Instances whose exit somebody states, one after the other."""
    with Deployment(workers=3, calls=0, coordinators=1) as d:
        bench = Bench(d.client)
        names = [f"exits-{n}~1" for n in range(count)]
        for n, name in enumerate(names):
            bench.join(name)
            bench.open(f"exit-{n}", name)
            bench.certify(name)
            _wait_for_offer(d, name)
        return _lag(d, dict.fromkeys(names, 0.0))


def kills(count: int, settings: dict[str, Any], *, again: bool = False, watched: bool = False) -> Lag:
    """Worker processes that are killed with SIGKILL, one after the other.

    Args:
        settings: of coordinators and workers.
        again: each is started again at once under the same name.
        watched: each has an exit watcher.
    """
    with Deployment(workers=1, each=LIVING, calls=0, coordinators=1, settings=settings) as d:
        exits: dict[str, float] = {}
        chance = random.Random(1)
        for n in range(count):
            name = "again" if again else f"dies-{n}"
            process, instance = _started(d, name, f"call-{n}", watched=watched)
            threading.Event().wait(chance.uniform(0.0, 0.5))  # at any moment between two heartbeats
            exits[instance] = time.time()
            process.send(signal.SIGKILL)
            if again:
                successor, _ = _started(d, name, f"call-{n}-again")
                _wait_for_offer(d, instance)
                exits_too = successor.lines[0]["id"]
                successor.send(signal.SIGKILL)
                _wait_for_offer(d, exits_too)
                successor.close()
            else:
                _wait_for_offer(d, instance)
            process.close()
        return _lag(d, exits)


def behind_a_sidecar(count: int, calls: int) -> Lag:
    """Workers in Go that are killed with SIGKILL, with so many calls each; the sidecar sees their processes."""
    with Deployment(workers=1, each=LIVING, calls=0, coordinators=1) as d:
        sidecar, exits = Sidecar(d.server), dict[str, float]()
        try:
            for n in range(count):
                named = [f"go-{n}-call-{c}" for c in range(calls)]
                with example("go", sidecar.path, d.server.url, f"go-{n}", *named) as worker:
                    instance = worker.told("ready")[0]["instance"]
                    exits[instance] = time.time()
                    worker.send(signal.SIGKILL)
                    _wait_for_offer(d, instance)
        finally:
            sidecar.close()
        return _lag(d, exits, adopted=False)  # heirs with hundreds of calls that write down each tick are slow


def over_a_line(count: int) -> Lag:
    """Workers with the library that are killed with SIGKILL; their sidecar sees the end of a line, and no process."""
    with Deployment(workers=1, each=LIVING, calls=0, coordinators=1) as d:
        sidecar, exits = Sidecar(d.server, program="tests.sidecar.blind_sidecar"), dict[str, float]()
        try:
            for n in range(count):
                process, instance = _started(d, f"holds-{n}", f"call-{n}", line=sidecar.path)
                exits[instance] = time.time()
                process.send(signal.SIGKILL)
                _wait_for_offer(d, instance)
                process.close()
        finally:
            sidecar.close()
        return _lag(d, exits)


def _wait_for_offer(d: Deployment, instance: str) -> None:
    def offered() -> bool:
        return any(e["type"] == "orphaned" and e["instance"] == instance for e in _events(d.client))

    wait_until(offered, 30, f"the calls of {instance} are offered")


def _started(d: Deployment, name: str, call: str, *, watched: bool = False, line: str = "") -> tuple[Process, str]:
    told = (b"1",) if d._settings.get("lost_connection_after", 1) else (b"0",)
    arguments = (d.server.url, str(d.path), json.dumps(d._settings), f"{name}:{call}")
    environment = {"COORDINATOR_WATCH_EXIT": "true"} if watched else {**UNWATCHED, "RECOVERY_SOCKET": line}
    if watched or line:
        environment["COORDINATOR_LOG_LEVEL"] = "debug"
    process = Process("tests.faults.worker", *arguments, **environment)
    [ready] = process.wait_for("ready", 1, 30)
    key = KEYS.instance(ready["id"])
    wait_until(lambda: d.client.hget(key, "presence") in told, 10, "its presence connection was told")
    if watched or line:
        wait_until(lambda: "exit_watched" in process.errors(), 20, "it is watched")
    return process, ready["id"]


def certify_command(count: int) -> list[float]:
    """The command line, timed whole: process start to exit, in ms."""
    took = []
    with Deployment(workers=1, calls=0, coordinators=1) as d:
        bench = Bench(d.client)
        for n in range(count):
            bench.join(f"exits-{n}~1")
            began = time.monotonic()
            command = [sys.executable, "-m", "coordinator", "certify", f"exits-{n}~1", "--redis-url", d.server.url]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            took.append((time.monotonic() - began) * 1000)
    return took
