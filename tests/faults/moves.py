"""What happens to servers that hold a store: each begins, calls ``meanwhile`` in the moment that matters, and ends when all are well.

"Well" is what the servers' own members say: every one of them runs, and follows the primary or is it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import redis

from tests.deployments import MovingSlot, Node
from tests.faults.places import Alone, ClusterPlace, ManagedPlace, Place, Replicated, SentinelPlace, keys_of
from tests.waiting import wait_until

__all__ = ["MOVES", "PLACES", "Move"]

Meanwhile = Callable[[], None]


def last(seconds: float) -> None:
    """It goes on for so long."""
    threading.Event().wait(seconds)


def _joins(place: Replicated, *nodes: Node) -> None:
    """These follow a primary again."""
    wait_until(lambda: all(place.follows(node) for node in nodes), 60, "who was the primary is a replica")


def _is_replaced(place: Replicated, former: Node) -> None:
    wait_until(lambda: place.replaced(former), 60, "another server is the primary")


def killed(place: Place, meanwhile: Meanwhile) -> None:
    """The primary is killed; where nobody takes its place it is started again after two seconds."""
    if isinstance(place, Alone):
        place.nodes[0].close()
        last(1.0)
        meanwhile()
        last(1.0)
        place.nodes[0].start()
        return
    assert isinstance(place, Replicated)
    former = place.primary()
    former.close()
    last(1.0)
    meanwhile()
    _is_replaced(place, former)
    last(2.0)
    former.start()
    _joins(place, former)


def stands_still(place: Place, meanwhile: Meanwhile) -> None:
    """The primary stands still for 12 s, and then goes on as if nothing had been."""
    assert isinstance(place, Alone | Replicated)
    former = place.primary()
    former.pause()
    last(4.0)
    meanwhile()
    last(8.0)
    former.resume()
    if isinstance(place, Replicated):
        _joins(place, former)


def planned(place: Place, meanwhile: Meanwhile) -> None:
    """An operator has a replica take over; who was the primary hears of it up to ten seconds later."""
    assert isinstance(place, Replicated)
    former = place.primary()
    place.fail_over()
    meanwhile()
    _joins(place, former)


def flaps(place: Place, meanwhile: Meanwhile) -> None:
    """Three times, one right after the other: the primary is killed, replaced where that can be, and started again."""
    for n in range(3):
        if isinstance(place, Alone):
            place.nodes[0].close()
            last(0.5)
            place.nodes[0].start()
            last(1.0)
        else:
            assert isinstance(place, Replicated)
            former = place.primary()
            former.close()
            _is_replaced(place, former)
            former.start()
        if n == 1:
            meanwhile()
        if isinstance(place, Replicated):
            _joins(place, former)


def replicas_lag(place: Place, meanwhile: Meanwhile) -> None:
    """The replicas are cut off for three seconds; then the primary is killed, with whoever dies right before it."""
    assert isinstance(place, Replicated)
    former = place.primary()
    admin = place.ask(former)
    admin.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
    admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    last(3.0)
    meanwhile()
    last(0.3)
    former.close()
    _is_replaced(place, former)
    former.start()
    _joins(place, former)


def stale_comes_back(place: Place, meanwhile: Meanwhile) -> None:
    """The primary is killed and replaced, and is back later with its old data, taking itself for the primary."""
    assert isinstance(place, Replicated)
    former = place.primary()
    former.close()
    _is_replaced(place, former)
    last(3.0)
    former.start()
    meanwhile()
    _joins(place, former)


def watcher_hangs(place: Place, meanwhile: Meanwhile) -> None:
    """The first Sentinel of the URL stands still for 12 s, and meanwhile the primary is killed."""
    assert isinstance(place, SentinelPlace)
    watcher, former = place.sentinels[0], place.primary()
    watcher.pause()
    former.close()
    last(1.0)
    meanwhile()
    _is_replaced(place, former)
    former.start()
    last(6.0)
    watcher.resume()
    _joins(place, former)


def another_shard_hangs(place: Place, meanwhile: Meanwhile) -> None:
    """A primary without partition 0 stands still for 12 s; where slots are not served, a Cluster serves none by default."""
    assert isinstance(place, ClusterPlace)
    other = next(node for node in place.primaries() if node is not place.primary())
    other.pause()
    last(2.0)
    meanwhile()
    last(10.0)
    other.resume()
    _joins(place, other)


def slot_moves(place: Place, meanwhile: Meanwhile) -> None:
    """The slot of partition 0 goes over to another shard, a few keys at a time."""
    assert isinstance(place, ClusterPlace)
    slot = MovingSlot(place.primaries(), keys_of(0).tag)
    slot.begin()
    last(0.5)
    meanwhile()
    for _ in range(10):
        slot.move(4)
        last(0.2)
    slot.end()


def slot_moves_at_once(place: Place, meanwhile: Meanwhile) -> None:
    """The slot of partition 0 goes over to another shard in one step, as Valkey 9 can."""
    assert isinstance(place, ClusterPlace)
    slot = MovingSlot(place.primaries(), keys_of(0).tag)
    number = str(slot.slot)
    source = place.ask(slot.source)
    source.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", number, number, "NODE", slot.id_of(slot.target))
    meanwhile()
    wait_until(lambda: place.primary() is slot.target, 30, "the other shard has it")


def all_upgraded(place: Place, meanwhile: Meanwhile) -> None:
    """Every server is restarted, replicas first; each primary hands over before its turn."""
    if isinstance(place, Alone):
        _restarted(place, place.nodes[0], meanwhile)
        return
    assert isinstance(place, Replicated)
    former = [place.primary()]
    if isinstance(place, ClusterPlace):
        former = place.primaries()
    for node in place.nodes:
        if node not in former:
            _restarted(place, node)
            _joins(place, node)
    if isinstance(place, ClusterPlace):
        wait_until(place.is_well, 60, "the cluster is well")
        for n, node in enumerate(former):
            _hands_over(place, node)
            if n == 0:
                meanwhile()
            _joins(place, node)
            _restarted(place, node)
            _joins(place, node)
        return
    place.fail_over()
    meanwhile()
    _joins(place, *former)
    _restarted(place, former[0])
    _joins(place, *former)


def _hands_over(place: ClusterPlace, former: Node) -> None:
    replica = place.replicas(former)[0]
    place.ask(replica).execute_command("CLUSTER", "FAILOVER")
    wait_until(lambda: place.is_primary(replica), 30, "the replica is the primary")


def _restarted(place: Place, node: Node, meanwhile: Meanwhile = lambda: None) -> None:
    assert isinstance(place, Alone | Replicated)
    with contextlib.suppress(
        redis.RedisError
    ):  # it ends, or would rather not, for its file is being rewritten: then it is killed
        place.ask(node).shutdown()
    node.close()
    meanwhile()
    node.start()


@dataclass(frozen=True)
class Move:
    """One of them.

    Attributes:
        unreplicated: seconds of acknowledged writes that may go with an owner that is killed meanwhile.
        where: kinds of places in which it can happen.
        needs: a command of the server, which not all have.
    """

    name: str
    run: Callable[[Place, Meanwhile], None]
    where: tuple[type, ...]
    unreplicated: float = 0.0
    needs: str = ""


ANYWHERE = (Alone, ManagedPlace, SentinelPlace, ClusterPlace)
REPLICATED = (ManagedPlace, SentinelPlace, ClusterPlace)

MOVES = (
    Move("the primary is killed", killed, ANYWHERE, 1.0),
    Move("the primary stands still for 12 s", stands_still, ANYWHERE, 1.0),
    Move("a planned failover", planned, REPLICATED, 2.0),
    Move("killed three times in a row", flaps, ANYWHERE, 1.0),
    Move("replicas lag 3 s, the primary is killed", replicas_lag, REPLICATED, 4.5),
    Move("a stale primary comes back", stale_comes_back, REPLICATED, 1.0),
    Move("a Sentinel hangs, the primary is killed", watcher_hangs, (SentinelPlace,), 1.0),
    Move("a primary of others stands still for 12 s", another_shard_hangs, (ClusterPlace,), 1.0),
    Move("the slot moves to another shard", slot_moves, (ClusterPlace,)),
    Move("the slot moves in one step", slot_moves_at_once, (ClusterPlace,), 1.0, "CLUSTER|MIGRATESLOTS"),
    Move("all servers are upgraded", all_upgraded, ANYWHERE, 2.0),
)

PLACES: dict[str, Callable[[], Place]] = {
    "one server": Alone,
    "one endpoint": ManagedPlace,
    "Sentinel": SentinelPlace,
    "Cluster, 1 partition": lambda: ClusterPlace(1),
    "Cluster, 6 partitions": lambda: ClusterPlace(6),
}
KIND_OF: dict[str, type] = {
    "one server": Alone,
    "one endpoint": ManagedPlace,
    "Sentinel": SentinelPlace,
    "Cluster, 1 partition": ClusterPlace,
    "Cluster, 6 partitions": ClusterPlace,
}
