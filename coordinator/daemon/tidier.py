"""Takes out of Redis what has ended and nothing else takes out: a bounded piece each step, from where the last step stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog

from coordinator.bounds import MOST_SECONDS
from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.store import calls, event_stream, tidying
from coordinator.store.executor import StorePartition
from coordinator.store.faults import concerns_one
from coordinator.store.offer_stream import forget_reader, stored_after
from coordinator.store.pruning import Index, prune
from coordinator.store.shapes import instance_id, session_id, text
from coordinator.store.usual import BATCH

__all__ = ["Tidier"]

log = structlog.get_logger()

COUNT = BATCH
MOST_BATCHES = 10
"""Batches of one step, as long as each finds something to take out."""
ENTRIES = 20
"""Entries of a stream that are read at a time: they carry recovery data."""
INDEXES: tuple[Index, ...] = ("dead_letters", "orphans", "instances")
MOST_SET_ASIDE = 1000
"""Things in quarantine; of more, the oldest are deleted."""
UNSAID_SECONDS = 60.0
"""Seconds that an instance gets when its record does not say how long it may be silent."""
SLACK_SECONDS = 1.0
"""Seconds by which a deadline may lie ahead of what was asked for: a beat came between two looks, or a clock was set."""
IDLE_SECONDS = 3600.0
"""Seconds; a consumer of events that has not read for so long belongs to a coordinator that is gone."""


def session_of(member: object) -> str:
    """The session of a member of an index, which is an id, or an id and an epoch; '' for anything else."""
    if not isinstance(member, bytes):
        return ""
    name, _, epoch = member.partition(b" ")
    return session_id(name) if not epoch or epoch.isdigit() else ""


@dataclass(slots=True)
class Tidier:
    """Where it stopped, and what the walk over all keys found to look at.

    Attributes:
        idle: seconds after which a consumer of events that does not read belongs to a coordinator that is gone.
    """

    part: StorePartition
    idle: float = IDLE_SECONDS
    _pools: dict[str, str] = field(default_factory=dict)
    _events: bool = False
    _names: bytes = b"0"
    _ranks: dict[Index, int] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def met(self, pools: Iterable[str], *, events: bool) -> None:
        """Remembers that the walk came by the offers of these pools, and by the events."""
        for pool in pools:
            self._pools.setdefault(pool, "")
        self._events = self._events or events

    async def step(self) -> None:
        """Does a piece of each task; a fault in one stops no other. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer; what was not looked at comes later.
        """
        pieces: list[Callable[[], Awaitable[None]]] = [self._names_of_the_gone]
        pieces += [partial(self._index, index) for index in INDEXES]
        pieces += [partial(self._due, "graves", instance_id), partial(self._due, "leases", session_id)]
        pieces += [partial(self._never_due, index) for index in ("instances", "graves", "leases")]
        pieces += [self._not_due_for_too_long, self._quarantine, self._offers, self._readers_of_events]
        for piece in pieces:
            try:
                await piece()
            except CoordinatorError as error:
                if not concerns_one(error):
                    raise
                told = error.detail if isinstance(error, StoreUnavailableError) else str(error)
                if told not in self._told:  # once, not each second
                    self._told.add(told)
                    log.error("not_tidied", reason=told, partition=self.part.keys.partition)
                await tidying.mend_indexes(self.part)

    async def _names_of_the_gone(self) -> None:
        """Forgets the names of instances whose records are gone."""
        for _ in range(MOST_BATCHES):
            self._names, gone = await tidying.names_of_the_gone(self.part, self._names, COUNT)
            for at in range(0, len(gone), COUNT):
                names, instances = zip(*gone[at : at + COUNT], strict=True)
                await self.part.executor.run(calls.forget(self.part.keys, names=names, instances=instances))
            if not gone or self._names == b"0":
                return

    async def _index(self, index: Index) -> None:
        """Takes out members of an index to which their records do not belong."""
        for _ in range(MOST_BATCHES):
            rank = self._ranks.get(index, 0)
            found = await tidying.members_from(self.part, index, rank, COUNT)
            fits = session_of if index != "instances" else instance_id
            members = [raw.decode() for raw in found if fits(raw)]
            pruned = await self._set_aside(index, [raw for raw in found if not fits(raw)])
            if members:
                pruned += (await self.part.executor.run(prune(self.part.keys, index=index, members=members))).pruned
            self._ranks[index] = rank + len(found) - pruned if len(found) == COUNT else 0
            if not pruned or len(found) < COUNT:
                return

    async def _set_aside(self, index: str, members: list[bytes]) -> int:
        return await tidying.set_aside_members(self.part, tidying.key_of(self.part, index), members)

    async def _due(self, index: str, fits: Callable[[object], str]) -> None:
        """Sets aside due members of an index that are not ids: no program could do for them what is due."""
        found = await tidying.first_members(self.part, index, COUNT)
        await self._set_aside(index, [raw for raw in found if not fits(raw)])

    async def _never_due(self, index: str) -> None:
        """Brings forward members whose time lies beyond what any setting allows: they would never be due."""
        for late in await tidying.beyond(self.part, index, MOST_SECONDS, UNSAID_SECONDS, COUNT):
            await self._bring_forward(index, late)

    async def _not_due_for_too_long(self) -> None:
        """Brings forward deadlines that lie later than the instance asked for: they would never make it dead.

        A living instance sets the right deadline with its next beat.
        """
        for late in await tidying.not_due_for_too_long(self.part, SLACK_SECONDS, UNSAID_SECONDS, COUNT):
            await self._bring_forward("instances", late)

    async def _bring_forward(self, index: str, late: tidying.Late) -> None:
        await tidying.bring_forward(self.part, index, late)
        log.warning("time_repaired", index=index, member=text(late.member), partition=self.part.keys.partition)

    async def _quarantine(self) -> None:
        """Keeps the newest of what was set aside, and takes what has ended out of the list."""
        await tidying.forget_ended_quarantine(self.part, MOST_SET_ASIDE, COUNT)

    async def _offers(self) -> None:
        """Trims some entries of one pool's offers; at its end also consumers that are gone, and an unused stream itself."""
        if not self._pools:
            return
        pool, last = next(iter(self._pools.items()))
        del self._pools[pool]
        keys, run = self.part.keys, self.part.executor
        found = await stored_after(self.part, pool, last, ENTRIES)
        stale = {one.entry: one.session for one in found if one.session is not None and not one.current}
        if stale:
            answer = await run.run(calls.trim(keys, pool=pool, sessions=[*stale.values()], entries=[*stale]))
            log.warning("offers_trimmed", pool=pool, entries=answer.trimmed, partition=keys.partition)
        if len(found) == ENTRIES:
            self._pools[pool] = found[-1].entry
            return
        for reader in await tidying.readers_that_are_gone(self.part, pool, COUNT):
            await forget_reader(run, keys.offers(pool), reader)
        if (
            found or last or pool in await tidying.living_pools(self.part)
        ):  # a worker that has never read an offer is not a consumer yet
            return
        answer = await run.run(calls.trim(keys, pool=pool, sessions=[], entries=[]))
        if answer.dropped:
            log.info("offers_dropped", pool=pool, partition=keys.partition)

    async def _readers_of_events(self) -> None:
        """Removes idle consumers under a coordinator's own name, from before all coordinators read under one."""
        if not self._events:
            return
        self._events = False
        for name in (await event_stream.idle_readers(self.part, self.idle))[:COUNT]:
            await event_stream.forget_reader(self.part, name)
