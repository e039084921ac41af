"""Questions that change nothing: for the status commands, the gauges and the status page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.store.executor import StorePartition

__all__ = [
    "DeadLetter", "InstanceRow", "Overview", "SessionRow", "dead_letters", "instances", "overview", "record", "sessions",
]  # fmt: skip

SCAN_COUNT = 200


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _int(value: Any) -> int:
    return int(value) if value else 0


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One living or buried instance; times in ms of the server's clock."""

    id: str
    name: str
    partition: int
    state: str
    pool: str
    capacity: int
    owned: int
    address: str
    deadline_ms: int
    beat_age_ms: int
    loop_lag_ms: int
    started_at: int
    ended_at: int
    cause: str
    trust_ms: int
    dead_after_ms: int
    drain_until: int
    labels: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session record without its data; times in ms of the server's clock."""

    id: str
    partition: int
    state: str
    owner: str
    epoch: int
    pool: str
    tenant: str
    cause: str
    attempt: int
    recoveries: int
    reason: str
    data_bytes: int
    opened_at: int
    updated_at: int
    orphaned_at: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A session given up on."""

    id: str
    partition: int
    at_ms: int
    reason: str
    cause: str
    previous_owner: str
    pool: str
    data_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Overview:
    """One partition in numbers.

    Attributes:
        orphans: sessions without an owner, those of graves included.
        oldest_orphan_ms: since when the oldest has none, 0 without one.
        hold_reason: '' when no hold is on.
        breaker_since_ms: since when the mass breaker is open, 0 while it is closed.
    """

    partition: int
    lineage: str
    server: str
    protocol: str
    now_ms: int
    active: int
    offered: int
    leased: int
    dead_lettered: int
    orphans: int
    oldest_orphan_ms: int
    graves: int
    last_scan_ms: int
    hold_reason: str
    hold_until_ms: int
    transfers_held: bool
    breaker_since_ms: int
    instances: tuple[InstanceRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


async def _now_ms(part: StorePartition) -> int:
    seconds, micros = await part.executor.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def instances(part: StorePartition) -> list[InstanceRow]:
    """The registered instances and the graves of a partition, the fullest first.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys, run = part.keys, part.executor
    now_ms, members, graves = (
        await _now_ms(part),
        await run.command("ZRANGE", keys.instances, 0, -1, "WITHSCORES"),
        await run.command("ZRANGE", keys.graves, 0, -1),
    )
    deadlines = {_text(members[i]): int(float(members[i + 1])) for i in range(0, len(members), 2)}
    ids = [*deadlines, *(_text(g) for g in graves)]
    fields = (
        "name",
        "state",
        "pool",
        "capacity",
        "address",
        "loop_lag",
        "started_at",
        "ended_at",
        "cause",
        "dead_after_ms",
        "trust_ms",
        "drain_until",
        "labels",
    )
    rows = await run.commands(
        [command for i in ids for command in (("HMGET", keys.instance(i), *fields), ("SCARD", keys.owned(i)))]
    )
    found = []
    for n, instance in enumerate(ids):
        r, owned = dict(zip(fields, rows[2 * n], strict=True)), int(rows[2 * n + 1])
        deadline = deadlines.get(instance, 0)
        age = max(0, now_ms - deadline + _int(r["dead_after_ms"])) if deadline else 0
        found.append(
            InstanceRow(
                instance,
                _text(r["name"]),
                keys.partition,
                _text(r["state"]),
                _text(r["pool"]),
                _int(r["capacity"]),
                owned,
                _text(r["address"]),
                deadline,
                age,
                _int(r["loop_lag"]),
                _int(r["started_at"]),
                _int(r["ended_at"]),
                _text(r["cause"]),
                _int(r["trust_ms"]),
                _int(r["dead_after_ms"]),
                _int(r["drain_until"]),
                json.loads(r["labels"] or b"{}"),
            )
        )
    return sorted(found, key=lambda row: (-row.owned, row.id))


