"""What the dead left behind, as a coordinator asks for it before it claims.

Only `mend` changes anything, and each function raises `StoreUnavailableError` where the store did not answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.clock import in_seconds
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import score, session_id, text, whole
from coordinator.store.usual import BATCH

__all__ = ["Death", "DiedBefore", "Grave", "look", "mend", "some_owned", "who_died_before"]


@dataclass(frozen=True, slots=True)
class Grave:
    """A dead instance.

    Attributes:
        died_before: how many of its sessions had lost an owner by a death before.
    """

    pool: str
    died_before: int


async def look(part: StorePartition, instance: str) -> Grave:
    """What is known of a dead instance."""
    keys = part.keys
    pool, many = await part.executor.commands(
        [("HGET", keys.instance(instance), "pool"), ("ZCARD", keys.blamed(instance))]
    )
    return Grave(text(pool) or "default", many)


async def some_owned(part: StorePartition, instance: str) -> tuple[list[str], list[bytes]]:
    """Some of the sessions that the index of an instance names, and members that are not ids; both empty when it is."""
    members = await part.executor.command("SRANDMEMBER", part.keys.owned(instance), BATCH)
    sessions = [one for raw in members if (one := session_id(raw))]
    return sessions, [raw for raw in members if not session_id(raw)]


@dataclass(frozen=True, slots=True)
class Death:
    """When an instance died, by the server's clock, and the cause."""

    ended_at_ms: int
    served_until_ms: int
    cause: str


@dataclass(frozen=True, slots=True)
class DiedBefore:
    """A session of a dead instance whose owner had died before.

    Attributes:
        got_at_ms: when the dead instance got it.
        orphanings_ms: when it lost its owners.
        probation: seconds for which it had to be served to be clear of an earlier blame.
    """

    session: str
    got_at_ms: int
    orphanings_ms: tuple[int, ...]
    probation: float


async def who_died_before(part: StorePartition, instance: str) -> tuple[Death, list[DiedBefore]]:
    """The death of an instance, and those of its sessions whose owner had died before."""
    keys, run = part.keys, part.executor
    members = await run.command("ZRANGE", keys.blamed(instance), 0, -1, "WITHSCORES")
    got_at = {one: score(at) for raw, at in zip(members[::2], members[1::2], strict=True) if (one := session_id(raw))}
    (ended_at, served_until, cause), *rows = await run.commands(
        [
            ("HMGET", keys.instance(instance), "ended_at", "served_until", "cause"),
            *(("HMGET", keys.session(session), "orphanings", "probation_ms") for session in got_at),
        ]
    )
    death = Death(whole(ended_at), whole(served_until, whole(ended_at)), text(cause))
    return death, [
        DiedBefore(session, at, tuple(map(whole, (orphanings or b"").split())), in_seconds(whole(probation)))
        for (session, at), (orphanings, probation) in zip(got_at.items(), rows, strict=True)
    ]


async def mend(part: StorePartition, instance: str) -> None:
    """Sets aside what does not parse of all that emptying a grave reads; safe to repeat."""
    keys, run = part.keys, part.executor
    await run.mend([keys.instance(instance), keys.blamed(instance), keys.owned(instance)])
    pool = text(await run.command("HGET", keys.instance(instance), "pool")) or "default"
    await run.mend([keys.quarantine, keys.events, keys.offers(pool)])
