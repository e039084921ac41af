"""Calls that kill their workers, and what becomes of those beside them."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.faults.deployment import KEYS, Deployment
from tests.faults.history import read
from tests.waiting import wait_until

AWAY_SECONDS = 1.0
"""Until a worker that was killed is started again."""


@dataclass(frozen=True)
class Killed:
    """What it gave.

    Attributes:
        deaths: workers that were killed.
        letters: dead letters.
        moves: most adoptions of a call that kills nobody.
        silences: seconds; the longest time without a handler of each such call.
        broken: promises that the history breaks.
    """

    deaths: int
    letters: frozenset[str]
    moves: int
    silences: list[float]
    broken: list[str]


def kill_from_within(neighbours: int, workers: int, killers: int, *, timeout: float = 240.0) -> Killed:
    """A worker has ``killers`` calls that kill whoever serves them, and ``neighbours`` that do not; others have five each."""
    bad = [f"kills-{n}" for n in range(killers)]
    good = [f"beside-{n}" for n in range(neighbours)]
    with tempfile.TemporaryDirectory(prefix="rc-armed-") as folder:
        armed = Path(folder) / "armed"
        with Deployment(workers=workers, calls=5, named={0: bad + good}, environment={"ARMED": str(armed)}) as d:
            armed.touch()
            deaths = _until_over(d, set(bad), timeout)
            broken = d.finish(60)
            letters = frozenset(m.decode() for m in d.client.zrange(KEYS.dead_letters, 0, -1))
            history = read(d.path)
    moves: Counter[str] = Counter()
    before: dict[str, float] = {}
    longest: dict[str, float] = defaultdict(float)
    for line in history:
        if line["kind"] == "grant" and line["how"] == "adopted" and line["session"] not in bad:
            moves[line["session"]] += 1
        if line["kind"] == "media":
            for call in line["served"]:
                longest[call] = max(longest[call], line["at"] - before.get(call, line["at"]))
                before[call] = line["at"]
    silences = sorted(seconds for call, seconds in longest.items() if call not in bad)
    return Killed(deaths, letters, max(moves.values(), default=0), silences, broken)


def _until_over(d: Deployment, bad: set[str], timeout: float) -> int:
    """Starts who was killed again, until all that kill are dead letters and everybody else is served."""
    deaths = 0

    def over() -> bool:
        nonlocal deaths
        for number, process in enumerate(d.workers):
            if not process.alive:
                d.died(number)
                deaths += 1
                _wait(AWAY_SECONDS)
                d.restart(number)
        states = d.owners()
        given_up = all(states[call][0] == "dead_lettered" for call in bad)
        return given_up and all(process.alive for process in d.workers) and d.quiet()  # one may have died meanwhile

    wait_until(over, timeout, "all that kill are given up on, and everybody else is served")
    return deaths


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
