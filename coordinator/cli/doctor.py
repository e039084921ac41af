"""``coordinator doctor``: is this Redis fit?"""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from rich.text import Text

from coordinator.cli.doctor_acl import print_users
from coordinator.cli.doctor_checks import OF_EACH_SERVER, OF_THE_STORE, Check, Finding, Server, refused, worst
from coordinator.cli.doctor_rights import UserFor, check_rights
from coordinator.cli.options import NEGATIVE, OK, STORE_AWAY, with_settings
from coordinator.cli.store import connector
from coordinator.cli.tables import coloured, console, print_json, table
from coordinator.errors import StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import PROTOCOL
from coordinator.store.keys import Keys

__all__ = ["doctor", "examine"]

ADVICE = {
    "no_replicas": "the primary has too few replicas that are in time (min-replicas-to-write): start them, or see their link to it",
    "out_of_memory": "the server is full: raise maxmemory; no worker is declared dead until then",
    "read_only": "this is a replica: name the primary, or the Sentinels (redis+sentinel://)",
    "try_again": "the slot of a partition is being moved: see that the move ends (CLUSTER NODES shows it)",
    "cluster_down": "see CLUSTER INFO at the nodes, or that the Sentinels run and know the service",
    "loading": "the server reads its data in: wait until it has",
    "permission": "check the rights of the user in REDIS_URL: coordinator doctor --acl prints what programs need",
}
"""Advice by the kind of the error."""
COLOURS = {"ok": "green", "warn": "yellow", "unknown": "yellow", "fail": "red"}


async def examine(settings: Settings, user_for: UserFor | None = None) -> list[Finding]:
    """Every finding about the Redis of these settings; the first tells whether it can be reached.

    Args:
        user_for: the program that the URL's user is for; None to judge by its rights.

    Raises:
        ConfigurationError: the user is for the session store, whose packages are not installed.
    """
    connections = connector(settings)
    keys = Keys(settings.prefix, 0)
    try:
        commands = [connections.executor(Keys(settings.prefix, n).tag).command for n in range(settings.partitions)]
        findings, servers, away = (
            [Finding("reachable", "ok", connections.describe())],
            dict[str, Server](),
            list[Finding](),
        )
        if why := connections.unverified():
            findings.append(Finding("tls", "warn", why, "name the authority with ssl_ca_certs, and verify"))
        for partition, command in enumerate(commands):
            server = Server(
                command, keys, settings.partitions, PROTOCOL, commands[1:], settings.replicated.replicas,
                without_info=settings.without_info, holds=[partition],
            )  # fmt: skip
            try:
                await command("TIME")  # which every program may ask for
                no_info = await server.read_info()
            except StoreUnavailableError as error:
                away.append(_unreachable(connections.describe(), partition, settings.partitions, error))
                continue
            findings += [no_info] if no_info and not servers else []
            known = servers.setdefault(server.info.get("run_id", ""), server)
            if known is not server:
                known.holds.append(partition)
        if not servers:
            return away
        try:
            for check in OF_EACH_SERVER:
                findings.append(worst([(server, await _found(check, server)) for server in servers.values()]))
            if away:  # the rest asks all partitions
                return [*away, *findings[1:]]
            first = next(iter(servers.values()))
            findings += [await _found(check, first) for check in OF_THE_STORE]
            return [*findings, *await check_rights(first, user_for)]
        except StoreUnavailableError as error:
            return [_unreachable(connections.describe(), 0, 1, error)]
    finally:
        await connections.aclose()


def _unreachable(url: str, partition: int, partitions: int, error: StoreUnavailableError) -> Finding:
    where = url + (f", partition {partition}" if partitions > 1 else "")
    advice = ADVICE.get(error.kind, "see REDIS_URL, the network, the password and the server's log")
    if error.detail.startswith("MOVED"):
        advice = "this is a node of a Cluster: use redis+cluster://host:port,..."
    return Finding("reachable", "fail", f"{where}: {error.kind}: {error.detail}", advice)


async def _found(check: Check, server: Server) -> Finding:
    """Runs a check; what the server refuses to tell is unknown."""
    try:
        return await check(server)
    except StoreUnavailableError as error:
        if not refused(error):
            raise
        return Finding(check.__name__, "unknown", error.detail, "not told; check it by hand")


@with_settings()
def doctor(
    settings: Settings,
    acl: Annotated[
        bool, typer.Option("--acl", help="Print users of Redis with the least rights, as ACL SETUSER; asks no server.")
    ] = False,
    user_for: Annotated[UserFor | None, typer.Option("--for", help="The program that the URL's user is for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> int:
    """Check whether Redis is fit: version, role, persistence, eviction, memory, latency, clock, rights and stored data.

    With --acl it prints a user of Redis for each kind of program, with the least rights, for PREFIX and PARTITIONS.

    Exit status: 0 nothing fails (warnings allowed); 1 something fails; 2 wrong usage or settings; 3 not reachable.
    """
    if acl:
        print_users(settings, as_json=as_json)
        return OK
    findings = anyio.run(examine, settings, user_for)
    failed = [finding for finding in findings if finding.level == "fail"]
    if as_json:
        print_json({"fit": not failed, "findings": [finding.as_data() for finding in findings]})
    else:
        console().print(table(("", "check", "found, and what to do"), map(_row, findings)))
        for line in dict.fromkeys(f.advice for f in findings if f.is_line):
            console(soft_wrap=True).print(line)  # whole, to be copied
        console().print(
            "This Redis is fit."
            if not failed
            else f"Not fit: {len(failed)} check{'s fail' if len(failed) > 1 else ' fails'}."
        )
    if any(finding.check == "reachable" for finding in failed):
        return STORE_AWAY
    return NEGATIVE if failed else OK


def _row(finding: Finding) -> tuple[Text, str, Text]:
    """Level, check, and both sentences below each other: a terminal may have 80 columns."""
    told = coloured(finding.found)
    if finding.advice:
        told.append("\n")
        told.append(coloured("-> " + ("the line below" if finding.is_line else finding.advice)))
    return coloured(finding.level, COLOURS[finding.level]), finding.check, told
