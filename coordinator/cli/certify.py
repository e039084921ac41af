"""``certify``: an operator, or a program that saw the exit, states that an instance ended."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import typer

from coordinator.bounds import check_reason
from coordinator.cli.options import NEGATIVE, OK, with_settings
from coordinator.cli.status import Json
from coordinator.cli.store import check_instance, newest_id, partitions
from coordinator.cli.tables import complain, console, print_json, table
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition

__all__ = ["certify"]


async def _certify(part: StorePartition, named: str, by: str, reason: str) -> dict[str, Any]:
    keys, run = part.keys, part.executor
    instance = await newest_id(part, named)
    row = {"partition": keys.partition, "instance": instance or named, "outcome": "unknown", "sessions": 0, "cause": ""}
    if instance:
        answer = await run.run(calls.certify(keys, instance=instance, cause="operator", by=by, reason=reason))
        match answer:
            case calls.CertifyOk():
                row |= {"outcome": "certified", "sessions": answer.owned, "cause": "operator"}
            case calls.CertifyAlready():
                row |= {"outcome": "already_dead", "cause": answer.cause or "operator"}
            case calls.Unknown():
                row["cause"] = "operator"
    return row


async def _everywhere(settings: Settings, named: str, reason: str) -> list[dict[str, Any]]:
    async with partitions(settings) as parts:
        return [await _certify(part, named, settings.name, reason) for part in parts]


@with_settings()
def certify(
    settings: Settings,
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE", help="The instance's id, or its name for its newest id.")
    ],
    reason: Annotated[str, typer.Option(help="Why it ended, for the record and the events.")] = "",
    as_json: Json = False,
) -> int:
    """State that an instance ended: its calls are offered to other workers at once. This cannot be undone.

    Use it only for an instance that has really exited. A living one is fenced by this, and stops its calls when it hears so.

    Exit status: 0 written; 1 no living instance has that id; 2 wrong usage or settings; 3 the store is not available.
    """
    rows = anyio.run(_everywhere, settings, check_instance(instance), check_reason(reason, "--reason"))
    if as_json:
        print_json({"certificates": rows})
    else:
        console().print(
            table(("partition", "instance", "outcome", "calls to recover"), [
                (row["partition"], row["instance"], row["outcome"].replace("_", " "), row["sessions"]) for row in rows
            ])
        )  # fmt: skip
    outcomes = {row["outcome"] for row in rows}
    if "certified" in outcomes:
        return OK
    if "already_dead" in outcomes:
        complain(f"{instance} is dead already: nothing was written")
    else:
        complain(f"no living instance has the id or name {instance}")
    return NEGATIVE
