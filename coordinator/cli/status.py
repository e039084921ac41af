"""``status``, ``instances``, ``sessions`` and ``session``: the present state, for people and programs."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import anyio
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from coordinator.cli.options import NEGATIVE, OK, STORE_AWAY, with_settings
from coordinator.cli.store import partition_for, partitions
from coordinator.cli.tables import clock, coloured, complain, console, print_json, print_some, seconds, table
from coordinator.clock import in_seconds
from coordinator.errors import KeyUnknownError, SealBrokenError, StoreUnavailableError
from coordinator.ids import check_session_id
from coordinator.settings import Settings
from coordinator.states import InstanceState, SessionState
from coordinator.store import reads
from coordinator.store.executor import StorePartition
from coordinator.store.reads import Overview, SessionRow
from coordinator.store.shapes import whole
from coordinator.worker.sealer import Place, Sealer, is_sealed, key_of

__all__ = ["Json", "Oldest", "instances", "print_record", "read_record", "session", "sessions", "status"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Oldest = Annotated[int, typer.Option("--limit", min=1, help="Largest number of rows that are printed, oldest first.")]
Row = dict[str, Any]

UNWATCHED = 5.0
"""Seconds without a scan after which the status says that no coordinator is looking."""
UNSHOWN = frozenset({"request", "heir_request"})
TEXTS = frozenset({"pool", "tenant", "requires", "reason", "orphanings"})


async def _of_all(
    settings: Settings, ask: Callable[[StorePartition], Awaitable[Any]]
) -> tuple[list[Any], dict[int, str]]:
    """Returns what each partition answers, and which did not and why.

    Raises:
        StoreUnavailableError: none did.
    """
    answers, away = list[Any](), dict[int, str]()
    async with partitions(settings) as parts:
        for part in parts:
            try:
                answers.append(await ask(part))
            except StoreUnavailableError as error:
                away[part.keys.partition] = f"{error.kind}: {error.detail}"
                if len(away) == len(parts):
                    raise
    return answers, away


def _status_of(away: dict[int, str]) -> int:
    """Says which partitions were left out; the exit status."""
    for partition, why in away.items():
        complain(f"partition {partition} does not answer ({why}): it is not shown")
    return STORE_AWAY if away else OK


def _summed_up(seen: Overview) -> Row:
    """One partition for ``--json``: without its instances, with ages in place of times."""
    row = {k: v for k, v in seen.as_dict().items() if k not in ("instances", "oldest_orphan_ms", "last_scan_ms")}
    return {
        **row,
        "started": bool(seen.lineage),
        "instances": sum(instance.state != InstanceState.DEAD for instance in seen.instances),
        "oldest_orphan_seconds": _age(seen.now_ms, seen.oldest_orphan_ms),
        "last_scan_seconds": _age(seen.now_ms, seen.last_scan_ms),
    }


def _age(now_ms: int, at_ms: int) -> float | None:
    return in_seconds(max(0, now_ms - at_ms)) if at_ms else None


def _status_table(rows: list[Row]) -> RenderableType:
    columns = (
        "partition", "calls", "orphans", "oldest", "dead letters", "instances", "graves", "last scan", "hold",
        "protocol",
    )  # fmt: skip
    shown = []
    for row in rows:
        left = in_seconds(row["hold_until_ms"] - row["now_ms"])
        hold = coloured(f"{row['hold_reason']}, {seconds(left)}", "yellow") if row["hold_reason"] else "-"
        if row["breaker_since_ms"]:
            hold = coloured(f"mass breaker, for {seconds(in_seconds(row['now_ms'] - row['breaker_since_ms']))}", "red")
        orphans = coloured(str(row["orphans"]), "red" if row["orphans"] else "")
        scan = coloured(seconds(row["last_scan_seconds"]), "red" if _unwatched(row) else "")
        shown.append(
            (
                row["partition"], row["active"], orphans, seconds(row["oldest_orphan_seconds"]), row["dead_lettered"],
                row["instances"], row["graves"], scan, hold, row["protocol"] or "not started",
            )
        )  # fmt: skip
    notes = [coloured("no coordinator is looking", "red")] if any(_unwatched(row) for row in rows) else []
    return Group(table(columns, shown), *notes)


def _unwatched(row: Row) -> bool:
    return row["last_scan_seconds"] is None or row["last_scan_seconds"] > UNWATCHED


@with_settings()
def status(
    settings: Settings,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until interrupted.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --watch.")] = 1.0,
    as_json: Json = False,
) -> int:
    """Show calls, orphans, instances, dead letters and holds of each partition.

    With --watch the command goes on until it is interrupted, also while the store is away; with --json it prints one document a line.

    Exit status: 0 answered; 1 no coordinator ever ran here; 2 wrong usage or settings; 3 the store, or a part of it, is not available.
    """

    async def look() -> tuple[list[Row], dict[int, str]]:
        answers, away = await _of_all(settings, reads.overview)
        return [_summed_up(seen) for seen in answers], away

    if watch:
        return _watch(look, every, as_json)
    rows, away = anyio.run(look)
    started = all(row["started"] for row in rows)
    if as_json:
        print_json({"started": started, "partitions": rows, "unavailable": away})
    else:
        console().print(_status_table(rows))
    return _status_of(away) or (OK if started else NEGATIVE)


def _watch(look: Callable[[], Awaitable[tuple[list[Row], dict[int, str]]]], every: float, as_json: bool) -> int:
    """Looks again and again, through times without the store, until it is interrupted."""
    screen = console()
    with nullcontext() if as_json else Live(console=screen, auto_refresh=False) as live:
        try:
            while True:
                try:
                    rows, parts_away = anyio.run(look)
                    away = "; ".join(f"partition {n}: {why}" for n, why in parts_away.items())
                except StoreUnavailableError as error:
                    rows, away = [], f"{error.kind}: {error.detail}"
                if live is None:
                    print_json({"partitions": rows, "unavailable": away or None}, lines=True)
                else:
                    notes = [coloured(f"the store is not available ({away})", "red")] if away else []
                    shown = Group(*([_status_table(rows)] if rows else []), *notes)
                    live.update(screen.fitted(shown), refresh=True)
                time.sleep(every)
        except KeyboardInterrupt:
            return OK


@with_settings()
def instances(settings: Settings, as_json: Json = False) -> int:
    """List the living instances, and the dead ones whose calls are not all claimed yet; the fullest first.

    Exit status: 0 answered; 2 wrong usage or settings; 3 the store, or a part of it, is not available.
    """
    answers, away = anyio.run(_of_all, settings, reads.instances)
    rows = [row for part in answers for row in part]
    if as_json:
        print_json({"instances": [row.as_dict() for row in rows], "unavailable": away})
        return _status_of(away)
    columns = (
        "instance",
        "partition",
        "state",
        "pool",
        "calls",
        "last beat",
        "loop lag",
        "address",
        "started",
        "ended",
        "cause",
    )
    shown = (
        (
            row.id, row.partition, row.state, row.pool, f"{row.owned}/{row.capacity}",
            seconds(in_seconds(row.beat_age_ms)) if row.deadline_ms else None, seconds(in_seconds(row.loop_lag_ms)), row.address,
            clock(row.started_at), clock(row.ended_at), row.cause,
        )
        for row in rows
    )  # fmt: skip
    console().print(table(columns, shown))
    return _status_of(away)


@with_settings()
def sessions(
    settings: Settings,
    state: Annotated[SessionState | None, typer.Option(help="Show only sessions in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of sessions that are printed, newest first.")] = 100,
    as_json: Json = False,
) -> int:
    """List session records, newest first, without their recovery data.

    Exit status: 0 answered; 2 wrong usage or settings; 3 the store, or a part of it, is not available.
    """

    async def ask(part: StorePartition) -> list[SessionRow]:
        return [row async for row in reads.sessions(part, state)]

    answers, away = anyio.run(_of_all, settings, ask)
    found: list[SessionRow] = [row for part in answers for row in part]
    found.sort(key=lambda row: (-row.opened_at, row.id))
    rows = found[:limit]
    if as_json:
        print_json({"found": len(found), "sessions": [row.as_dict() for row in rows], "unavailable": away})
        return _status_of(away)
    columns = (
        "session",
        "state",
        "owner",
        "epoch",
        "pool",
        "recoveries",
        "data",
        "opened",
        "updated",
        "orphaned",
        "reason",
    )
    shown = [
        (
            row.id, row.state, row.owner, row.epoch, row.pool, row.recoveries, f"{row.data_bytes} B",
            clock(row.opened_at), clock(row.updated_at), clock(row.orphaned_at), row.reason,
        )
        for row in rows
    ]  # fmt: skip
    print_some(columns, shown, len(found))
    return _status_of(away)


async def read_record(settings: Settings, session_id: str, *, data: bool, letter_epoch: str = "") -> Row | None:
    """One session's record for printing, None when there is none; its recovery data only when asked for."""
    check_session_id(session_id)
    async with partitions(settings) as parts:
        part = partition_for(parts, session_id)
        record = await reads.record(part, session_id, letter_epoch)
    if record is None or "state" not in record:
        return None
    stored = record.pop("data", b"")
    shown: Row = {"session": session_id, "partition": part.keys.partition}
    for name, raw in record.items():
        text = raw.decode(errors="replace")
        if name not in UNSHOWN and text:
            shown[name] = int(text) if text.isdigit() and name not in TEXTS else text
    encoding = record.get("encoding", b"").decode(errors="replace")
    if is_sealed(encoding):
        shown["sealed_with"] = key_of(encoding)
    shown["data_bytes"] = len(stored)
    if data:
        texts = {name: record.get(name, b"").decode(errors="replace") for name in ("tenant", "encoding")}
        place = Place(session_id, texts["tenant"], whole(record.get("epoch")))
        shown["data"] = _opened(Sealer(settings.prefix, settings.key_source()), place, stored, texts["encoding"])
    return shown


