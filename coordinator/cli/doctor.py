"""``coordinator doctor``: is this Redis fit?"""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from rich.text import Text

from coordinator.cli.doctor_checks import CHECKS, Finding, Server, refused
from coordinator.cli.doctor_rights import check_rights
from coordinator.cli.options import NEGATIVE, OK, STORE_AWAY, with_settings
from coordinator.cli.store import needs_url
from coordinator.cli.tables import console, print_json, table
from coordinator.errors import StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import PROTOCOL
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys

__all__ = ["doctor", "examine"]

COLOURS = {"ok": "green", "warn": "yellow", "unknown": "yellow", "fail": "red"}


async def examine(settings: Settings) -> list[Finding]:
    """Every finding about the Redis of these settings; the first tells whether it can be reached."""
    connector = Connector(needs_url(settings), store_timeout=settings.store_timeout)
    keys = Keys(settings.prefix, 0)
    try:
        server = Server(connector.executor(keys.tag).command, keys, settings.partitions, PROTOCOL)
        try:
            await server.command("PING")
            findings = [Finding("reachable", "ok", connector.describe())]
            no_info = await server.read_info()
            findings += [no_info] if no_info else []
            for check in CHECKS:
                try:
                    findings.append(await check(server))
                except StoreUnavailableError as error:
                    if not refused(error):
                        raise
                    findings.append(Finding(check.__name__, "unknown", error.detail, "not told; check it by hand"))
            return [*findings, *await check_rights(server)]
        except StoreUnavailableError as error:
            advice = "see REDIS_URL, the network, the password and the server's log"
            return [Finding("reachable", "fail", f"{connector.describe()}: {error.kind}: {error.detail}", advice)]
    finally:
        await connector.aclose()


@with_settings()
def doctor(
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> int:
    """Is this Redis fit: version, role, persistence, eviction, memory, latency, clock, rights, what is stored.

    Exit status: 0 nothing fails (warnings allowed); 1 something fails; 2 wrong usage or settings; 3 not reachable.
    """
    findings = anyio.run(examine, settings)
    failed = [finding for finding in findings if finding.level == "fail"]
    if as_json:
        print_json({"fit": not failed, "findings": [finding.as_data() for finding in findings]})
    else:
        rows = [(f.check, Text(f.level, COLOURS[f.level]), f.found, f.advice) for f in findings]
        console().print(table(("check", "", "found", "what to do"), rows))
        console().print("This Redis is fit." if not failed else f"Not fit: {len(failed)} checks fail.")
    if any(finding.check == "reachable" for finding in failed):
        return STORE_AWAY
    return NEGATIVE if failed else OK
