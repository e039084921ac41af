"""A record that does not parse, seen by the worker whose it is, and by those who would adopt."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
import redis

from coordinator import InvalidDataError, Session, Worker
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


def kept(client: Any) -> set[str]:
    """What was set aside."""
    return {member.decode() for member in client.zrange(KEYS.quarantine, 0, -1)}


@pytest.mark.parametrize("field", ["epoch", "state", "owner", "pool", "checkpoint"])
async def test_a_living_owner_states_its_call_again(url: str, redis_client: redis.Redis, field: str) -> None:
    """It holds the call all the while, under an epoch that is no lower, and what it writes is stored."""
    async with coordinating(url), Worker(url, name="a") as worker:
        session = await worker.open("call", b"opened")
        before = session.epoch
        redis_client.hset(KEYS.session("call"), field, "\xff none")
        await session.checkpoint(b"newer")
        await eventually(lambda: kept(redis_client) == {"session:call"}, 20)
        await eventually(lambda: redis_client.hget(KEYS.session("call"), "epoch") == str(session.epoch).encode())
        record: Any = redis_client.hgetall(KEYS.session("call"))
        assert (record[b"state"], record[b"owner"], record[b"data"]) == (b"active", worker.id.encode(), b"newer")
        assert session.epoch >= before
        assert not session.lost.is_set()
        instance_of(worker).abandon()
    redis_client.flushall()


@pytest.mark.parametrize(
    ("field", "value"), [("requires", b"\xff"), ("requires", b"7"), ("encoding", b"xml"), ("data", b"{not json")]
)
async def test_what_an_heir_cannot_read_is_left_to_its_living_owner(
    url: str, redis_client: redis.Redis, field: str, value: bytes
) -> None:
    """A call that is handed over while its record is broken is no dead letter: its owner has the good data, and states it again."""
    async with coordinating(url), Worker(url, name="a") as owner, Worker(url, name="heir") as heir:
        session = await owner.open("call", {"n": 1})
        redis_client.hset(KEYS.session("call"), field, value)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owner.drain)
            async for offer in heir.offers():
                adopted = await offer.adopt()
                if adopted is not None:
                    break
            tasks.cancel_scope.cancel()
        assert adopted is not None
        assert adopted.recovery_data == {"n": 1}
        assert adopted.epoch > session.epoch
        instance_of(heir).abandon()
    redis_client.flushall()


async def test_a_living_instance_registers_again(url: str, redis_client: redis.Redis) -> None:
    """With all that it says of itself, under its id, and its call stays where it is."""
    async with coordinating(url), Worker(url, name="a", labels={"zone": "x"}) as worker:
        session = await worker.open("call", b"opened")
        redis_client.hset(KEYS.instance(worker.id), mapping={"labels": "abc", "capacity": "many"})
        await eventually(lambda: kept(redis_client) == {f"instance:{worker.id}"}, 20)
        await eventually(
            lambda: json.loads(redis_client.hget(KEYS.instance(worker.id), "labels") or "{}") == {"zone": "x"}
        )
        assert redis_client.hget(KEYS.instance(worker.id), "capacity") == b"100"
        await eventually(lambda: session.epoch == int(redis_client.hget(KEYS.session("call"), "epoch") or 0), 20)
        assert not session.lost.is_set()
        instance_of(worker).abandon()
    redis_client.flushall()


async def test_data_that_nobody_can_read_is_a_dead_letter(url: str, redis_client: redis.Redis) -> None:
    """It is given up on with its bytes, its neighbour is adopted, and no worker ends."""
    served: list[str] = []

    async def handler(session: Session) -> None:
        served.append(session.id)
        await anyio.sleep_forever()

    async with (
        coordinating(url),
        Worker(url, name="heir") as heir,
        Worker(url, name="owner") as owner,
        anyio.create_task_group() as tasks,
    ):
        for call in ("deep", "good"):
            await owner.open(call, {"call": call})
        deep = b'{"a":' * 2000 + b"1" + b"}" * 2000
        redis_client.hset(KEYS.session("deep"), mapping={"data": deep[:8000]})
        tasks.start_soon(heir.serve, handler)
        await instance_of(owner).end("exited", "it was killed")
        await eventually(lambda: served == ["good"], 20)
        await eventually(lambda: redis_client.hget(KEYS.session("deep"), "state") == b"dead_lettered", 20)
        assert redis_client.hmget(KEYS.session("deep"), "reason", "data") == [b"broken", deep[:8000]]
        instance_of(heir).abandon()
        tasks.cancel_scope.cancel()
    redis_client.flushall()


async def test_an_adopter_of_unreadable_data_is_told(url: str, redis_client: redis.Redis) -> None:
    """Data that is too large to travel with the offer is seen by who adopts it: `recovery_data` raises, and nothing ends."""
    async with coordinating(url), Worker(url, name="heir") as heir, Worker(url, name="owner") as owner:
        await owner.open("call", {"pad": "x" * 20_000})
        redis_client.hset(KEYS.session("call"), "data", b"{" * 20_000)
        await instance_of(owner).end("exited", "it was killed")
        session = await heir.adopt("call", wait=10)
        assert session is not None
        with pytest.raises(InvalidDataError):
            _ = session.recovery_data
        assert session.held
        instance_of(heir).abandon()
    redis_client.flushall()