def _opened(sealer: Sealer, place: Place, stored: bytes, encoding: str) -> str | dict[str, str]:
    """Recovery data for printing: opened if this command has the key, else what it is sealed with."""
    try:
        return stored_data(sealer.open(place, stored, encoding)[0])
    except KeyUnknownError as error:
        return {"sealed_with": error.key_id}
    except SealBrokenError as error:
        return {"sealed_with": key_of(encoding), "fault": error.detail}


def stored_data(data: bytes) -> str | dict[str, str]:
    """Recovery data for printing: as text where it is text, else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def print_record(row: Row) -> None:
    """One record as a table of fields, times readable."""
    times = {n: f"{v}  {clock(v)}" for n, v in row.items() if isinstance(v, int) and n.endswith(("_at", "_until"))}
    console().print(table(("", ""), ((name, times.get(name, value)) for name, value in row.items())))


@with_settings()
def session(
    settings: Settings,
    session_id: Annotated[str, typer.Argument(metavar="ID")],
    data: Annotated[bool, typer.Option("--data", help="Show the recovery data too, which may be private.")] = False,
    as_json: Json = False,
) -> int:
    """Show one session's record.

    Exit status: 0 found; 1 not found; 2 wrong usage or settings; 3 the store, or a part of it, is not available.
    """

    row = anyio.run(partial(read_record, settings, session_id, data=data))
    if as_json:
        print_json(row)
    elif row is None:
        complain(f"there is no session {session_id}")
    else:
        print_record(row)
    return NEGATIVE if row is None else OK
