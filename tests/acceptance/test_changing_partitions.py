"""From one number of partitions to another, as docs/scale.md tells: both side by side, until the old ones are empty."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest
import redis

from coordinator import Session, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.waiting import eventually

OLD, NEW = ("calls", 1), ("calls6", 6)
CALLS = 12


class Program:
    """A worker's process.

    Attributes:
        layouts: its workers, one for each.
        serves: its calls by their ids, with the data that they began with.
        over: to be set as by SIGTERM: it hands its calls over, and ends.
        ended: set when it has ended.
    """

    def __init__(self, url: str, name: str, *layouts: tuple[str, int]) -> None:
        self.layouts = [Worker(url, name=name, prefix=prefix, partitions=number) for prefix, number in layouts]
        self.serves: dict[str, bytes] = {}
        self.over, self.ended = anyio.Event(), anyio.Event()

    async def serve(self, session: Session) -> None:
        """The handler, of both layouts."""
        data = session.recovery_data
        assert isinstance(data, bytes)
        self.serves[session.id] = data
        try:
            await session.lost.wait()
        finally:
            del self.serves[session.id]

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Until it is over."""
        async with anyio.create_task_group() as tasks:
            for worker in self.layouts:
                await tasks.start(self._run, worker)
            task_status.started()
        self.ended.set()

    async def _run(self, worker: Worker, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with worker, anyio.create_task_group() as serving:
            serving.start_soon(worker.serve, self.serve)
            task_status.started()
            await self.over.wait()
            await worker.drain(timeout=30)
            serving.cancel_scope.cancel()


async def test_both_side_by_side_until_the_old_ones_are_empty(url: str, redis_client: redis.Redis) -> None:
    """Workers of both layouts take the place of those of one; each call of the old layout goes on, also past a second restart."""
    daemons = [
        Daemon(load(redis_url=url, prefix=prefix, partitions=number, http_port=0)) for prefix, number in (OLD, NEW)
    ]
    old_keys = Keys(OLD[0], 0)
    calls = {f"call-{n}": b"data of %d" % n for n in range(CALLS)}
    first, second, third = (
        Program(url, name, *layouts) for name, layouts in (("1", (OLD,)), ("2", (OLD, NEW)), ("3", (OLD, NEW)))
    )
    async with anyio.create_task_group() as tasks:
        for daemon in daemons:
            await tasks.start(daemon.run)
        await tasks.start(first.run)
        for call, data in calls.items():
            await first.layouts[0].open(call, data)
        await tasks.start(second.run)
        first.over.set()
        await first.ended.wait()  # no program is left that knows the old layout alone
        await eventually(lambda: second.serves == calls, 30)
        calls["new-call"] = b"of the new layout"
        await second.layouts[1].open("new-call", calls["new-call"])
        await tasks.start(third.run)
        second.over.set()
        await second.ended.wait()
        await eventually(lambda: third.serves == calls, 30)
        assert [len(worker.sessions) for worker in third.layouts] == [CALLS, 1]
        for worker in third.layouts:
            for session in worker.sessions:
                assert session.planned
                await session.close()
        assert not redis_client.smembers(old_keys.owned(third.layouts[0].id)), "the old layout is empty"
        third.over.set()
        await third.ended.wait()
        tasks.cancel_scope.cancel()
    redis_client.flushall()


@pytest.mark.parametrize("number", [1, 6])
async def test_layouts_of_different_prefixes_know_nothing_of_each_other(
    url: str, redis_client: redis.Redis, number: int
) -> None:
    """The same id may be open in both; each has its own owner, and closing one leaves the other."""
    async with (
        Worker(url, name="a", prefix="calls") as old,
        Worker(url, name="a", prefix="calls6", partitions=number) as new,
    ):
        one, two = await old.open("same", b"1"), await new.open("same", b"2")
        await one.close()
        assert two.held
        await two.close()
    redis_client.flushall()
