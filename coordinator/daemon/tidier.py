"""Takes out of Redis what ended and what nothing else takes out: a bounded piece a step, from where the last step stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from coordinator.bounds import MOST_SECONDS
from coordinator.daemon.events import CONSUMER, GROUP
from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.states import LIVING
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.faults import NoGroupError, concerns_one
from coordinator.store.pruning import Index, prune
from coordinator.store.setting_aside import set_aside_member
from coordinator.store.shapes import instance_id, score, session_id, text, whole
from coordinator.store.usual import BATCH

__all__ = ["Tidier", "text_of"]

log = structlog.get_logger()

COUNT = BATCH
MOST_BATCHES = 10
"""Batches of one step, as long as each finds something to take out."""
ENTRIES = 20
"""Entries of a stream that are read at a time: they carry recovery data."""
INDEXES: tuple[Index, ...] = ("dead_letters", "orphans", "instances")
MOST_SET_ASIDE = 1000
"""Things in quarantine; of more the oldest go."""
MOST_MS = round(MOST_SECONDS * 1000)
LONG_MS = 60_000
"""What an instance gets that does not say how long it may be silent."""
SLACK_MS = 1000
"""By which a time may lie ahead of what was asked for: a beat that comes between two looks, and a clock that is set."""
IDLE_MS = 3_600_000
"""A consumer of events that has not read for so long belongs to a coordinator that is gone."""


def session_of(member: object) -> str:
    """The session of a member of an index, be it an id, or an id and an epoch; '' of anything else."""
    if not isinstance(member, bytes):
        return ""
    name, _, epoch = member.partition(b" ")
    return session_id(name) if not epoch or epoch.isdigit() else ""


def text_of(raw: Any) -> str | None:
    """What stands in Redis as text; None when it is none: it was not written by this program, and is left alone."""
    try:
        return str(raw.decode())
    except (AttributeError, UnicodeDecodeError):
        return None


@dataclass(slots=True)
class Tidier:
    """Where it stopped, and what the walk over all keys has met that is to be looked at."""

    part: StorePartition
    _pools: dict[str, str] = field(default_factory=dict)
    _events: bool = False
    _names: bytes = b"0"
    _ranks: dict[Index, int] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def met(self, pools: Iterable[str], *, events: bool) -> None:
        """The walk came by the offers of these pools, and by the events."""
        for pool in pools:
            self._pools.setdefault(pool, "")
        self._events = self._events or events

    async def step(self) -> None:
        """A piece of each; what is broken about one stops no other.

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
                k = self.part.keys
                await self.part.executor.mend(
                    [k.events, k.quarantine, k.instances, k.graves, k.leases, k.orphans, k.dead_letters, k.names]
                )

    async def _names_of_the_gone(self) -> None:
        """Names of instances whose records ended."""
        keys, run = self.part.keys, self.part.executor
        for _ in range(MOST_BATCHES):
            self._names, found = await run.command("HSCAN", keys.names, self._names, "COUNT", COUNT)
            pairs = [
                (name, instance)
                for name, instance in zip(map(text_of, found[::2]), map(text_of, found[1::2]), strict=True)
                if name is not None and instance is not None
            ]
            exist = await run.commands([("EXISTS", keys.instance(instance)) for _, instance in pairs])
            gone = [pair for pair, there in zip(pairs, exist, strict=True) if not there]
            for at in range(0, len(gone), COUNT):
                batch = gone[at : at + COUNT]
                await run.run(calls.forget(keys, names=[n for n, _ in batch], instances=[i for _, i in batch]))
            if not gone or self._names == b"0":
                return

    async def _index(self, index: Index) -> None:
        """Members of an index that their records do not stand behind."""
        keys, run = self.part.keys, self.part.executor
        key = {"dead_letters": keys.dead_letters, "orphans": keys.orphans, "instances": keys.instances}[index]
        for _ in range(MOST_BATCHES):
            rank = self._ranks.get(index, 0)
            found = await run.command("ZRANGE", key, rank, rank + COUNT - 1)
            fits = session_of if index != "instances" else instance_id
            members = [raw.decode() for raw in found if fits(raw)]
            pruned = await self._set_aside(key, [raw for raw in found if not fits(raw)])
            if members:
                pruned += (await run.run(prune(keys, index=index, members=members))).pruned
            self._ranks[index] = rank + len(found) - pruned if len(found) == COUNT else 0
            if not pruned or len(found) < COUNT:
                return

    async def _due(self, index: str, fits: Callable[[object], str]) -> None:
        """Members of an index of what is due that are no ids: nobody could do with them what is due."""
        found = await self.part.executor.command("ZRANGE", f"{self.part.keys.tag}:{index}", 0, COUNT - 1)
        await self._set_aside(f"{self.part.keys.tag}:{index}", [raw for raw in found if not fits(raw)])

    async def _never_due(self, index: str) -> None:
        """Members whose time lies beyond all that a setting can ask for: nobody gave it, and nothing would ever be done with them.

        A grave or a lease is due now; an instance has as long to beat as it asked for.
        """
        keys, run = self.part.keys, self.part.executor
        key = f"{keys.tag}:{index}"
        now_ms = await self._now_ms()
        found = await run.command("ZRANGEBYSCORE", key, f"({now_ms + MOST_MS}", "+inf", "LIMIT", 0, COUNT)
        for member in found:
            wait_ms = 0
            if name := instance_id(member) if index == "instances" else "":
                wait_ms = whole(await run.command("HGET", keys.instance(name), "dead_after_ms"), LONG_MS)
            await run.command("ZADD", key, "XX", "LT", now_ms + wait_ms, member)  # unless it has a time by now
            log.warning("time_repaired", index=index, member=text(member), partition=keys.partition)

    async def _not_due_for_too_long(self) -> None:
        """Instances that have longer to beat than they asked for: nobody gave them that time, and they would never be dead.

        One that lives gives itself the right time with its next beat.
        """
        keys, run = self.part.keys, self.part.executor
        now_ms = await self._now_ms()
        found = await run.command("ZRANGE", keys.instances, 0, COUNT - 1, "REV", "WITHSCORES")
        late = [
            (raw, score(at)) for raw, at in zip(found[::2], found[1::2], strict=True) if score(at) > now_ms + SLACK_MS
        ]
        asked = await run.outcomes([("HGET", keys.instance(text(raw)), "dead_after_ms") for raw, _ in late])
        for (raw, at), told in zip(late, asked, strict=True):
            due_ms = now_ms + whole(told, LONG_MS)
            if at > due_ms + SLACK_MS and instance_id(raw):
                await run.command("ZADD", keys.instances, "XX", "LT", due_ms, raw)
                log.warning("time_repaired", index="instances", member=text(raw), partition=keys.partition)

    async def _now_ms(self) -> int:
        seconds, micros = await self.part.executor.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _set_aside(self, key: str, members: Sequence[bytes]) -> int:
        index = key.removeprefix(f"{self.part.keys.tag}:")
        gone = [set_aside_member(self.part.keys, index=index, raw=raw) for raw in members]
        return sum(isinstance(answer, calls.Ok) for answer in await self.part.executor.run_many(gone)) if gone else 0

    async def _quarantine(self) -> None:
        """Of what was set aside the newest is kept, and what has ended is not listed."""
        keys, run = self.part.keys, self.part.executor
        oldest = await run.command("ZRANGE", keys.quarantine, 0, -1 - MOST_SET_ASIDE)
        listed = await run.command("ZRANGE", keys.quarantine, 0, COUNT - 1)
        there = await run.commands([("EXISTS", keys.set_aside(text(member))) for member in listed])
        for member in {*oldest[:COUNT], *(raw for raw, kept in zip(listed, there, strict=True) if not kept)}:
            name = text(member)
            for gone in (
                ("DEL", keys.set_aside(name)),
                ("DEL", keys.set_aside_key(name)),
                ("ZREM", keys.quarantine, member),
            ):
                await run.command(*gone)

    async def _offers(self) -> None:
        """Some entries of one pool's offers; at the end of the stream the consumers too, and the stream itself."""
        if not self._pools:
            return
        pool, last = next(iter(self._pools.items()))
        del self._pools[pool]
        keys, run = self.part.keys, self.part.executor
        start = f"({last}" if last else "-"
        found = await run.command("XRANGE", keys.offers(pool), start, "+", "COUNT", ENTRIES)
        named = {}
        for entry, fields in found:
            session = text_of(dict(zip(fields[::2], fields[1::2], strict=False)).get(b"session"))
            if session is not None:
                named[entry.decode()] = session
        offers = await run.outcomes([("HGET", keys.session(session), "offer_id") for session in named.values()])
        stale = {e: s for (e, s), offer in zip(named.items(), offers, strict=True) if offer != e.encode()}
        if stale:
            answer = await run.run(calls.trim(keys, pool=pool, sessions=[*stale.values()], entries=[*stale]))
            log.warning("offers_trimmed", pool=pool, entries=answer.trimmed, partition=keys.partition)
        if len(found) == ENTRIES:
            self._pools[pool] = found[-1][0].decode()
            return
        await self._readers_that_are_gone(pool)
        if found or last or pool in await self._living_pools():  # who has never read an offer is no consumer yet
            return
        answer = await run.run(calls.trim(keys, pool=pool, sessions=[], entries=[]))
        if answer.dropped:
            log.info("offers_dropped", pool=pool, partition=keys.partition)

    async def _living_pools(self) -> set[str | None]:
        keys, run = self.part.keys, self.part.executor
        living = [i for i in map(text_of, await run.command("ZRANGE", keys.instances, 0, -1)) if i is not None]
        return set(map(text_of, await run.outcomes([("HGET", keys.instance(i), "pool") for i in living])))

    async def _readers_that_are_gone(self, pool: str) -> None:
        """Consumers of instances that died without anybody who emptied their grave."""
        keys, run = self.part.keys, self.part.executor
        stream = keys.offers(pool)
        idle = [name for name, row in (await self._consumers(stream, "workers")).items() if not row.get("pending")]
        idle = idle[:COUNT]
        looks = await run.commands(
            [look for name in idle for look in (("HGET", keys.instance(name), "state"), ("ZSCORE", keys.graves, name))]
        )
        for name, state, grave in zip(idle, looks[::2], looks[1::2], strict=True):
            if text(state) not in LIVING and grave is None:
                await run.command("XGROUP", "DELCONSUMER", stream, "workers", name)

    async def _readers_of_events(self) -> None:
        """Consumers under names of their own, as coordinators had them before all read under one."""
        if not self._events:
            return
        self._events = False
        events, run = self.part.keys.events, self.part.executor
        found = await self._consumers(events, GROUP)
        gone = [name for name, row in found.items() if name != CONSUMER and int(row.get("idle") or 0) > IDLE_MS]
        for name in gone[:COUNT]:  # nothing is pending there: events are read without acknowledgement
            await run.command("XGROUP", "DELCONSUMER", events, GROUP, name)

    async def _consumers(self, stream: str, group: str) -> dict[str, dict[str, Any]]:
        """Name -> what XINFO says of it; none where there is no such stream or group."""
        try:
            rows = await self.part.executor.command("XINFO", "CONSUMERS", stream, group)
        except NoGroupError:
            return {}
        except StoreUnavailableError as error:
            if "no such key" in error.detail:
                return {}
            raise
        found = {}
        for row in rows:
            said = {str(text_of(k)): v for k, v in zip(row[::2], row[1::2], strict=False)}
            name = text_of(said.get("name"))
            if name is not None:
                found[name] = said
        return found
