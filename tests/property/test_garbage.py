"""Arbitrary bytes in arbitrary places of a live deployment with a death pending: nobody ends, and no other call is left behind.

``GARBAGE_ROUNDS``: how many deployments are tried, twenty-five places each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import redis

from coordinator import Session, Worker
from coordinator.store.keys import Keys
from coordinator.store.shapes import Kind, faults, shaped_fields
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
ROUNDS = int(os.environ.get("GARBAGE_ROUNDS", "40"))
PLACES = 25
SETTINGS: dict[str, Any] = {"lease": 1}

pytestmark = pytest.mark.timeout(120)


def some_bytes(chance: random.Random) -> bytes:
    """Of many kinds: text, numbers that are none, JSON of the wrong form, control characters, what is no UTF-8."""
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randrange(1, 40)),
        lambda: b"abc",
        lambda: b"",
        lambda: b"\n\r\x00\x1b[31m",
        lambda: b"9" * chance.randrange(1, 40),
        lambda: chance.choice([b"-1", b"1e9", b"inf", b"nan", b"0x10", b" 7", b"7.5"]),
        lambda: chance.choice([b"{}", b"[]", b"[1]", b'{"a":1}', b"null", b"[" * 2000]),
        lambda: "é\u202e\u2028".encode(),
    ]
    return chance.choice(kinds)()


def that_breaks(kind: Kind, field: str, chance: random.Random) -> bytes:
    """A value that does not parse, or is empty: one that parses is no garbage, whatever it says."""
    values = (some_bytes(chance) for _ in range(100))
    return next((value for value in values if faults(kind, {field: value})), b"")


def spoil(client: Any, chance: random.Random, hit: list[str], owner: str) -> None:
    """Puts garbage somewhere; not into the records of calls that are to be adopted, and not what says that writes were lost."""
    where = chance.randrange(6)
    if where == 0:
        field = chance.choice(shaped_fields("session"))
        client.hset(KEYS.session(chance.choice(hit)), field, that_breaks("session", field, chance))
    elif where == 1:
        key = chance.choice(client.keys(KEYS.instance("*")))
        field = chance.choice(shaped_fields("instance"))
        client.hset(key, field, that_breaks("instance", field, chance))
    elif where == 2:
        index = chance.choice([KEYS.instances, KEYS.graves, KEYS.leases, KEYS.orphans, KEYS.dead_letters])
        client.zadd(index, {some_bytes(chance): chance.choice([0, 1, -1, 1e15, "inf", "-inf"])})
    elif where == 3:
        client.sadd(KEYS.owned(owner), some_bytes(chance))
    elif where == 4:
        fields: dict[bytes, bytes] = {b"session": chance.choice([some_bytes(chance), chance.choice(hit).encode()])}
        fields |= {name: some_bytes(chance) for name in (b"epoch", b"requires", b"data", b"encoding", b"attempt")}
        client.xadd(chance.choice([KEYS.offers("default"), KEYS.events]), fields)
    else:
        client.hset(KEYS.detector, chance.choice(shaped_fields("detector")), some_bytes(chance))


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_garbage_costs_nobody_else_anything(url: str, redis_client: redis.Redis, seed: int) -> None:
    """All live, every other call is adopted, and each that was spoilt is adopted, a dead letter or closed."""
    chance, client = random.Random(seed), redis_client
    good, hit = [f"good-{n}" for n in range(5)], [f"hit-{n}" for n in range(5)]
    served: set[str] = set()

    async def handler(session: Session) -> None:
        served.add(session.id)
        await anyio.sleep_forever()

    async with (
        coordinating(url, **SETTINGS),
        Worker(url, name="heir", **SETTINGS) as heir,
        Worker(url, name="bystander", capacity=0, **SETTINGS) as bystander,
        Worker(url, name="victim", **SETTINGS) as victim,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(heir.serve, handler)
        for call in (*good, *hit):
            await victim.open(call, {"call": call})
        kept = await bystander.open("kept", b"x")
        for _ in range(PLACES):
            spoil(client, chance, hit, victim.id)
        await instance_of(victim).end("exited", "it was killed")
        await eventually(lambda: served >= set(good), 40, "the others are adopted")
        await eventually(lambda: kept.held and instance_of(heir).trust_left > 0, 20, "both hold")
        await kept.checkpoint(b"y")
        await eventually(lambda: all(settled(client, call, heir.id) for call in hit), 40, "each spoilt one is settled")
        for worker in (heir, bystander):
            instance_of(worker).abandon()
        tasks.cancel_scope.cancel()
    client.flushall()


def settled(client: Any, call: str, heir: str) -> bool:
    """Whether a call that was spoilt is served, or kept for a person; one of another pool waits for workers of that pool."""
    state, owner, pool = client.hmget(KEYS.session(call), "state", "owner", "pool")
    waits = state == b"offered" and pool != b"default"
    return waits or state in (b"dead_lettered", b"closed") or (state == b"active" and owner == heir.encode())
