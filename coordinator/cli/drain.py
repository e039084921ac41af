"""``drain``: tells an instance from outside to hand over what it owns."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import anyio
import typer
from rich.progress import Progress

from coordinator import clock
from coordinator.bounds import check_reason
from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json
from coordinator.cli.store import check_instance, newest_id, partitions
from coordinator.cli.tables import complain, console, print_json, progress_console, table
from coordinator.settings import Settings
from coordinator.states import LIVING, SessionState
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition

__all__ = ["drain"]

LOOK_SECONDS = 0.1


async def _tell(part: StorePartition, named: str, by: str, reason: str) -> tuple[dict[str, Any], set[str]]:
    """Tells the instance; returns the outcome, and what it owned before."""
    owned: set[str] = set()
    instance = await newest_id(part, named)
    row: dict[str, Any] = {
        "partition": part.keys.partition,
        "instance": instance or named,
        "outcome": "unknown",
        "sessions": 0,
        "left": 0,
        "with_nobody": 0,
        "calls": [],
    }
    if instance:
        owned = await _owned(part, instance)
        answer = await part.executor.run(calls.drain(part.keys, instance=instance, by=by, reason=reason))
        if not isinstance(answer, calls.Gone):
            row["outcome"] = "draining" if isinstance(answer, calls.DrainOk) else "draining_already"
            row["sessions"] = row["left"] = answer.owned
    return row, owned


async def _watch(
    parts: list[StorePartition], rows: list[tuple[dict[str, Any], set[str]]], timeout: float, *, quiet: bool
) -> None:
    """Waits until each call has another owner or has ended, or the time is over; prints where each call went."""
    deadline = clock.now() + timeout
    told = [(part, row) for part, (row, _) in zip(parts, rows, strict=True) if row["outcome"] != "unknown"]
    open_calls = {row["instance"]: owned for row, owned in rows}
    total = sum(map(len, open_calls.values()))
    with Progress(console=progress_console(), transient=True, disable=quiet or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("handing over", total=total)
        while True:
            over = clock.now() > deadline
            for part, row in told:
                now = await _owned(part, row["instance"])
                gone = open_calls[row["instance"]] - now
                found = [await _went(part, session, row["instance"]) for session in sorted(gone)]
                for call in found:
                    if call["settled"] or over:
                        row["calls"].append({name: call[name] for name in ("session", "state", "owner")})
                        open_calls[row["instance"]].discard(call["session"])
                        if not quiet:
                            progress.console.print(f"{call['session']}: {call['state']}, {call['owner'] or 'no owner'}")
                row["left"], row["with_nobody"] = len(now), sum(not call["settled"] for call in found)
            waiting = sum(row["left"] + row["with_nobody"] for _, row in told)
            progress.update(bar, completed=total - waiting)
            if not waiting or over:
                return
            await anyio.sleep(LOOK_SECONDS)


async def _owned(part: StorePartition, instance: str) -> set[str]:
    return await lookups.owned_by(part, instance)


async def _went(part: StorePartition, session: str, left: str) -> dict[str, Any]:
    """Where a call is now; settled when it has ended, or another living instance owns it."""
    where = await lookups.owner_of(part, session)
    settled = where.state in ("", SessionState.CLOSED)
    if where.owner and where.owner != left:
        settled = (await lookups.reachable(part, where.owner)).state in LIVING
    return {"session": session, "state": where.state or "gone", "owner": where.owner, "settled": settled}


async def _drain(settings: Settings, named: str, reason: str, wait: bool, quiet: bool) -> list[dict[str, Any]]:
    async with partitions(settings) as parts:
        rows = [await _tell(part, named, settings.name, reason) for part in parts]
        if wait:
            await _watch(parts, rows, settings.drain_timeout, quiet=quiet)
        return [row for row, _ in rows]


@with_settings()
def drain(
    settings: Settings,
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE", help="The instance's id, or its name for its newest id.")
    ],
    reason: Annotated[str, typer.Option(help="Why it drains, for the events.")] = "told to",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait until each call of the instance has another owner or has ended, at most drain-timeout."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Tell an instance to take nothing new and to hand over its calls, each while it goes on being served.

    Exit status: 0 it was told, and with --wait each of its calls has another owner or has ended; 1 no living instance
    has that id, or calls are left, or have no living owner; 2 wrong usage or settings; 3 the store is not available.
    """
    rows = anyio.run(_drain, settings, check_instance(instance), check_reason(reason, "--reason"), wait, as_json)
    if as_json:
        print_json({"drains": rows})
    else:
        shown = [
            (
                *(r["partition"], r["instance"], r["outcome"].replace("_", " "), r["sessions"], r["left"]),
                *([r["with_nobody"]] if wait else []),
            )
            for r in rows
        ]
        columns = ("partition", "instance", "outcome", "calls", "left", *(["no living owner"] if wait else []))
        console().print(table(columns, shown))
        given_up = sum(call["state"] == SessionState.DEAD_LETTERED for row in rows for call in row["calls"])
        if lost := sum(row["with_nobody"] for row in rows) - given_up:
            have = "1 call has" if lost == 1 else f"{lost} calls have"
            console().print(
                f"{have} no living owner: workers with room are offered such calls, until they are too old."
            )
        if given_up:
            became = "1 call became a dead letter" if given_up == 1 else f"{given_up} calls became dead letters"
            console().print(f"{became}: see `coordinator dead-letters list`.")
    told = any(row["outcome"] != "unknown" for row in rows)
    if not told:
        complain(f"no living instance has the id or name {instance}")
    unsettled = wait and any(row["left"] or row["with_nobody"] for row in rows)
    return OK if told and not unsettled else NEGATIVE
