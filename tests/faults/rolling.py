"""A rolling restart: workers are drained by SIGTERM and started again under their names, one after the other."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.deployment import Deployment
from tests.faults.history import read
from tests.faults.media import Heard, MediaListener
from tests.waiting import wait_until


@dataclass(frozen=True)
class Rollout:
    """What it gave.

    Attributes:
        moves: most times that one call moved.
        handed_over, released: calls moved as planned, and those that nobody took in time.
        heard: what the callers heard.
        broken: promises that the history or the media breaks.
    """

    moves: int
    handed_over: int
    released: int
    heard: Heard
    broken: list[str]


def restart_all(
    workers: int,
    calls: int,
    *,
    disturb: Callable[[Deployment, int], None] = lambda d, n: None,
    dies_at: Callable[[int], str] = lambda n: "",
) -> Rollout:
    """Every worker once.

    Args:
        workers, calls: how many, and how many calls each has.
        disturb: called with the number of a worker while it drains.
        dies_at: where the newly started worker of that number kills itself, as tests/faults/worker.py says; it is then
            started once more.
    """
    media = MediaListener()
    environment = {"MEDIA_PORT": str(media.port)}
    with Deployment(workers=workers, calls=calls, capacity=calls * workers, environment=environment) as d:
        reports, doomed = [], list[int]()
        for n in range(workers):
            leaving = d.workers[n]
            leaving.send(signal.SIGTERM)
            disturb(d, n)
            for each in doomed:
                d.died(each)
                d.restart(each)
            [report] = leaving.wait_for("drained", 1, 60)
            reports.append(report)
            wait_until(lambda p=leaving: not p.alive, 30, "it ended")  # type: ignore[misc]
            d.restart(n, dies_at=dies_at(n))
            doomed = [n] if dies_at(n) else []
        broken = d.finish(60)
        history = read(d.path)
    heard = media.close()
    moves = Counter(line["session"] for line in history if line["kind"] == "grant" and line["how"] == "adopted")
    return Rollout(
        max(moves.values(), default=0),
        sum(report["handed_over"] for report in reports),
        sum(report["released"] for report in reports),
        heard,
        [*broken, *heard.broken],
    )
