"""The main job behind a Sentinel and on a Cluster, with real servers."""

from __future__ import annotations

import anyio

from coordinator import Worker
from coordinator.cli.doctor import examine
from coordinator.daemon.daemon import Daemon
from coordinator.ids import partition_of
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.acceptance.adopting import all_adopted
from tests.deployments import cluster, sentinel
from tests.redis_users import as_user
from tests.waiting import eventually


async def test_a_sentinel_fails_over_and_no_call_changes_hands() -> None:
    """The primary dies and the replica takes over: the worker holds its call again, nobody was declared dead."""
    with sentinel() as (url, primary, replica):
        daemon = Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0))
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemon.run)
            async with Worker(as_user(url, "worker"), name="a") as worker:
                session = await worker.open("call-1", b"data")
                before = session.epoch
                await eventually(lambda: not daemon.not_ready())
                levels = {one.check: one.level for one in await examine(load(redis_url=as_user(url, "reader")))}
                assert levels["replication"] == "warn"
                primary.client.config_set("min-replicas-to-write", 1)
                levels = {one.check: one.level for one in await examine(load(redis_url=as_user(url, "reader")))}
                assert levels["replication"] == "ok"
                primary.close()
                await eventually(lambda: not session.held, description="in doubt")
                await eventually(lambda: session.held, 30, "held again, by the new primary")
                assert not session.lost.is_set()
                assert session.epoch > before
                await session.checkpoint(b"more")
                keys = Keys("recovery", 0)
                assert replica.client.hget(keys.session("call-1"), "data") == b"more"
                assert replica.client.zcard(keys.graves) == 0
                await eventually(lambda: not daemon.not_ready())
            tasks.cancel_scope.cancel()


async def test_a_cluster_holds_each_partition_in_its_own_slot() -> None:
    """Calls in three partitions on three servers: the worker dies, all are adopted with their data; `doctor` asks each server."""
    calls = [f"call-{n}" for n in range(12)]
    with cluster() as (url, nodes):
        daemon = Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0, partitions=3))
        as_worker = as_user(url, "worker")
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemon.run)
            async with Worker(as_worker, name="b", partitions=3) as b:
                try:
                    async with Worker(as_worker, name="a", partitions=3) as a:
                        for call in calls:
                            await a.open(call, call.encode())
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                await all_adopted(b, calls)
            tasks.cancel_scope.cancel()
        assert len({partition_of(call, 3) for call in calls}) == 3
        assert sum(bool(node.client.keys("*")) for node in nodes) > 1, "the partitions lie on several servers"
        found = await examine(load(redis_url=as_user(url, "reader"), partitions=3))
        assert {one.check for one in found if one.level == "fail"} == set()
        assert [one.level for one in found if one.check == "rights: reader"] == ["ok"]
