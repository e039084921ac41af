"""``quarantine``: what did not parse and was set aside, and what a person does about it."""

from __future__ import annotations

import base64
from typing import Annotated

import anyio
import typer

from coordinator.cli.grouped_help import GroupedCommand
from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json, Oldest
from coordinator.cli.store import partitions
from coordinator.cli.tables import clock, complain, console, print_json, print_some, table
from coordinator.errors import ConfigurationError
from coordinator.settings import Settings
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys
from coordinator.store.mending import RECORDS
from coordinator.store.reads import SetAside
from coordinator.store.shapes import faults, shaped_fields

__all__ = ["app"]

OF_THE_PROTOCOL = frozenset(
    {
        "state",
        "owner",
        "epoch",
        "heir",
        "checkpoint",
        "offer_id",
        "lease_holder",
        "lease_until",
        "epoch_floor",
        "epoch_highest",
        "lineage",
    }
)
app = typer.Typer(help="Lists, shows, repairs or drops what did not parse and was set aside.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `quarantine list`.")]
Found = tuple[StorePartition, SetAside]


async def _list(settings: Settings) -> list[SetAside]:
    async with partitions(settings) as parts:
        return [one for part in parts for one in await reads.quarantine(part)]


@with_settings()
def list_(settings: Settings, limit: Oldest = 100, as_json: Json = False) -> int:
    """List what was set aside, oldest first.

    Exit status: 0 there is nothing; 1 there is something; 2 wrong usage or settings; 3 the store is not available.
    """
    found = sorted(anyio.run(_list, settings), key=lambda one: (one.at_ms, one.member))
    if as_json:
        print_json({"found": len(found), "set_aside": [_as_data(one) for one in found[:limit]]})
    elif not found:
        console().print("nothing was set aside")
    else:
        rows = [(one.member, clock(one.at_ms), one.fault) for one in found[:limit]]
        print_some(("name", "since", "what is wrong"), rows, len(found))
    return NEGATIVE if found else OK


def _as_data(one: SetAside) -> dict[str, object]:
    return {
        "name": one.member, "kind": one.kind, "about": one.name, "fault": one.fault, "at_ms": one.at_ms, "type": one.type,
        "partition": one.partition,
    }  # fmt: skip


async def _show(settings: Settings, name: str) -> SetAside | None:
    async with partitions(settings) as parts:
        found = [one for part in parts for one in await reads.quarantine(part, name)]
    return next(iter(found), None)


def _shown(value: bytes, *, data: bool, name: str) -> object:
    if name == "data" and not data:
        return f"{len(value)} B"
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


@with_settings()
def show(
    settings: Settings,
    what: Name,
    data: Annotated[bool, typer.Option("--data", help="Show the recovery data too, which may be private.")] = False,
    as_json: Json = False,
) -> int:
    """Show one of them, with its fields as they were; for a key of another type, where the key is kept.

    Exit status: 0 found; 1 there is none of that name; 2 wrong usage or settings; 3 the store is not available.
    """
    one = anyio.run(_show, settings, what)
    if one is None:
        complain(f"nothing is set aside under {what}: names are those that `quarantine list` shows, such as session:ID")
        return NEGATIVE
    fields = {field: _shown(value, data=data, name=field) for field, value in sorted(one.fields.items())}
    key = "" if fields else Keys(settings.prefix, one.partition).set_aside_key(one.member)
    if as_json:
        print_json({**_as_data(one), "fields": fields, "key": key})
    else:
        rows = [("what is wrong", one.fault), ("since", clock(one.at_ms)), ("type", one.type)]
        rows += [("kept as the key", key)] if key else []
        console().print(table(("field", "value"), [*rows, *((field, str(value)) for field, value in fields.items())]))
    return OK


def _pairs(one: SetAside, words: list[str]) -> list[bytes]:
    """Names and values in turn, of FIELD=VALUE.

    Raises:
        ConfigurationError: a field that the record does not have, or a value that does not parse.
    """
    if one.kind not in RECORDS:
        raise ConfigurationError(f"{one.member} is not a record: it has no fields to set")
    kind, pairs = RECORDS[one.kind], []
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or field not in shaped_fields(kind):
            raise ConfigurationError(f"--set: {word!r} is not FIELD=VALUE with a field of a {one.kind}")
        if field in OF_THE_PROTOCOL:
            raise ConfigurationError(f"--set: {field} is written by the protocol alone in a {one.kind}")
        wrong = faults(kind, {field: value.encode()})
        if field in wrong:
            raise ConfigurationError(f"--set: {value!r} {wrong[field]} ({field})")
        pairs += [field.encode(), value.encode()]
    return pairs


async def _correct(settings: Settings, name: str, words: list[str]) -> calls.CorrectReply:
    async with partitions(settings) as parts:
        for part in parts:
            for one in await reads.quarantine(part, name):
                fields = _pairs(one, words) if words else []
                return await part.executor.run(
                    calls.correct(part.keys, member=one.member, kind=one.kind, name=one.name, fields=fields)
                )
    return calls.Gone()


def _told(name: str, answer: calls.CorrectReply, done: str) -> int:
    match answer:
        case calls.CorrectOk():
            console().print(f"{name}: {done.format(written=answer.written)}")
            return OK
        case calls.NoRecord():
            why = "its record is gone"
        case calls.Lives():
            why = f"the call goes on ({answer.state}): there is nothing to repair; `quarantine drop` takes it off the list"
        case calls.Gone():
            why = "nothing is set aside under that name"
    complain(f"{name}: {why}")
    return NEGATIVE


@with_settings()
def repair(
    settings: Settings,
    what: Name,
    values: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A field of the record and its right value; may be repeated."
        ),
    ],
) -> int:
    """Give fields of a record values that parse, and take the record off the list.

    A session without a living owner is a dead letter by now: offer it again with `dead-letters replay`.

    Exit status: 0 done; 1 there is none of that name; 2 wrong usage or settings; 3 the store is not available.
    """
    return _told(what, anyio.run(_correct, settings, what, values), "{written} fields written")


@with_settings()
def drop(settings: Settings, what: Name) -> int:
    """Forget what was set aside; its old fields are deleted for good.

    Exit status: 0 done; 1 there is none of that name; 2 wrong usage or settings; 3 the store is not available.
    """
    return _told(what, anyio.run(_correct, settings, what, []), "dropped")


app.command("list", cls=GroupedCommand)(list_)
app.command("show", cls=GroupedCommand)(show)
app.command("repair", cls=GroupedCommand)(repair)
app.command("drop", cls=GroupedCommand)(drop)
