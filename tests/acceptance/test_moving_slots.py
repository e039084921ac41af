"""A partition whose slot moves from one server of a Cluster to another, under way: nobody is declared dead, and all go along."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from coordinator import Session, StoreUnavailableError, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.deployments import MovingSlot, Node, cluster
from tests.redis_users import as_user
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
NAMES = ("a", "b", "c")


def listeners(node: Node, instance: str) -> int:
    """Connections at that server that listen for what an instance is told."""
    [(_, count)] = node.client.pubsub_numsub(KEYS.mailbox(instance))
    return int(count)


def presences(node: Node, workers: list[Worker]) -> list[Any]:
    """What the last beat of each said of its own connection."""
    return [node.client.hget(KEYS.instance(worker.id), "presence") for worker in workers]


async def written(session: Session, data: bytes) -> bool:
    """Whether a checkpoint was taken; the store may be away for the moment."""
    try:
        await session.checkpoint(data)
    except StoreUnavailableError:
        return False
    return True


async def test_presence_goes_along() -> None:
    """Each worker listens at the new server, and its beats say so; no call has moved, and data is written there."""
    with cluster() as (url, nodes):
        slot = MovingSlot(nodes, KEYS.tag)
        daemon = Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0))
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemon.run)
            workers = [Worker(as_user(url, "worker"), name=name) for name in NAMES]
            async with workers[0], workers[1], workers[2]:
                sessions = [await worker.open(f"call-{worker.name}", b"data") for worker in workers]
                await eventually(lambda: presences(slot.source, workers) == [b"1"] * 3, 30)
                slot.begin()
                slot.move(3)
                slot.end()
                await eventually(lambda: [listeners(slot.target, one.id) for one in workers] == [1] * 3, 30)
                await eventually(lambda: presences(slot.target, workers) == [b"1"] * 3, 30)
                await eventually(lambda: all(session.held for session in sessions), 30)
                for session in sessions:
                    await session.checkpoint(b"after the move")
                    assert slot.target.client.hget(KEYS.session(session.id), "data") == b"after the move"
                assert slot.target.client.zcard(KEYS.graves) == 0
                assert not any(session.lost.is_set() for session in sessions)
                await eventually(lambda: not daemon.not_ready(), 30)
            tasks.cancel_scope.cancel()


async def test_while_keys_are_on_their_way_nothing_is_lost() -> None:
    """A slot that has begun to move: who cannot go on is told what it waits for; then everything is there, and goes on."""
    with cluster() as (url, nodes):
        slot = MovingSlot(nodes, KEYS.tag)
        daemon = Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0))
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemon.run)
            async with Worker(as_user(url, "worker"), name="a") as worker:
                session = await worker.open("call", b"one")
                await eventually(lambda: not daemon.not_ready(), 30)
                slot.begin()
                assert await written(session, b"two"), "what is all at the source goes on"
                with pytest.raises(StoreUnavailableError, match="slot of this partition is being moved") as refused:
                    await worker.open("another", b"")
                assert refused.value.kind == "try_again"
                slot.move(2)
                slot.end()
                await eventually(lambda: session.held, 30)
                await eventually(lambda: written(session, b"three"), 30)
                assert slot.target.client.hget(KEYS.session("call"), "data") == b"three"
                await worker.open("another", b"")
                assert slot.target.client.zcard(KEYS.graves) == 0
                await eventually(lambda: not daemon.not_ready(), 30)
            tasks.cancel_scope.cancel()
