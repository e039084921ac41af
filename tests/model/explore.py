"""Explores a scenario breadth first, and finds the shortest way to each broken promise.

G1   no accepted write is older than an epoch granted before it (after lost writes: than one that a live owner holds)
TWO  no two running workers believe at once that they hold the same session
G2   every state has a continuation without faults that ends well: served by an owner that knows it, closed, dead letter
G3   every granted epoch is above all that were granted before
DEATH no instance acts again after its death, as long as a coordinator remembers it
G7   an adopter gets what was last acknowledged (after lost writes: if a live owner still has it)
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.protocol import Protocol
from tests.model.world import Scenario, World, canonical, start


@dataclass(frozen=True)
class Result:
    """What an exploration found: broken promise -> the steps to it."""

    states: int
    complete: bool
    broken: dict[str, list[str]]


def _two_believe(protocol: Protocol, w: World) -> bool:
    return any(sum(protocol.believes(x, s) for x in w.processes) > 1 for s in range(len(w.top)))


def _ends_well(protocol: Protocol, w: World) -> bool:
    for s, r in enumerate(w.store.records):
        if r is None:
            remembered = any(x.memory[s] and x.run != "gone" for x in w.processes)
            if w.top[s] and (remembered or not w.lost):
                return False  # forgotten; after lost writes and the death of all who knew it, that is a limit
        elif r.state not in ("closed", "dead_lettered"):
            if r.state != "active" or r.owner is None:
                return False
            x = w.processes[r.owner]
            mine = x.memory[s]
            if x.run != "up" or not protocol.believes(x, s) or mine is None or mine[0] != r.epoch:
                return False
    return True


def explore(scenario: Scenario, rules: frozenset[str], limit: int = 3_000_000, *, stop_at: str = "") -> Result:
    """All states within the scenario's budget, or as many as ``limit``.

    Args:
        stop_at: end as soon as this promise is broken; G2 is looked at only when all states are known.
    """
    protocol = Protocol(scenario, rules)
    worlds = [start(scenario)]
    parent: list[tuple[int, str]] = [(-1, "")]
    back: list[list[int]] = [[]]
    index = {worlds[0]: 0}
    broken: dict[str, tuple[int, str]] = {}
    here = 0
    while here < len(worlds) < limit and stop_at not in broken:
        for label, w, promise, fault in protocol.steps(worlds[here]):
            w = canonical(w)
            to = index.setdefault(w, len(worlds))
            if to == len(worlds):
                worlds.append(w)
                parent.append((here, label))
                back.append([])
                if _two_believe(protocol, w):
                    broken.setdefault("TWO", (to, ""))
            if promise:
                broken.setdefault(promise, (here, label))
            if not fault:
                back[to].append(here)
        here += 1
    complete = here == len(worlds)
    if complete:
        fine = bytearray(_ends_well(protocol, w) for w in worlds)
        todo = [k for k, well in enumerate(fine) if well]
        while todo:
            for k in back[todo.pop()]:
                if not fine[k]:
                    fine[k] = 1
                    todo.append(k)
        stuck = fine.find(0)
        if stuck >= 0:
            broken["G2"] = (stuck, "")

    def way(k: int, last: str) -> list[str]:
        steps = [last] if last else []
        while k > 0:
            k, label = parent[k]
            steps.append(label)
        return steps[::-1]

    return Result(len(worlds), complete, {promise: way(*at) for promise, at in sorted(broken.items())})
