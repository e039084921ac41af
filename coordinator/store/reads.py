"""Questions that change nothing: for the status commands, the gauges and the status page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.states import InstanceState, SessionState
from coordinator.store.executor import StorePartition
from coordinator.store.lookups import now_ms as server_now_ms
from coordinator.store.shapes import instance_id, labels_of, score, text, whole

__all__ = [
    "DeadLetter", "InstanceRow", "Overview", "SessionRow", "SetAside", "dead_letters", "instances",
    "letter_of", "overview", "quarantine", "raw_fields", "record", "sessions",
]  # fmt: skip

SCAN_COUNT = 200


def _fields(names: Sequence[str], answer: Any) -> dict[str, Any]:
    """The answer of HMGET by field; all None where the key is of another type."""
    return dict(zip(names, answer, strict=True)) if isinstance(answer, list) else dict.fromkeys(names)


def _pairs(answer: Any) -> list[tuple[bytes, bytes]]:
    """Members of a sorted set with their scores; none where the key is of another type."""
    return list(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else []


def _count(answer: Any) -> int:
    return answer if isinstance(answer, int) else 0


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
    tenant: str = ""

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
    """A session given up on.

    Attributes:
        epoch: its last.
        opened_again: its id was opened since, so that id and epoch together name it.
    """

    id: str
    epoch: int
    partition: int
    at_ms: int
    reason: str
    cause: str
    previous_owner: str
    pool: str
    data_bytes: int
    opened_again: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Overview:
    """One partition in numbers.

    Attributes:
        orphans: sessions without an owner, those of graves included.
        oldest_orphan_ms: since when the oldest orphan has no owner, 0 without an orphan.
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


_META = ("lineage", "server", "protocol")
_DETECTOR = ("last_scan_ms", "hold_reason", "hold_until_ms", "transfers_held_until_ms", "breaker_since_ms")


async def instances(part: StorePartition) -> list[InstanceRow]:
    """The registered instances and the graves of a partition, the fullest first.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys, run = part.keys, part.executor
    now_ms = await server_now_ms(part.executor)
    members, graves = await run.outcomes(
        [("ZRANGE", keys.instances, 0, -1, "WITHSCORES"), ("ZRANGE", keys.graves, 0, -1, "WITHSCORES")]
    )
    deadlines = {one: score(at) for member, at in _pairs(members) if (one := instance_id(member))}
    ids = [*deadlines, *(one for grave, _ in _pairs(graves) if (one := instance_id(grave)))]
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
        "tenant",
    )
    rows = await run.outcomes(
        [command for i in ids for command in (("HMGET", keys.instance(i), *fields), ("SCARD", keys.owned(i)))]
    )
    found = []
    for n, instance in enumerate(ids):
        r, owned = _fields(fields, rows[2 * n]), _count(rows[2 * n + 1])
        deadline = deadlines.get(instance, 0)
        age = max(0, now_ms - deadline + whole(r["dead_after_ms"])) if deadline else 0
        found.append(
            InstanceRow(
                instance,
                text(r["name"]),
                keys.partition,
                text(r["state"]),
                text(r["pool"]),
                whole(r["capacity"]),
                owned,
                text(r["address"]),
                deadline,
                age,
                whole(r["loop_lag"]),
                whole(r["started_at"]),
                whole(r["ended_at"]),
                text(r["cause"]),
                whole(r["trust_ms"]),
                whole(r["dead_after_ms"]),
                whole(r["drain_until"]),
                labels_of(r["labels"]),
                text(r["tenant"]),
            )
        )
    return sorted(found, key=lambda row: (-row.owned, row.id))


async def overview(part: StorePartition) -> Overview:
    """A partition in numbers; costs a few commands an instance, none a session.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys, run = part.keys, part.executor
    now_ms = await server_now_ms(part.executor)
    rows = await instances(part)
    about, seen, orphans, oldest, leased, dead, graves = await run.outcomes(
        [
            ("HMGET", keys.meta, *_META),
            ("HMGET", keys.detector, *_DETECTOR),
            ("ZCARD", keys.orphans),
            ("ZRANGE", keys.orphans, 0, 0, "WITHSCORES"),
            ("ZCARD", keys.leases),
            ("ZCARD", keys.dead_letters),
            ("ZCARD", keys.graves),
        ]
    )
    buried = [row for row in rows if row.state == InstanceState.DEAD]
    waiting = sum(row.owned for row in buried)
    since = [row.ended_at for row in buried if row.owned]
    since += [score(at) for _, at in _pairs(oldest)]
    meta, detector = _fields(_META, about), _fields(_DETECTOR, seen)
    hold_until = whole(detector["hold_until_ms"])
    held = hold_until > now_ms
    return Overview(
        partition=keys.partition,
        lineage=text(meta["lineage"]),
        server=text(meta["server"]),
        protocol=text(meta["protocol"]),
        now_ms=now_ms,
        active=sum(row.owned for row in rows if row.state != InstanceState.DEAD),
        offered=_count(orphans),
        leased=_count(leased),
        dead_lettered=_count(dead),
        orphans=_count(orphans) + waiting,
        oldest_orphan_ms=min(since, default=0),
        graves=_count(graves),
        last_scan_ms=whole(detector["last_scan_ms"]),
        hold_reason=(text(detector["hold_reason"]) or "hold") if held else "",
        hold_until_ms=hold_until if held else 0,
        transfers_held=whole(detector["transfers_held_until_ms"]) > now_ms,
        breaker_since_ms=whole(detector["breaker_since_ms"]),
        instances=tuple(rows),
    )


