"""Stores that change places under calls: each move in each place, while nobody, newcomers or a death come along."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from coordinator import clock
from tests.faults.deployment import Deployment
from tests.faults.history import longest_without, lost_writes, read, takeovers
from tests.faults.moves import KIND_OF, MOVES, PLACES, Move, last
from tests.waiting import wait_until

__all__ = ["MEANWHILE", "Moved", "move", "rows", "tried"]


def nobody(d: Deployment) -> None:
    """Nothing else happens."""


def newcomers(d: Deployment) -> None:
    """A coordinator and a worker with calls of its own start."""
    d.start_coordinator()
    d.start_worker_soon(len(d.workers))


def a_death(d: Deployment) -> None:
    """A worker is killed."""
    d.kill(0)


MEANWHILE: dict[str, Callable[[Deployment], None]] = {
    "nobody": nobody,
    "a worker and a coordinator start": newcomers,
    "a worker dies": a_death,
}


@dataclass(frozen=True)
class Moved:
    """What one run gave, times in seconds.

    Attributes:
        broken: promises that the history breaks.
        doubt: longest for which an owner that lived did not know that a call was its own.
        silent: longest for which such an owner might not speak.
        meanwhile: from the death in the window to each adoption.
        afterwards: from the death when all was over to each adoption.
        lost: of acknowledged writes that went with the owner that died in the window, for each call.
        starts: why newcomers ended before they were ready.
    """

    broken: list[str]
    doubt: float
    silent: float
    meanwhile: list[float]
    afterwards: list[float]
    lost: list[float]
    starts: list[str]


def rows() -> Iterator[tuple[str, Move]]:
    """Every place with every move that can be there."""
    for where, kind in KIND_OF.items():
        for one in MOVES:
            if kind in one.where:
                yield where, one


def tried(where: str, one: Move, meanwhile: str) -> Moved | None:
    """As `move`; what does not come to its end, whatever it was that failed, breaks a promise."""
    try:
        return move(where, one, meanwhile)
    except Exception as error:  # noqa: BLE001 - the other cells are run all the same
        return Moved([f"{meanwhile}: {type(error).__name__}: {error}"], 0.0, 0.0, [], [], [], [])


def move(where: str, one: Move, meanwhile: str) -> Moved | None:
    """Three workers with five calls each and two coordinators live through it; when all is over one pauses, and one is killed.

    Returns:
        None where the servers cannot do that.
    """
    with contextlib.ExitStack() as stack:
        place: Any = PLACES[where]()
        stack.callback(place.close)
        if one.needs and not place.knows(one.needs):
            return None
        d = stack.enter_context(Deployment(place=place))
        before = {n: list(ids) for n, ids in d.ids.items()}
        one.run(place, lambda: MEANWHILE[meanwhile](d))
        wait_until(d.stated_again, 60, "every call is served, and the store has all that was acknowledged")
        wait_until(d.no_hold, 60, "deaths are not withheld any more")
        over = clock.now()
        d.workers[2].send(signal.SIGSTOP)  # shorter than silence counts, and longer than a lost connection does
        last(1.4)
        d.workers[2].send(signal.SIGCONT)
        d.kill(1)
        broken = d.finish(unreplicated=one.unreplicated)
        history = read(d.path)
        return Moved(
            broken, longest_without(history, "held", over), longest_without(history, "speaks", over),
            takeovers(history, before[0], d.calls[0]), takeovers(history, before[1], d.calls[1]), lost_writes(history), list(d.starts),
        )  # fmt: skip
