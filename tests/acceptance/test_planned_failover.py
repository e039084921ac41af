"""A planned failover: the former primary answers, and takes writes, for ten seconds more."""

from __future__ import annotations

from typing import Any

import anyio
import redis

from coordinator import Session, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.deployments import Node, sentinel
from tests.redis_users import as_user
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


def role(node: Node) -> str:
    """What a server takes itself for."""
    return str(node.client.info("replication")["role"])


def begins_failover(watcher: Any) -> bool:
    """Whether the Sentinel does it; it wants to know the replica well before."""
    try:
        return bool(watcher.execute_command("SENTINEL", "FAILOVER", "calls"))
    except redis.ResponseError:
        return False


def epochs_at(node: Node, sessions: list[Session]) -> list[int]:
    """Under which epochs that server knows them; they rise when their owner states them again."""
    found: Any = [node.client.hget(KEYS.session(session.id), "epoch") for session in sessions]
    return [int(epoch or 0) for epoch in found]


async def all_written(sessions: list[Session], at: Node) -> None:
    """A checkpoint of each call is taken, and stands at that server."""
    for session in sessions:
        await session.checkpoint(b"after the switch")
    written: Any = [at.client.hget(KEYS.session(session.id), "data") for session in sessions]
    assert written == [b"after the switch"] * len(sessions)


async def test_nobody_stays_at_the_former_primary() -> None:
    """Workers and coordinators go to the new one while the former still takes writes; others start meanwhile; no call moves."""
    with sentinel() as (url, former, new):
        watcher: Any = redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]), protocol=2)
        daemons = [Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0)) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemons[0].run)
            async with Worker(as_user(url, "worker"), name="a") as worker:
                sessions = [await worker.open(f"call-{n}", b"data") for n in range(5)]
                await eventually(lambda: not daemons[0].not_ready())
                before = [session.epoch for session in sessions]
                await eventually(lambda: begins_failover(watcher), 20, "the Sentinel knows of a fit replica")
                named = ("SENTINEL", "get-master-addr-by-name", "calls")
                await eventually(
                    lambda: int(watcher.execute_command(*named)[1]) == new.port, 20, "the new one is named"
                )
                await tasks.start(daemons[1].run)
                async with Worker(as_user(url, "worker"), name="b") as newcomer:
                    await eventually(lambda: min(epochs_at(new, sessions)) > max(before), 20, "stated again")
                    await eventually(lambda: all(session.held for session in sessions), 20, "held again")
                    assert role(former) == "master", "the former primary was demoted before anybody had moved"
                    assert all(session.may_speak and not session.lost.is_set() for session in sessions)
                    await all_written(sessions, new)
                    await eventually(lambda: role(former) == "slave", 30, "demoted")
                    await eventually(lambda: not any(daemon.not_ready() for daemon in daemons), 20)
                    owners: Any = {new.client.hget(KEYS.session(session.id), "owner") for session in sessions}
                    assert [owner.partition(b"~")[0] for owner in owners] == [b"a"]
                    assert new.client.zcard(KEYS.graves) == 0
                    await all_written(sessions, new)
                    assert not newcomer.sessions
                assert all(session.held for session in sessions)
            tasks.cancel_scope.cancel()
