"""Takes out what has ended, or what no program can use: a bounded piece each call.

Each function raises `StoreUnavailableError` where the store did not answer, and is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.clock import in_ms
from coordinator.states import LIVING
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.lookups import now_ms
from coordinator.store.offer_stream import idle_readers
from coordinator.store.pruning import Index
from coordinator.store.setting_aside import set_aside_member
from coordinator.store.shapes import instance_id, score, text, text_if_any, whole

__all__ = [
    "Late",
    "beyond",
    "bring_forward",
    "first_members",
    "forget_ended_quarantine",
    "living_pools",
    "members_from",
    "mend_indexes",
    "names_of_the_gone",
    "not_due_for_too_long",
    "readers_that_are_gone",
    "set_aside_members",
]  # fmt: skip


async def set_aside_members(part: StorePartition, key: str, members: Sequence[bytes]) -> int:
    """Takes members that are not ids out of the index under this key and keeps them; returns how many."""
    index = key.removeprefix(f"{part.keys.tag}:")
    gone = [set_aside_member(part.keys, index=index, raw=raw) for raw in members]
    return sum(isinstance(answer, calls.Ok) for answer in await part.executor.run_many(gone)) if gone else 0


async def mend_indexes(part: StorePartition) -> None:
    """Sets aside indexes and streams of a partition that have another type than they must have."""
    k = part.keys
    await part.executor.mend(
        [k.events, k.quarantine, k.instances, k.graves, k.leases, k.orphans, k.dead_letters, k.names]
    )


async def names_of_the_gone(part: StorePartition, cursor: bytes, count: int) -> tuple[bytes, list[tuple[str, str]]]:
    """The cursor of the next step, and names with their instances whose records are gone; b"0" begins and ends."""
    keys, run = part.keys, part.executor
    after, found = await run.command("HSCAN", keys.names, cursor, "COUNT", count)
    pairs = [
        (name, instance)
        for name, instance in zip(map(text_if_any, found[::2]), map(text_if_any, found[1::2]), strict=True)
        if name is not None and instance is not None
    ]
    exist = await run.commands([("EXISTS", keys.instance(instance)) for _, instance in pairs])
    return after, [pair for pair, there in zip(pairs, exist, strict=True) if not there]


async def members_from(part: StorePartition, index: Index, rank: int, count: int) -> list[bytes]:
    """At most ``count`` members of an index from a rank on."""
    members: list[bytes] = await part.executor.command("ZRANGE", key_of(part, index), rank, rank + count - 1)
    return members


async def first_members(part: StorePartition, index: str, count: int) -> list[bytes]:
    """At most ``count`` members of an index that are due first."""
    members: list[bytes] = await part.executor.command("ZRANGE", key_of(part, index), 0, count - 1)
    return members


def key_of(part: StorePartition, index: str) -> str:
    """Key of an index that is kept in a sorted set."""
    k = part.keys
    return {
        "instances": k.instances,
        "graves": k.graves,
        "leases": k.leases,
        "orphans": k.orphans,
        "dead_letters": k.dead_letters,
    }[index]


@dataclass(frozen=True, slots=True)
class Late:
    """A member of an index whose time is too far away, with the time that it would have by its record."""

    member: bytes
    due_ms: int


async def beyond(part: StorePartition, index: str, seconds: float, unsaid: float, count: int) -> list[Late]:
    """Members that are not due within ``seconds``: a grave or a lease should be due now, an instance when it asked to be.

    Args:
        unsaid: seconds for an instance whose record does not say how long it may be silent.
    """
    run, time_ms = part.executor, await now_ms(part.executor)
    found = await run.command(
        "ZRANGEBYSCORE", key_of(part, index), f"({time_ms + in_ms(seconds)}", "+inf", "LIMIT", 0, count
    )
    if index != "instances":
        return [Late(member, time_ms) for member in found]
    asked = await run.outcomes([("HGET", part.keys.instance(text(member)), "dead_after_ms") for member in found])
    return [
        Late(member, time_ms + (whole(told, in_ms(unsaid)) if instance_id(member) else 0))
        for member, told in zip(found, asked, strict=True)
    ]


async def not_due_for_too_long(part: StorePartition, slack: float, unsaid: float, count: int) -> list[Late]:
    """Instances that have longer to beat than they asked for, among the ``count`` with the latest deadlines.

    Args:
        slack: seconds by which a deadline may lie ahead: a beat came between two looks, or a clock was set.
        unsaid: see `beyond`.
    """
    keys, run = part.keys, part.executor
    time_ms, slack_ms = await now_ms(run), in_ms(slack)
    found = await run.command("ZRANGE", keys.instances, 0, count - 1, "REV", "WITHSCORES")
    ahead = [(raw, at) for raw, at in zip(found[::2], map(score, found[1::2]), strict=True) if at > time_ms + slack_ms]
    asked = await run.outcomes([("HGET", keys.instance(text(raw)), "dead_after_ms") for raw, _ in ahead])
    due = [time_ms + whole(told, in_ms(unsaid)) for told in asked]
    return [
        Late(raw, due_ms)
        for (raw, at), due_ms in zip(ahead, due, strict=True)
        if at > due_ms + slack_ms and instance_id(raw)
    ]


async def bring_forward(part: StorePartition, index: str, late: Late) -> None:
    """Gives a member the time of its record, unless it has an earlier one by now."""
    await part.executor.command("ZADD", key_of(part, index), "XX", "LT", late.due_ms, late.member)


async def forget_ended_quarantine(part: StorePartition, most: int, count: int) -> None:
    """Keeps the newest ``most`` of what was set aside, and unlists what has ended; at most ``count`` of each a call."""
    keys, run = part.keys, part.executor
    oldest = await run.command("ZRANGE", keys.quarantine, 0, -1 - most)
    listed = await run.command("ZRANGE", keys.quarantine, 0, count - 1)
    there = await run.commands([("EXISTS", keys.set_aside(text(member))) for member in listed])
    for member in {*oldest[:count], *(raw for raw, kept in zip(listed, there, strict=True) if not kept)}:
        name = text(member)
        for key in (keys.set_aside(name), keys.set_aside_key(name)):
            await run.command("DEL", key)
        await run.command("ZREM", keys.quarantine, member)


async def living_pools(part: StorePartition) -> set[str | None]:
    """Pools of the instances whose heartbeats are watched; None among them for an instance that names no pool."""
    keys, run = part.keys, part.executor
    listed = await run.command("ZRANGE", keys.instances, 0, -1)
    living = [one for one in map(text_if_any, listed) if one is not None]
    return set(map(text_if_any, await run.outcomes([("HGET", keys.instance(one), "pool") for one in living])))


async def readers_that_are_gone(part: StorePartition, pool: str, count: int) -> list[str]:
    """At most ``count`` consumers of a pool's offers whose instances are dead, and for which nothing is pending."""
    keys, run = part.keys, part.executor
    idle = (await idle_readers(run, keys.offers(pool)))[:count]
    looks = await run.commands(
        [look for name in idle for look in (("HGET", keys.instance(name), "state"), ("ZSCORE", keys.graves, name))]
    )
    return [
        name
        for name, state, grave in zip(idle, looks[::2], looks[1::2], strict=True)
        if text(state) not in LIVING and grave is None
    ]