async def overview(part: StorePartition) -> Overview:
    """A partition in numbers; costs a few commands an instance, none a session.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys, run = part.keys, part.executor
    now_ms = await _now_ms(part)
    rows = await instances(part)
    meta, detector, orphans, oldest, leased, dead, graves = await run.commands(
        [
            ("HMGET", keys.meta, "lineage", "server", "protocol"),
            (
                "HMGET",
                keys.detector,
                "last_scan_ms",
                "hold_reason",
                "hold_until_ms",
                "transfers_held_until_ms",
                "breaker_since_ms",
            ),
            ("ZCARD", keys.orphans),
            ("ZRANGE", keys.orphans, 0, 0, "WITHSCORES"),
            ("ZCARD", keys.leases),
            ("ZCARD", keys.dead_letters),
            ("ZCARD", keys.graves),
        ]
    )
    buried = [row for row in rows if row.state == "dead"]
    waiting = sum(row.owned for row in buried)
    since = [row.ended_at for row in buried if row.owned]
    if oldest:
        since.append(int(float(oldest[1])))
    hold_until = _int(detector[2])
    held = hold_until > now_ms
    return Overview(
        partition=keys.partition,
        lineage=_text(meta[0]),
        server=_text(meta[1]),
        protocol=_text(meta[2]),
        now_ms=now_ms,
        active=sum(row.owned for row in rows if row.state != "dead"),
        offered=int(orphans),
        leased=int(leased),
        dead_lettered=int(dead),
        orphans=int(orphans) + waiting,
        oldest_orphan_ms=min(since, default=0),
        graves=int(graves),
        last_scan_ms=_int(detector[0]),
        hold_reason=(_text(detector[1]) or "hold") if held else "",
        hold_until_ms=hold_until if held else 0,
        transfers_held=_int(detector[3]) > now_ms,
        breaker_since_ms=_int(detector[4]),
        instances=tuple(rows),
    )


_FIELDS = (
    "state", "owner", "epoch", "pool", "tenant", "cause", "offers", "recoveries", "reason", "opened_at", "updated_at", "orphaned_at",
)  # fmt: skip


async def _rows(part: StorePartition, ids: Sequence[str]) -> list[SessionRow]:
    keys = part.keys
    answers = await part.executor.commands(
        [
            command
            for i in ids
            for command in (("HMGET", keys.session(i), *_FIELDS), ("HSTRLEN", keys.session(i), "data"))
        ]
    )
    rows = []
    for n, session in enumerate(ids):
        r, size = dict(zip(_FIELDS, answers[2 * n], strict=True)), int(answers[2 * n + 1])
        if r["state"]:
            rows.append(
                SessionRow(
                    session,
                    keys.partition,
                    _text(r["state"]),
                    _text(r["owner"]),
                    _int(r["epoch"]),
                    _text(r["pool"]),
                    _text(r["tenant"]),
                    _text(r["cause"]),
                    _int(r["offers"]),
                    _int(r["recoveries"]),
                    _text(r["reason"]),
                    size,
                    _int(r["opened_at"]),
                    _int(r["updated_at"]),
                    _int(r["orphaned_at"]),
                )
            )
    return rows


async def sessions(part: StorePartition, state: str | None = None) -> AsyncIterator[SessionRow]:
    """All session records of a partition, or those in a state, as SCAN finds them.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    cursor: Any = b"0"
    prefix = part.keys.session_prefix
    seen: set[str] = set()
    while True:
        cursor, found = await part.executor.command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_COUNT)
        ids = [i for i in (_text(key)[len(prefix) :] for key in found) if i not in seen]
        seen.update(ids)
        for row in await _rows(part, ids):
            if state is None or row.state == state:
                yield row
        if cursor == b"0":
            return


async def record(part: StorePartition, session_id: str) -> dict[str, bytes] | None:
    """Every field of one session record, data included; None when there is none.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    raw = await part.executor.command("HGETALL", part.keys.session(session_id))
    return {raw[i].decode(): raw[i + 1] for i in range(0, len(raw), 2)} or None


async def dead_letters(part: StorePartition) -> list[DeadLetter]:
    """The dead letters of a partition, the oldest first; index entries whose record ended are left out.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys = part.keys
    members = await part.executor.command("ZRANGE", keys.dead_letters, 0, -1, "WITHSCORES")
    at = {_text(members[i]): int(float(members[i + 1])) for i in range(0, len(members), 2)}
    fields = ("state", "reason", "cause", "previous_owner", "pool")
    answers = await part.executor.commands(
        [command for i in at for command in (("HMGET", keys.session(i), *fields), ("HSTRLEN", keys.session(i), "data"))]
    )
    found = []
    for n, (session, when) in enumerate(at.items()):
        state, *texts = (_text(v) for v in answers[2 * n])
        if state == "dead_lettered":
            reason, cause, previous_owner, pool = texts
            size = int(answers[2 * n + 1])
            found.append(DeadLetter(session, keys.partition, when, reason, cause, previous_owner, pool, size))
    return found
