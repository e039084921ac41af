"""``dead-letters``: what was given up on, and what a person does about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.progress import Progress

from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json, print_record, read_record
from coordinator.cli.store import partition_for, partitions
from coordinator.cli.tables import clock, console, print_json, table
from coordinator.errors import ConfigurationError
from coordinator.ids import check_session_id
from coordinator.settings import Settings
from coordinator.states import SessionState
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.reads import DeadLetter
from coordinator.store.scripts import Call

__all__ = ["app"]

app = typer.Typer(help="Calls that were given up on, with their data and the reason.", no_args_is_help=True)

BATCH = 100
SessionId = Annotated[str, typer.Argument(metavar="ID")]
Maybe = Annotated[str | None, typer.Argument(metavar="[ID]")]
Row = dict[str, Any]
MakeCall = Callable[[StorePartition, str, str], Call]
"""From partition, session id and pool."""


async def _list(settings: Settings) -> list[DeadLetter]:
    async with partitions(settings) as parts:
        return [letter for part in parts for letter in await reads.dead_letters(part)]


@with_settings()
def list_(
    settings: Settings,
    limit: Annotated[int, typer.Option(min=1, help="Most that are printed, oldest first.")] = 100,
    as_json: Json = False,
) -> int:
    """Dead letters with reason and last owner, oldest first.

    Exit status: 0 there are none; 1 there are some; 2 wrong usage or settings; 3 the store is not available.
    """
    found = sorted(anyio.run(_list, settings), key=lambda letter: (letter.at_ms, letter.id))
    rows = found[:limit]
    if as_json:
        print_json({"found": len(found), "dead_letters": [letter.as_dict() for letter in rows]})
    elif not rows:
        console().print("no dead letters")
    else:
        columns = ("session", "since", "reason", "last owner", "cause", "pool", "data")
        shown = ((r.id, clock(r.at_ms), r.reason, r.previous_owner, r.cause, r.pool, f"{r.data_bytes} B") for r in rows)
        console().print(table(columns, shown))
        console().print(f"{len(rows)} of {len(found)}")
    return NEGATIVE if rows else OK


@with_settings()
def show(
    settings: Settings,
    session_id: SessionId,
    data: Annotated[bool, typer.Option("--data", help="Its recovery data too: it may hold what is private.")] = False,
    as_json: Json = False,
) -> int:
    """One dead letter.

    Exit status: 0 found; 1 it is none; 2 wrong usage or settings; 3 the store is not available.
    """

    row = anyio.run(partial(read_record, settings, session_id, data=data))
    if row is not None and row["state"] != SessionState.DEAD_LETTERED:
        row = None
    if as_json:
        print_json(row)
    elif row is None:
        print(f"coordinator: {session_id} is not a dead letter", file=sys.stderr)
    else:
        print_record(row)
    return NEGATIVE if row is None else OK


async def _each(settings: Settings, session_id: str | None, make: MakeCall) -> list[Row]:
    """Runs a script for one dead letter, or for all; what each answered."""
    if session_id is not None:
        check_session_id(session_id)
    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    done: list[Row] = []
    async with partitions(settings) as parts:
        if session_id is not None:
            part = partition_for(parts, session_id)
            record = await reads.record(part, session_id) or {}
            pool = record.get("pool", b"").decode() or settings.pool
            return await _batch(part, [(session_id, pool)], make)
        with progress:
            for part in parts:
                letters = [(letter.id, letter.pool) for letter in await reads.dead_letters(part)]
                bar = progress.add_task(f"partition {part.keys.partition}", total=len(letters))
                for i in range(0, len(letters), BATCH):
                    done += await _batch(part, letters[i : i + BATCH], make)
                    progress.update(bar, completed=i + BATCH)
    return done


async def _batch(part: StorePartition, letters: list[tuple[str, str]], make: MakeCall) -> list[Row]:
    answers = await part.executor.run_many([make(part, session, pool) for session, pool in letters])
    return [
        {"session": session, "done": answer.word == "OK", "answer": answer.word, "state": answer.text("state") or None}
        for (session, _), answer in zip(letters, answers, strict=True)
    ]


def _why_not(row: Row) -> str:
    if row["answer"] == "HELD":
        return "transfers are held just now; ask again"
    return f"it is {row['state']}" if row["state"] else "there is no such session"


def _one_or_all(session_id: str | None, everything: bool) -> None:
    if (session_id is None) == (not everything):
        raise ConfigurationError("name one session, or say --all")


def _told(done: list[Row], what: str, as_json: bool) -> int:
    failed = [row for row in done if not row["done"]]
    if as_json:
        print_json({"done": len(done) - len(failed), "failed": len(failed), "sessions": done})
    else:
        for row in failed:
            print(f"coordinator: {row['session']} was not {what}: {_why_not(row)}", file=sys.stderr)
        console().print(f"{len(done) - len(failed)} {what}")
    return NEGATIVE if failed else OK


@with_settings("lease")
def replay(
    settings: Settings,
    session_id: Maybe = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: Json = False,
) -> int:
    """Offer a dead letter again; its attempts and its age start anew.

    Exit status: 0 all were offered; 1 some were not; 2 wrong usage or settings; 3 the store is not available.
    """
    _one_or_all(session_id, everything)

    def make(part: StorePartition, session: str, pool: str) -> Call:
        lease_ms = round(settings.lease * 1000)
        return calls.replay(part.keys, session=session, pool=pool, lease_ms=lease_ms, holder="operator")

    return _told(anyio.run(_each, settings, session_id, make), "offered again", as_json)


@with_settings("closed_ttl")
def purge(
    settings: Settings,
    session_id: Maybe = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them; needs --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, all of them.")] = False,
    as_json: Json = False,
) -> int:
    """Close a dead letter; its recovery data goes for good.

    Exit status: 0 all were closed; 1 some were not; 2 wrong usage or settings; 3 the store is not available.
    """
    _one_or_all(session_id, everything)
    if everything and not yes:
        raise ConfigurationError("purge --all deletes the data of every dead letter: say --yes too")

    def make(part: StorePartition, session: str, pool: str) -> Call:
        return calls.purge(part.keys, session=session, closed_ttl_ms=round(settings.closed_ttl * 1000))

    return _told(anyio.run(_each, settings, session_id, make), "closed", as_json)


app.command("list")(list_)
app.command("show")(show)
app.command("replay")(replay)
app.command("purge")(purge)
