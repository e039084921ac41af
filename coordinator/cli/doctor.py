"""``coordinator doctor``: is this Redis fit?"""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from coordinator.cli.doctor_acl import print_users
from coordinator.cli.doctor_checks import CHECKS, Finding, Server, refused
from coordinator.cli.doctor_rights import UserFor, check_rights
from coordinator.cli.options import NEGATIVE, OK, STORE_AWAY, with_settings
from coordinator.cli.store import connector
from coordinator.cli.tables import coloured, console, print_json, table
from coordinator.errors import StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import PROTOCOL
from coordinator.store.keys import Keys

__all__ = ["doctor", "examine"]

COLOURS = {"ok": "green", "warn": "yellow", "unknown": "yellow", "fail": "red"}


async def examine(settings: Settings, user_for: UserFor | None = None) -> list[Finding]:
    """Every finding about the Redis of these settings; the first tells whether it can be reached.

    Args:
        user_for: what the URL's user is for; None to judge by what it may.

    Raises:
        ConfigurationError: it is for the session store, whose packages are not installed.
    """
    connections = connector(settings)
    keys = Keys(settings.prefix, 0)
    try:
        first, *others = (
            connections.executor(Keys(settings.prefix, n).tag).command for n in range(settings.partitions)
        )
        server = Server(first, keys, settings.partitions, PROTOCOL, others, settings.replicated.replicas)
        try:
            await server.command("TIME")  # which every program may ask for
            findings = [Finding("reachable", "ok", connections.describe())]
            if why := connections.unverified():
                findings.append(Finding("tls", "warn", why, "name the authority with ssl_ca_certs, and verify"))
            no_info = await server.read_info()
            findings += [no_info] if no_info else []
            for check in CHECKS:
                try:
                    findings.append(await check(server))
                except StoreUnavailableError as error:
                    if not refused(error):
                        raise
                    findings.append(Finding(check.__name__, "unknown", error.detail, "not told; check it by hand"))
            return [*findings, *await check_rights(server, user_for)]
        except StoreUnavailableError as error:
            advice = "see REDIS_URL, the network, the password and the server's log"
            return [Finding("reachable", "fail", f"{connections.describe()}: {error.kind}: {error.detail}", advice)]
    finally:
        await connections.aclose()


@with_settings()
def doctor(
    settings: Settings,
    acl: Annotated[
        bool, typer.Option("--acl", help="Print least users of Redis, as ACL SETUSER; asks no server.")
    ] = False,
    user_for: Annotated[UserFor | None, typer.Option("--for", help="What the URL's user is for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> int:
    """Is this Redis fit: version, role, persistence, eviction, memory, latency, clock, rights, what is stored.

    With --acl: a user of Redis for each kind of program, with the least rights that will do, for PREFIX and PARTITIONS.

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
        rows = [
            (f.check, coloured(f.level, COLOURS[f.level]), f.found, "the line below" if f.is_line else f.advice)
            for f in findings
        ]
        console().print(table(("check", "", "found", "what to do"), rows))
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
