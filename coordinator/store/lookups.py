"""Single facts that programs read from records.

No function changes anything, and each raises `StoreUnavailableError` where the store did not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.store.executor import Executor, StorePartition
from coordinator.store.shapes import instance_id, session_id, text, whole

__all__ = [
    "AtHand",
    "Kept",
    "Opening",
    "Reachable",
    "Standing",
    "Whereabouts",
    "heir_of",
    "instances_with",
    "kept_of",
    "lineage_of",
    "newest_of",
    "now_ms",
    "opening_of",
    "owned_by",
    "owner_of",
    "partitions_of",
    "pools_of",
    "reachable",
    "roll_of",
    "said_by",
    "standings_of",
    "tenant_of",
    "to_write",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a session is: '' for what its record does not say, all '' where there is no record."""

    state: str
    owner: str
    tenant: str
    encoding: str


async def owner_of(part: StorePartition, session: str) -> Whereabouts:
    """The owner of a session, its state, its tenant and the encoding of its data."""
    names = "state", "owner", "tenant", "encoding"
    return Whereabouts(*map(text, await part.executor.command("HMGET", part.keys.session(session), *names)))


@dataclass(frozen=True, slots=True)
class AtHand:
    """What a process needs to write a session for its owner; ``epoch`` is None where there is no such session."""

    owner: str
    epoch: int | None
    checkpoint: int
    tenant: str
    encoding: str


async def to_write(part: StorePartition, session: str) -> AtHand:
    """The owner of a session, and how far its data is numbered."""
    names = "owner", "epoch", "checkpoint", "tenant", "encoding"
    owner, epoch, checkpoint, tenant, encoding = await part.executor.command(
        "HMGET", part.keys.session(session), *names
    )
    known = None if epoch is None else whole(epoch)
    return AtHand(text(owner), known, whole(checkpoint), text(tenant), text(encoding))


@dataclass(frozen=True, slots=True)
class Opening:
    """As a session was opened; the time in ms of the server's clock."""

    pool: str
    tenant: str
    requires: str
    opened_at_ms: int


async def opening_of(part: StorePartition, session: str) -> Opening:
    """How a session was opened."""
    names = "pool", "tenant", "requires", "opened_at"
    pool, tenant, requires, opened_at = await part.executor.command("HMGET", part.keys.session(session), *names)
    return Opening(text(pool), text(tenant), text(requires), whole(opened_at))


async def tenant_of(part: StorePartition, session: str) -> str:
    """The tenant of a session, '' for none."""
    return text(await part.executor.command("HGET", part.keys.session(session), "tenant"))


@dataclass(frozen=True, slots=True)
class Kept:
    """Recovery data as it is stored; ``epoch`` is 0 where there is no such session."""

    epoch: int
    data: bytes
    encoding: str


async def kept_of(part: StorePartition, session: str) -> Kept:
    """The recovery data of a session."""
    names = "epoch", "data", "encoding"
    epoch, data, encoding = await part.executor.command("HMGET", part.keys.session(session), *names)
    return Kept(whole(epoch), data or b"", text(encoding))


async def heir_of(part: StorePartition, session: str) -> str:
    """The instance that waits for a session, '' where none does."""
    return instance_id(await part.executor.command("HGET", part.keys.session(session), "heir"))


@dataclass(frozen=True, slots=True)
class Standing:
    """State, owner, epoch and pool of a session by its record; '' and epoch 0 without one."""

    state: str
    owner: str
    epoch: int
    pool: str


async def standings_of(part: StorePartition, sessions: Sequence[str]) -> Mapping[str, Standing]:
    """The standing of many sessions, in one exchange; a key of another type counts as no record."""
    names = "state", "owner", "epoch", "pool"
    rows = await part.executor.outcomes([("HMGET", part.keys.session(one), *names) for one in sessions])
    found = {}
    for one, row in zip(sessions, rows, strict=True):
        state, owner, epoch, pool = row if isinstance(row, list) else (None, None, None, None)
        found[one] = Standing(text(state), text(owner), whole(epoch), text(pool))
    return found


async def pools_of(part: StorePartition, sessions: Sequence[str]) -> list[str]:
    """The pool of each session; ``default`` where its record does not say one."""
    pools = await part.executor.outcomes([("HGET", part.keys.session(one), "pool") for one in sessions])
    return [text(pool) or "default" for pool in pools]


async def owned_by(part: StorePartition, instance: str) -> set[str]:
    """Ids of the sessions that the index of an instance names."""
    members = await part.executor.command("SMEMBERS", part.keys.owned(instance))
    return {one for raw in members if (one := session_id(raw))}


@dataclass(frozen=True, slots=True)
class Reachable:
    """What an instance says of itself: '' for what it does not say, all '' where it is not known."""

    state: str
    address: str


async def reachable(part: StorePartition, instance: str) -> Reachable:
    """The state of an instance, and the address at which it can be reached."""
    return Reachable(*map(text, await part.executor.command("HMGET", part.keys.instance(instance), "state", "address")))


async def said_by(part: StorePartition, instance: str, *fields: str) -> dict[str, str] | None:
    """These fields of an instance's record, as text; None where there is no such instance."""
    answer = await part.executor.command("HMGET", part.keys.instance(instance), *fields)
    return None if all(one is None for one in answer) else dict(zip(fields, map(text, answer), strict=True))


async def instances_with(part: StorePartition, *fields: str) -> dict[str, dict[str, str]]:
    """These fields of all instances whose heartbeats are watched; one whose key is of another type is left out."""
    listed = await part.executor.command("ZRANGE", part.keys.instances, 0, -1)
    instances = [one for raw in listed if (one := instance_id(raw))]
    rows = await part.executor.outcomes([("HMGET", part.keys.instance(one), *fields) for one in instances])
    return {
        one: dict(zip(fields, map(text, row), strict=True))
        for one, row in zip(instances, rows, strict=True)
        if isinstance(row, list)
    }


async def newest_of(part: StorePartition, name: str) -> str:
    """The newest instance of a name, '' where no instance ever had it."""
    return instance_id(await part.executor.command("HGET", part.keys.names, name))


async def roll_of(part: StorePartition, instance: str) -> str:
    """The digest that the store keeps of what an instance owns, '' for none."""
    return text(await part.executor.command("HGET", part.keys.instance(instance), "roll"))


async def lineage_of(part: StorePartition) -> str:
    """The lineage of a partition, '' where it was not made."""
    return text(await part.executor.command("HGET", part.keys.meta, "lineage"))


async def partitions_of(part: StorePartition) -> int | None:
    """How many partitions the deployment was made with, None where it was not made."""
    found = await part.executor.command("HGET", part.keys.meta, "partitions")
    return None if found is None else whole(found)


async def now_ms(run: Executor) -> int:
    """The time of the server's clock, in ms."""
    seconds, micros = await run.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
