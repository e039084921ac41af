"""A call that comes to a worker by itself is opened there, or adopted where it exists already."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis

from coordinator import DrainingError, Worker
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


async def test_a_new_call_is_opened(url: str) -> None:
    """It has the data that it came with, and came from no other worker; asked again it is the same session."""
    async with Worker(url, name="a") as worker:
        session = await worker.receive("call-1", {"sequence": 0})
        assert session is not None
        assert (session.recovered, session.recovery_data) == (False, {"sequence": 0})
        assert await worker.receive("call-1", {"sequence": 9}) is session
        assert session.recovery_data == {"sequence": 0}


async def test_a_call_of_a_living_worker_is_handed_over(url: str) -> None:
    """The caller knocks at another door: the worker before lets go, and its data counts, not what the caller came with."""
    async with Worker(url, name="a") as before, Worker(url, name="b") as door:
        owned = await before.open("call-1", {"sequence": 0})
        await owned.checkpoint({"sequence": 7})
        with within(10):
            session = await door.receive("call-1", {"sequence": 0}, wait=5)
        assert session is not None
        assert (session.recovered, session.planned, session.recovery_data) == (True, True, {"sequence": 7})
        assert owned.lost.is_set()


async def test_a_call_of_a_dead_worker_is_adopted(url: str, redis_client: redis.Redis) -> None:
    """The caller is back before any worker was offered the call."""
    async with coordinating(url), Worker(url, name="door", capacity=0) as door:
        with pytest.raises(ZeroDivisionError):
            async with Worker(url, name="a") as dying:
                await dying.open("call-1", {"sequence": 7})
                raise ZeroDivisionError
        with within(10):
            session = await door.receive("call-1", {"sequence": 0}, wait=5)
        assert session is not None
        assert (session.recovered, session.recovery_data) == (True, {"sequence": 7})


async def test_a_call_that_is_closed_meanwhile_is_opened(url: str) -> None:
    """The worker before ends the call while the door waits for it: then it is a new call."""
    async with Worker(url, name="a") as before, Worker(url, name="door") as door:
        owned = await before.open("call-1", {"sequence": 7})
        received: list[Any] = []

        async def knock() -> None:
            received.append(await door.receive("call-1", {"sequence": 0}, wait=10))

        with within(15), owned.busy():  # it does not move while it is busy
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(knock)
                await eventually(lambda: owned.asked_at > 0, description="the door asks for it")
                await owned.close()
        [session] = received
        assert session is not None
        assert (session.recovered, session.recovery_data) == (False, {"sequence": 0})


async def test_a_call_that_stays_where_it_is(url: str) -> None:
    """Without a wait the owner is not asked, and in another pool there is nothing to ask for: None, and the call goes on."""
    async with (
        Worker(url, name="a") as owner,
        Worker(url, name="b") as door,
        Worker(url, name="c", pool="other") as other,
    ):
        owned = await owner.open("call-1")
        assert await door.receive("call-1", wait=0) is None
        assert await other.receive("call-1", wait=0.3) is None
        assert owned.held


async def test_a_draining_worker_receives_nothing(url: str) -> None:
    """It takes nothing new, whether the call is new or not."""
    async with Worker(url, name="a") as worker:
        await worker.drain()
        with pytest.raises(DrainingError):
            await worker.receive("call-1")
