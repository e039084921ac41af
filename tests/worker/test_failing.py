"""A worker whose handlers raise: others come first, and it takes its time, so that a moment of trouble costs no call."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis

from coordinator import Session, Worker, clock
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


async def serve_well(_: Session) -> None:
    """The handler of a call that goes on."""
    await anyio.sleep_forever()


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_healthy_worker_gets_what_another_fails(url: str, redis_client: redis.Redis) -> None:
    """Six calls at a worker whose handler raises whenever it begins: all are served by the other, after one recovery each."""

    async def raises(_: Session) -> None:
        raise RuntimeError("the provider answers 503")

    async with coordinating(url), Worker(url, name="bad") as bad, Worker(url, name="good") as good:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(good.serve, serve_well)
            tasks.start_soon(bad.serve, raises)
            for n in range(6):
                await bad.open(f"call-{n}")
            await eventually(lambda: len(good.sessions) == 6)
            tasks.cancel_scope.cancel()
        found: list[Any] = [redis_client.hget(KEYS.session(f"call-{n}"), "recoveries") for n in range(6)]
    assert found == [b"1"] * 6


async def test_alone_it_takes_its_time(url: str, redis_client: redis.Redis) -> None:
    """Nobody else is there: it takes the call again after a pause that doubles, and meanwhile what it never failed at once."""
    began: dict[str, list[float]] = {"fails": [], "new": []}

    async def handler(session: Session) -> None:
        began[session.id].append(clock.now())
        if session.id == "fails" and len(began["fails"]) < 4:
            raise RuntimeError("the provider answers 503")
        await anyio.sleep_forever()

    async with coordinating(url), Worker(url, name="dies") as dies, Worker(url, name="a") as worker:
        await dies.open("new")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.serve, handler)
            await worker.open("fails")
            await eventually(lambda: len(began["fails"]) == 3)
            await instance_of(dies).end("exited", "it was killed")
            await eventually(lambda: len(began["fails"]) == 4)
            tasks.cancel_scope.cancel()
        first, second, third, fourth = began["fails"]
        assert second - first >= 0.5
        assert third - second >= 1.0
        assert fourth - third >= 2.0
        assert began["new"][0] < fourth, "it waited behind nothing"
        assert redis_client.hget(KEYS.session("fails"), "state") == b"active"