_FIELDS = (
    "state", "owner", "epoch", "pool", "tenant", "cause", "offers", "recoveries", "reason", "opened_at", "updated_at", "orphaned_at",
)  # fmt: skip


async def _rows(part: StorePartition, ids: Sequence[str]) -> list[SessionRow]:
    keys = part.keys
    answers = await part.executor.outcomes(
        [
            command
            for i in ids
            for command in (("HMGET", keys.session(i), *_FIELDS), ("HSTRLEN", keys.session(i), "data"))
        ]
    )
    rows = []
    for n, session in enumerate(ids):
        r, size = _fields(_FIELDS, answers[2 * n]), _count(answers[2 * n + 1])
        if r["state"]:
            rows.append(
                SessionRow(
                    session,
                    keys.partition,
                    text(r["state"]),
                    text(r["owner"]),
                    whole(r["epoch"]),
                    text(r["pool"]),
                    text(r["tenant"]),
                    text(r["cause"]),
                    whole(r["offers"]),
                    whole(r["recoveries"]),
                    text(r["reason"]),
                    size,
                    whole(r["opened_at"]),
                    whole(r["updated_at"]),
                    whole(r["orphaned_at"]),
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
        ids = [i for i in (text(key)[len(prefix) :] for key in found) if i not in seen]
        seen.update(ids)
        for row in await _rows(part, ids):
            if state is None or row.state == state:
                yield row
        if cursor == b"0":
            return


async def raw_fields(part: StorePartition, records: Sequence[str], names: Sequence[str]) -> list[list[Any]]:
    """These fields of records, as they are stored, by the records' keys.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    found: list[list[Any]] = await part.executor.commands([("HMGET", key, *names) for key in records])
    return found


async def record(part: StorePartition, session_id: str, letter_epoch: str = "") -> dict[str, bytes] | None:
    """Every field of one session record, data included; None when there is none.

    Args:
        letter_epoch: epoch of a dead letter whose id was opened again; '' for the record itself.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys = part.keys
    key = keys.letter(session_id, letter_epoch) if letter_epoch else keys.session(session_id)
    raw = await part.executor.command("HGETALL", key)
    return {text(raw[i]): raw[i + 1] for i in range(0, len(raw), 2)} or None


def letter_of(member: str) -> tuple[str, str]:
    """Session id of a member of the index of dead letters, and its epoch if the id was opened again, else ''.

    Ids have no blanks.
    """
    session, _, epoch = member.partition(" ")
    return session, epoch


async def dead_letters(part: StorePartition) -> list[DeadLetter]:
    """The dead letters of a partition, the oldest first; index entries whose record ended are left out.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys = part.keys
    [members] = await part.executor.outcomes([("ZRANGE", keys.dead_letters, 0, -1, "WITHSCORES")])
    at = {letter_of(text(member)): score(since) for member, since in _pairs(members)}
    where = [keys.letter(session, epoch) if epoch else keys.session(session) for session, epoch in at]
    fields = ("state", "reason", "cause", "previous_owner", "pool", "epoch")
    answers = await part.executor.outcomes(
        [command for key in where for command in (("HMGET", key, *fields), ("HSTRLEN", key, "data"))]
    )
    found = []
    for n, ((session, opened_again), when) in enumerate(at.items()):
        r = _fields(fields, answers[2 * n])
        if text(r["state"]) == SessionState.DEAD_LETTERED:
            size = _count(answers[2 * n + 1])
            found.append(
                DeadLetter(
                    session,
                    whole(r["epoch"]),
                    keys.partition,
                    when,
                    text(r["reason"]),
                    text(r["cause"]),
                    text(r["previous_owner"]),
                    text(r["pool"]),
                    size,
                    bool(opened_again),
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class SetAside:
    """What did not parse.

    Attributes:
        member: under which name it is kept.
        kind: of the key, ``member`` or ``entry``.
        name: id of the record, or name of the index.
        fault: what is wrong with it.
        fields: as they were; empty where they were not asked for.
    """

    member: str
    partition: int
    kind: str
    name: str
    fault: str
    at_ms: int
    type: str
    fields: dict[str, bytes]


async def quarantine(part: StorePartition, member: str = "") -> list[SetAside]:
    """What was set aside in a partition, the oldest first.

    Args:
        member: only this one, with its fields.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    keys, run = part.keys, part.executor
    [listed] = await run.outcomes([("ZRANGE", keys.quarantine, 0, -1, "WITHSCORES")])
    members = [(text(raw), score(at)) for raw, at in _pairs(listed) if not member or raw == member.encode()]
    about = ("kind", "name", "fault", "type")
    command = ("HGETALL",) if member else ("HMGET",)
    rows = await run.outcomes([(*command, keys.set_aside(one), *(() if member else about)) for one, _ in members])
    found = []
    for (one, at), row in zip(members, rows, strict=True):
        said = (
            dict(zip(map(text, row[::2]), row[1::2], strict=True))
            if member and isinstance(row, list)
            else _fields(about, row)
        )
        raw = {name.removeprefix("raw:"): value for name, value in said.items() if name.startswith("raw:")}
        found.append(
            SetAside(
                one, keys.partition, text(said.get("kind")), text(said.get("name")), text(said.get("fault")), at,
                text(said.get("type")), raw,
            )
        )  # fmt: skip
    return found
