"""A rolling restart: workers are drained by SIGTERM and started again under their names, one after the other."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.cli.figures import percentile
from tests.faults.deployment import Deployment
from tests.faults.history import read
from tests.waiting import wait_until


@dataclass(frozen=True)
class Rollout:
    """What it gave.

    Attributes:
        moves: most times that one call moved.
        handed_over, released: calls moved as planned, and those that nobody took in time.
        silence: p50, p99 and longest time, in ms, between the last media tick of an owner and the first of its heir.
        broken: promises that the history breaks.
    """

    moves: int
    handed_over: int
    released: int
    silence: tuple[float, float, float]
    broken: list[str]


def restart_all(workers: int, calls: int, *, disturb: Callable[[Deployment, int], None] = lambda d, n: None) -> Rollout:
    """Every worker once; ``disturb`` is called while each of them drains."""
    with Deployment(workers=workers, calls=calls, capacity=calls * workers) as d:
        reports = []
        for n in range(workers):
            leaving = d.workers[n]
            leaving.send(signal.SIGTERM)
            disturb(d, n)
            [report] = leaving.wait_for("drained", 1, 60)
            reports.append(report)
            wait_until(lambda p=leaving: not p.alive, 30, "it ended")  # type: ignore[misc]
            d.restart(n)
        broken = d.finish(60)
        history = read(d.path)
        moves = Counter(line["session"] for line in history if line["kind"] == "grant" and line["how"] == "adopted")
        last: dict[str, tuple[int, float]] = {}
        gaps: dict[str, list[float]] = defaultdict(list)
        for line in history:
            for session, epoch in line["held"].items() if line["kind"] == "media" else ():
                before_epoch, at = last.get(session, (epoch, line["at"]))
                if epoch > before_epoch:
                    gaps[session].append((line["at"] - at) * 1000)
                if epoch >= before_epoch:
                    last[session] = (epoch, line["at"])
        silences = [gap for found in gaps.values() for gap in found]
        return Rollout(
            max(moves.values(), default=0),
            sum(report["handed_over"] for report in reports),
            sum(report["released"] for report in reports),
            (percentile(silences, 0.5) or 0.0, percentile(silences, 0.99) or 0.0, max(silences, default=0.0)),
            broken,
        )
