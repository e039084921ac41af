"""``dead-letters``: sessions that were given up on, and what a person does about them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import anyio
import typer
from rich.progress import Progress

from coordinator.bounds import check_record
from coordinator.cli.grouped_help import GroupedCommand
from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json, Oldest, print_record, read_record
from coordinator.cli.store import partition_for, partitions
from coordinator.cli.tables import clock, complain, console, print_json, print_some, progress_console
from coordinator.errors import ConfigurationError, InvalidDataError, InvalidIdError, InvalidValueError
from coordinator.ids import check_session_id
from coordinator.settings import Settings
from coordinator.states import SessionState
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.reads import DeadLetter
from coordinator.store.scripts import ScriptCall

__all__ = ["app"]

app = typer.Typer(help="Lists, shows, offers again or closes the calls that were given up on.", no_args_is_help=True)

BATCH = 100
SessionId = Annotated[str, typer.Argument(metavar="ID")]
Maybe = Annotated[str | None, typer.Argument(metavar="[ID]")]
Row = dict[str, Any]
Epoch = Annotated[
    int | None,
    typer.Option(
        "--epoch", metavar="EPOCH", help="The dead letter's epoch, where the id was opened again or several have it."
    ),
]
MakeCall = Callable[[StorePartition, str, str, str], ScriptCall[calls.ReplayReply | calls.PurgeReply]]
"""Maps partition, session id, pool, and the epoch if the id was opened again, else ''."""
READ = ("pool", "tenant", "requires", "data", "encoding")


async def _list(settings: Settings) -> list[DeadLetter]:
    async with partitions(settings) as parts:
        return [letter for part in parts for letter in await reads.dead_letters(part)]


@with_settings()
def list_(settings: Settings, limit: Oldest = 100, as_json: Json = False) -> int:
    """List dead letters with reason and last owner, oldest first.

    Exit status: 0 there are none; 1 there are some; 2 wrong usage or settings; 3 the store is not available.
    """
    found = sorted(anyio.run(_list, settings), key=lambda letter: (letter.at_ms, letter.id))
    if as_json:
        print_json({"found": len(found), "dead_letters": [letter.as_dict() for letter in found[:limit]]})
    elif not found:
        console().print("no dead letters")
    else:
        columns = ("session", "epoch", "since", "reason", "last owner", "cause", "pool", "data")
        rows = [
            (r.id, r.epoch, clock(r.at_ms), r.reason, r.previous_owner, r.cause, r.pool, f"{r.data_bytes} B")
            for r in found[:limit]
        ]
        print_some(columns, rows, len(found))
    return NEGATIVE if found else OK


async def _find(part: StorePartition, session_id: str, epoch: int | None) -> DeadLetter | None:
    """The dead letter with that id and epoch; without an epoch the newest with that id."""
    letters = [letter for letter in await reads.dead_letters(part) if letter.id == session_id]
    return max((one for one in letters if epoch in (None, one.epoch)), key=lambda one: one.epoch, default=None)


def _letter_epoch(letter: DeadLetter) -> str:
    return str(letter.epoch) if letter.opened_again else ""


async def _show(settings: Settings, session_id: str, epoch: int | None, *, data: bool) -> Row | None:
    check_session_id(session_id)
    async with partitions(settings) as parts:
        letter = await _find(partition_for(parts, session_id), session_id, epoch)
    if letter is None:
        return None
    return await read_record(settings, session_id, data=data, letter_epoch=_letter_epoch(letter))


@with_settings()
def show(
    settings: Settings,
    session_id: SessionId,
    epoch: Epoch = None,
    data: Annotated[bool, typer.Option("--data", help="Show the recovery data too, which may be private.")] = False,
    as_json: Json = False,
) -> int:
    """Show one dead letter.

    Exit status: 0 found; 1 it is not a dead letter; 2 wrong usage or settings; 3 the store is not available.
    """

    row = anyio.run(partial(_show, settings, session_id, epoch, data=data))
    if as_json:
        print_json(row)
    elif row is None:
        complain(f"{session_id} is not a dead letter")
    else:
        print_record(row)
    return NEGATIVE if row is None else OK


async def _faults(part: StorePartition, letters: list[DeadLetter]) -> list[str]:
    """Why each of them cannot be offered as it is; '' for one that can be."""
    where = [part.keys.letter(one.id, one.epoch) if one.opened_again else part.keys.session(one.id) for one in letters]
    return [_fault(*record) for record in await reads.raw_fields(part, where, READ)]


def _fault(pool: bytes, tenant: bytes, requires: bytes, data: bytes, encoding: bytes) -> str:
    try:
        texts = {"pool": pool, "tenant": tenant, "requires": requires, "encoding": encoding}
        read = {name: (raw or b"").decode(errors="surrogateescape") for name, raw in texts.items()}
        check_record(**read, data=data or b"")
    except (InvalidIdError, InvalidValueError, InvalidDataError) as error:
        return str(error)
    return ""


async def _each(
    settings: Settings, session_id: str | None, epoch: int | None, make: MakeCall, *, look: bool = False
) -> list[Row]:
    """Runs a script for one dead letter, or for all, and returns each answer.

    Args:
        look: whether to leave out those that no worker could read.
    """
    if session_id is not None:
        check_session_id(session_id)
    progress = Progress(console=progress_console(), transient=True, disable=not sys.stderr.isatty())
    done: list[Row] = []
    async with partitions(settings) as parts:
        if session_id is not None:
            part = partition_for(parts, session_id)
            letter = await _find(part, session_id, epoch)
            if letter is not None:
                return await _batch(part, [letter], make, look=look)
            record = await reads.record(part, session_id) or {}
            state = record.get("state", b"").decode() or None
            return [{"session": session_id, "epoch": epoch, "done": False, "answer": "GONE", "state": state}]
        with progress:
            for part in parts:
                letters = await reads.dead_letters(part)
                bar = progress.add_task(f"partition {part.keys.partition}", total=len(letters))
                for i in range(0, len(letters), BATCH):
                    done += await _batch(part, letters[i : i + BATCH], make, look=look)
                    progress.update(bar, completed=i + BATCH)
    return done


async def _batch(part: StorePartition, letters: list[DeadLetter], make: MakeCall, *, look: bool) -> list[Row]:
    faults = await _faults(part, letters) if look else [""] * len(letters)
    unfit = [
        {
            "session": one.id,
            "epoch": one.epoch,
            "done": False,
            "answer": "UNFIT",
            "state": SessionState.DEAD_LETTERED,
            "fault": fault,
        }
        for one, fault in zip(letters, faults, strict=True)
        if fault
    ]
    letters = [one for one, fault in zip(letters, faults, strict=True) if not fault]
    answers = await part.executor.run_many([make(part, one.id, one.pool, _letter_epoch(one)) for one in letters])
    return unfit + [
        {
            "session": letter.id,
            "epoch": letter.epoch,
            "done": isinstance(answer, calls.Ok),
            "answer": answer.word,
            "state": _state_in(answer),
        }
        for letter, answer in zip(letters, answers, strict=True)
    ]


def _state_in(answer: calls.ReplayReply | calls.PurgeReply) -> str | None:
    if isinstance(answer, calls.Owned | calls.ReplayGone | calls.PurgeGone):
        return answer.state or None
    return None


def _why_not(row: Row) -> str:
    if row["answer"] == "UNFIT":
        return f"no worker could read it: {row['fault']}"
    if row["answer"] == "HELD":
        return "transfers are held just now; ask again"
    if row["answer"] == "OWNED":
        return f"its id was opened again, and is {row['state']} now"
    return f"it is {row['state']}" if row["state"] else "there is no such session"


def _one_or_all(session_id: str | None, everything: bool) -> None:
    if (session_id is None) == (not everything):
        raise ConfigurationError("name one session, or use --all")


def _told(done: list[Row], what: str, as_json: bool) -> int:
    failed = [row for row in done if not row["done"]]
    if as_json:
        print_json({"done": len(done) - len(failed), "failed": len(failed), "sessions": done})
    else:
        for row in failed:
            complain(f"{row['session']} was not {what}: {_why_not(row)}")
        console().print(f"{len(done) - len(failed)} {what}")
    return NEGATIVE if failed else OK


@with_settings("lease")
def replay(
    settings: Settings,
    session_id: Maybe = None,
    epoch: Epoch = None,
    everything: Annotated[bool, typer.Option("--all", help="Offer all dead letters again.")] = False,
    as_json: Json = False,
) -> int:
    """Offer a dead letter again; its attempts and its age start anew. A dead letter that no worker could read stays one.

    Exit status: 0 all were offered; 1 some were not; 2 wrong usage or settings; 3 the store is not available.
    """
    _one_or_all(session_id, everything)
    if epoch is not None and everything:
        raise ConfigurationError("--epoch names one dead letter: leave out --all")

    def make(part: StorePartition, session: str, pool: str, letter_epoch: str) -> ScriptCall[calls.ReplayReply]:
        return calls.replay(
            part.keys, session=session, pool=pool, lease=settings.lease, holder="operator", letter_epoch=letter_epoch
        )

    done = anyio.run(partial(_each, settings, session_id, epoch, make, look=True))
    return _told(done, "offered again", as_json)


@with_settings("closed_ttl")
def purge(
    settings: Settings,
    session_id: Maybe = None,
    epoch: Epoch = None,
    everything: Annotated[bool, typer.Option("--all", help="Close all dead letters; needs --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --all.")] = False,
    as_json: Json = False,
) -> int:
    """Close a dead letter and delete its recovery data for good.

    Exit status: 0 all were closed; 1 some were not; 2 wrong usage or settings; 3 the store is not available.
    """
    _one_or_all(session_id, everything)
    if epoch is not None and everything:
        raise ConfigurationError("--epoch names one dead letter: leave out --all")
    if everything and not yes:
        raise ConfigurationError("purge --all deletes the data of every dead letter: add --yes")

    def make(part: StorePartition, session: str, pool: str, letter_epoch: str) -> ScriptCall[calls.PurgeReply]:
        return calls.purge(part.keys, session=session, closed_ttl=settings.closed_ttl, letter_epoch=letter_epoch)

    return _told(anyio.run(_each, settings, session_id, epoch, make), "closed", as_json)


app.command("list", cls=GroupedCommand)(list_)
app.command("show", cls=GroupedCommand)(show)
app.command("replay", cls=GroupedCommand)(replay)
app.command("purge", cls=GroupedCommand)(purge)
