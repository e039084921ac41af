"""A key of another type than ours while a death is pending: it is set aside, and the calls of the dead are adopted."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from coordinator import Session, Worker
from coordinator.store.keys import PERMANENT, PERMANENT_WHILE, TYPES, Keys
from tests.coordinating import coordinating
from tests.inside import instance_of
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)
OTHER = {"string": lambda client, key: client.set(key, "x"), "list": lambda client, key: client.rpush(key, "x")}
ALONE = ["blamed", "dead-letters", "events", "graves", "leases", "names", "offers", "orphans", "owned", "quarantine"]
"""Indexes that a burial, or what follows it, may meet. Of ``owned`` the walk finds the calls again."""


def key_of(kind: str, dead: str) -> str:
    """The key of that kind that the end of an instance has to do with."""
    of = {"blamed": KEYS.blamed(dead), "owned": KEYS.owned(dead), "offers": KEYS.offers("default")}
    return of.get(kind) or f"{KEYS.tag}:{kind}"


def put(client: Any, kind: str, dead: str, other: str) -> None:
    """Something else in its place."""
    client.delete(key_of(kind, dead))
    OTHER[other](client, key_of(kind, dead))


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize(
    "kinds",
    [*([one] for one in ALONE), ["quarantine", "leases"], ["quarantine", "blamed"], ["events", "graves"]],
    ids="+".join,
)
async def test_the_calls_of_the_dead_are_adopted(url: str, redis_client: Any, kinds: list[str], other: str) -> None:
    """Whichever of its keys it is: nobody waits for it, and there is a key of ours again, or none."""
    served = anyio.Event()

    async def handler(session: Session) -> None:
        """Serves it."""
        served.set()
        await anyio.sleep_forever()

    async with (
        coordinating(url),
        Worker(url, name="heir") as heir,
        Worker(url, name="owner") as owner,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(heir.serve, handler)
        await owner.open("call", {"n": 1})
        dead = redis_client.hget(KEYS.session("call"), "owner").decode()
        for kind in kinds:
            put(redis_client, kind, dead, other)
        await instance_of(owner).end("exited", "it was killed")
        with within(20):
            await served.wait()
        wanted = {kind: {b"none", TYPES[kind].encode()} for kind in kinds}
        await eventually(lambda: all(redis_client.type(key_of(k, dead)) in types for k, types in wanted.items()))
        tasks.cancel_scope.cancel()


def test_each_kind_has_a_type() -> None:
    """A new kind of key says of which type it is."""
    assert TYPES.keys() == {*PERMANENT, *PERMANENT_WHILE, "letter"}
