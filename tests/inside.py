"""The one way into private attributes of the library, for tests of what has no public way in or out.

Whoever changes the inside of the library changes this file and no test. Each function says what it does, and why nothing
public serves.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio.abc
import pytest

from coordinator.daemon.detector import Detector, Look
from coordinator.daemon.partition_loop import PartitionLoop
from coordinator.daemon.pods import DeletionCosts, PodWatch
from coordinator.daemon.sweeper import Sweeper
from coordinator.daemon.tidier import Tidier
from coordinator.errors import StoreUnavailableError
from coordinator.store.executor import Executor
from coordinator.store.link import Link
from coordinator.worker.instance import Instance
from coordinator.worker.membership import Membership
from coordinator.worker.sealer import Sealer
from coordinator.worker.serving import Serving
from coordinator.worker.worker import Worker

__all__ = [
    "burying",
    "failures_of",
    "forget_data",
    "instance_of",
    "link_of",
    "longer_ago",
    "longer_unfit",
    "member_of",
    "members_of",
    "serving_of",
    "set_ended_remembered",
    "set_join_patience",
    "set_pod_pauses",
    "set_right_patience",
    "set_sealer",
    "set_unable",
    "start_burials",
    "store_is_away",
    "tidier_of",
    "wrote_cost",
]


def instance_of(worker: Worker) -> Instance:
    """What a worker is inside, as a sidecar has it for a program that is another process."""
    return worker._instance


def members_of(worker: Worker) -> Sequence[Membership]:
    """A worker's part in each partition. A program has no use for it: it sees sessions and offers."""
    return worker._instance.members


def member_of(worker: Worker) -> Membership:
    """The same of a worker with one partition."""
    return worker._instance.members[0]


def serving_of(worker: Worker) -> Serving | None:
    """What hands calls to a handler, once `Worker.serve` does; a program only sees its handler being called."""
    return worker._instance.serving


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


def tidier_of(sweeper: Sweeper) -> Tidier:
    """What takes out what ended: it is stepped by the sweeper alone, and how far it got shows nowhere else."""
    return sweeper._tidier


def failures_of(watch: PodWatch) -> int:
    """Failures in a row, by which a watch waits longer; only its pauses tell of it outside."""
    return watch._failures


def wrote_cost(costs: DeletionCosts, uid: str, cost: int) -> None:
    """As if this coordinator had written, or seen, that cost of a pod long ago: it writes one pod seldom."""
    costs._written[uid] = cost, -1e9


def link_of(executor: Executor) -> Link:
    """The connection of an executor: what breaks it, or how it stands, is below all that an executor tells."""
    return executor._link


def set_join_patience(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """For how long a worker asks again what the store does not answer, before it raises."""
    patch.setattr("coordinator.worker.membership.PATIENCE_SECONDS", seconds)


def set_right_patience(worker: Worker, seconds: float) -> None:
    """For how long a fenced write is asked for again; what is below zero is taken off the time that is added to it."""
    member_of(worker).writes.patience = seconds


def set_sealer(worker: Worker, sealer: Sealer) -> Sealer:
    """Another process goes on as this instance, with other keys; returns what sealed before."""
    member = member_of(worker)
    before = member.sealer
    member.sealer = member.owned.sealer = sealer
    return before


def set_unable(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """For how long a reader leaves to others a call that it cannot serve."""
    patch.setattr("coordinator.worker.reluctance.UNABLE_SECONDS", seconds)


def set_ended_remembered(patch: pytest.MonkeyPatch, count: int) -> None:
    """How many ended calls a worker remembers; a test of the bound would have to end a great many."""
    patch.setattr("coordinator.worker.ledger.ENDED_REMEMBERED", count)


def set_pod_pauses(
    patch: pytest.MonkeyPatch, *, least: float | None = None, longest: float | None = None, look: float | None = None
) -> None:
    """Pauses of what watches pods after an error, and between two looks at their costs: seconds to half a minute."""
    for name, seconds in (("LEAST_PAUSE", least), ("LONGEST_PAUSE", longest), ("COST_LOOK", look)):
        if seconds is not None:
            patch.setattr(f"coordinator.daemon.pods.{name}", seconds)
