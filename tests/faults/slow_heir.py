"""Heirs that need a while for each call that they take over."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tests.faults.deployment import KEYS, Deployment
from tests.faults.history import read
from tests.waiting import wait_until


@dataclass(frozen=True)
class Taken:
    """What it gave.

    Attributes:
        letters: calls that were given up on.
        attempts: most attempts that a call needed.
        last: seconds from the kill to the last adoption.
        silence: longest silence of the heir's own calls, in seconds.
        broken: promises that the history breaks.
    """

    letters: int
    attempts: int
    last: float
    silence: float
    broken: list[str]


def take_over(calls: int, *, attach: float = 0.0, work: float = 0.0) -> Taken:
    """A worker with so many calls is killed; one heir is left, with room for all and calls of its own.

    Args:
        attach: seconds that the heir's loop over its offers waits after each adoption.
        work: seconds for which each handler of ``serve`` holds up the event loop as it begins.
    """
    environment = {"ATTACH_SECONDS": str(attach), "SERVES": "offers"} if attach else {"WORK_SECONDS": str(work)}
    with Deployment(
        workers=2, calls=calls, named={1: ["live-0", "live-1"]}, capacity=2 * calls, environment=environment
    ) as d:
        killed_at = d.kill(0)
        wait_until(d.quiet, 120, "every call is served or given up on")
        broken = d.finish(60)
        took = d.takeover_seconds(killed_at, 0)
        letters = d.client.zcard(KEYS.dead_letters)
        attempts = max(int(d.client.hget(KEYS.session(call), "attempt") or 1) for call in d.calls[0])
        history = read(d.path)
    return Taken(letters, attempts, max(took), _silence(history), broken)


def _silence(history: list[dict[str, object]]) -> float:
    """The longest time between two ticks of the calls that the heir had before."""
    before: dict[str, float] = {}
    longest: dict[str, float] = defaultdict(float)
    for line in history:
        if line["kind"] != "media":
            continue
        at = float(str(line["at"]))
        speaks = line["speaks"]
        assert isinstance(speaks, dict)
        for call in speaks:
            if call.startswith("live"):
                longest[call] = max(longest[call], at - before.get(call, at))
                before[call] = at
    return max(longest.values(), default=0.0)
