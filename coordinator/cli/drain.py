"""``drain``: an instance is told, from outside, to hand over what it owns."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.progress import Progress

from coordinator import clock
from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json
from coordinator.cli.store import check_instance, newest_id, partitions
from coordinator.cli.tables import console, print_json, table
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition

__all__ = ["drain"]

LOOK_SECONDS = 0.1


async def _tell(part: StorePartition, named: str, by: str, reason: str) -> dict[str, Any]:
    instance = await newest_id(part, named)
    row: dict[str, Any] = {
        "partition": part.keys.partition,
        "instance": instance or named,
        "outcome": "unknown",
        "sessions": 0,
        "left": 0,
        "calls": [],
    }
    if instance:
        answer = await part.executor.run(calls.drain(part.keys, instance=instance, by=by, reason=reason))
        row["outcome"] = {"OK": "draining", "ALREADY": "draining_already"}.get(answer.word, "unknown")
        row["sessions"] = row["left"] = answer.int("owned")
    return row


async def _watch(parts: list[StorePartition], rows: list[dict[str, Any]], timeout: float, *, quiet: bool) -> None:
    """Until nothing is left, or the time is over; tells where each call went."""
    deadline = clock.now() + timeout
    told = [(part, row) for part, row in zip(parts, rows, strict=True) if row["outcome"] != "unknown"]
    owned = {row["instance"]: await _owned(part, row["instance"]) for part, row in told}
    total = sum(map(len, owned.values()))
    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("handing over", total=total)
        while True:
            for part, row in told:
                now = await _owned(part, row["instance"])
                for session in sorted(owned[row["instance"]] - now):
                    call = await _went(part, session)
                    row["calls"].append(call)
                    if not quiet:
                        progress.console.print(
                            f"{session}: {call['state']}, {call['owner'] or 'nobody'}", highlight=False
                        )
                owned[row["instance"]] &= now
                row["left"] = len(now)
            left = sum(row["left"] for row in rows)
            progress.update(bar, completed=total - left)
            if not left or clock.now() > deadline:
                return
            await anyio.sleep(LOOK_SECONDS)


async def _owned(part: StorePartition, instance: str) -> set[str]:
    return {member.decode() for member in await part.executor.command("SMEMBERS", part.keys.owned(instance))}


async def _went(part: StorePartition, session: str) -> dict[str, str]:
    state, owner = await part.executor.command("HMGET", part.keys.session(session), "state", "owner")
    return {"session": session, "state": (state or b"gone").decode(), "owner": (owner or b"").decode()}


async def _drain(settings: Settings, named: str, reason: str, wait: bool, quiet: bool) -> list[dict[str, Any]]:
    async with partitions(settings) as parts:
        rows = [await _tell(part, named, settings.name, reason) for part in parts]
        if wait:
            await _watch(parts, rows, settings.drain_timeout, quiet=quiet)
        return rows


@with_settings()
def drain(
    settings: Settings,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="Its id, or its name for the newest id.")],
    reason: Annotated[str, typer.Option(help="Why, for the events.")] = "told to",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it owns nothing, at most drain-timeout.")] = False,
    as_json: Json = False,
) -> int:
    """Tell an instance to take nothing new and to hand over its calls, each while it goes on being served.

    Exit status: 0 it was told, and with --wait owns nothing any more; 1 nobody knows it alive, or calls are left;
    2 wrong usage or settings; 3 the store is not available.
    """
    rows = anyio.run(_drain, settings, check_instance(instance), reason, wait, as_json)
    if as_json:
        print_json({"drains": rows})
    else:
        shown = [
            (r["partition"], r["instance"], r["outcome"].replace("_", " "), r["sessions"], r["left"]) for r in rows
        ]
        console().print(table(("partition", "instance", "outcome", "calls", "left"), shown))
    told = any(row["outcome"] != "unknown" for row in rows)
    return OK if told and not (wait and any(row["left"] for row in rows)) else NEGATIVE
