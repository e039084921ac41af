"""Inside the coordinator's daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.errors import StoreUnavailableError

if TYPE_CHECKING:
    import anyio.abc

    from coordinator.daemon.detector import Detector, Look
    from coordinator.daemon.events import EventReader
    from coordinator.daemon.partition_loop import PartitionLoop
    from coordinator.daemon.pods import DeletionCosts, PodWatch
    from coordinator.daemon.sweeper import Sweeper

__all__ = [
    "burying",
    "complaints_of_tidying",
    "failures_of",
    "forget_data",
    "forget_deaths",
    "longer_ago",
    "longer_unfit",
    "pools_to_tidy",
    "set_idle_readers",
    "start_burials",
    "store_is_away",
    "wrote_cost",
]


def store_is_away(loop: PartitionLoop) -> None:
    """What a look does that had no answer, without an outage to wait for: the loop forgets what it saw."""
    loop._down(StoreUnavailableError("timeout", "no answer"))


def forget_data(loop: PartitionLoop, server: str, lineage: str) -> None:
    """As if the last look had been at another server and lineage: a failover that restores data takes a second server."""
    loop._data = server, lineage


def start_burials(loop: PartitionLoop, tasks: anyio.abc.TaskGroup, found: Look) -> None:
    """Begins what a look found, for a look that no store could give: as many graves as one likes, and none of them real."""
    loop._start_work(tasks, found)


def burying(loop: PartitionLoop) -> frozenset[str]:
    """Graves that are being emptied now; nothing else tells that none is left in hand."""
    return frozenset(loop._burying)


def longer_unfit(detector: Detector, seconds: float) -> None:
    """As if this coordinator had been slow for so much longer; to be slow in earnest takes as long."""
    detector._unfit_since -= seconds


def longer_ago(detector: Detector, seconds: float) -> None:
    """As if another primary had been seen for so much longer."""
    detector._others_since -= seconds


def forget_deaths(reader: EventReader) -> None:
    """What a reader of events does after each read: deaths that are too old or too many go. A read needs a store."""
    reader._forget()


def pools_to_tidy(sweeper: Sweeper) -> frozenset[str]:
    """Pools that a walk over the keys has come by, and whose streams are not looked at yet: how far it got shows nowhere else."""
    return frozenset(sweeper._tidier._pools)


def set_idle_readers(sweeper: Sweeper, seconds: float) -> None:
    """After how long a reader of events that does not read is taken for gone: an hour, by the server's clock."""
    sweeper._tidier.idle = seconds


def complaints_of_tidying(sweeper: Sweeper) -> frozenset[str]:
    """What went wrong with taking out what ended, and was logged once."""
    return frozenset(sweeper._tidier._told)


def failures_of(watch: PodWatch) -> int:
    """Failures in a row, by which a watch waits longer; only its pauses tell of it outside."""
    return watch._failures


def wrote_cost(costs: DeletionCosts, uid: str, cost: int) -> None:
    """As if this coordinator had written, or seen, that cost of a pod long ago: it writes one pod seldom."""
    costs._written[uid] = cost, -1e9
