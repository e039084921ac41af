"""What a detector asks beside its look at a partition (``scan.lua``).

None of these functions changes anything, and each raises `StoreUnavailableError` where the store did not answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coordinator.policy import Suspect
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import instance_id, score, session_id

__all__ = ["awaited_of", "later_suspects", "listeners_of", "without_a_record"]


async def later_suspects(part: StorePartition, until_ms: int, page: int) -> list[Suspect]:
    """Instances whose deadline is at most ``until_ms``, without the first page; read page by page."""
    found: list[Suspect] = []
    first = page
    while True:
        members = await part.executor.command(
            "ZRANGEBYSCORE", part.keys.instances, "-inf", until_ms, "WITHSCORES", "LIMIT", first, page
        )
        pairs = zip(members[::2], members[1::2], strict=True)
        found += [Suspect(one, score(deadline)) for raw, deadline in pairs if (one := instance_id(raw))]
        if len(members) < 2 * page:
            return found
        first += page


async def listeners_of(part: StorePartition, instances: Sequence[str]) -> list[int]:
    """How many connections listen to the presence channel of each instance: one command for all."""
    told = await part.executor.command("PUBSUB", "NUMSUB", *map(part.keys.mailbox, instances))
    return [int(count) for count in told[1::2]]


async def without_a_record(part: StorePartition, instances: Sequence[str]) -> list[str]:
    """Those of the instances that have no record."""
    there = await part.executor.commands([("EXISTS", part.keys.instance(one)) for one in instances])
    return [one for one, exists in zip(instances, there, strict=True) if not exists]


async def awaited_of(part: StorePartition, most: int) -> Counter[str]:
    """How many sessions of each instance an heir waits for, among the ``most`` with the latest leases."""
    keys, run = part.keys, part.executor
    leased = await run.command("ZRANGE", keys.leases, -most, -1)
    ids = [one for member in leased if (one := session_id(member))]
    rows = await run.outcomes([("HMGET", keys.session(session), "owner", "heir") for session in ids])
    found = (row for row in rows if isinstance(row, list))
    return Counter(instance_id(owner) for owner, heir in found if instance_id(owner) and heir)
