"""``coordinator supervise -- CMD``: a worker that lives as long as its process."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from coordinator.cli.options import with_settings
from coordinator.cli.store import needs_url
from coordinator.ids import check_session_id
from coordinator.settings import Settings

__all__ = ["supervise"]


async def _run(
    settings: Settings,
    command: list[str],
    sessions: list[str],
    restart: bool,
    close_on_success: bool,
    pass_env: list[str],
) -> int:
    # Here, so that the other commands start without a web server.
    from coordinator.logs import configure_logging
    from coordinator.supervisor.supervisor import Supervisor

    configure_logging(settings)
    supervisor = Supervisor(
        settings, command, sessions, restart=restart, close_on_success=close_on_success, pass_env=pass_env
    )
    return await supervisor.run()


@with_settings("name", "pool", "capacity", "labels", "address", "drain_timeout")
def supervise(
    settings: Settings,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="The worker: a program and its arguments.")],
    session: Annotated[
        list[str] | None,
        typer.Option(
            "--session",
            metavar="ID",
            help="A call that the worker serves, taken over from a living owner; may be repeated.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start the worker again when it fails, as a new instance.")
    ] = False,
    close_on_success: Annotated[
        bool, typer.Option("--close-on-success", help="Take exit status 0 of the worker as the end of its calls.")
    ] = False,
    pass_env: Annotated[
        list[str] | None,
        typer.Option(
            "--pass-env",
            metavar="NAME",
            help="A variable that the worker gets although it holds a secret (COORDINATOR_REDIS_URL); may be repeated.",
        ),
    ] = None,
) -> int:
    """Start a worker, beat for it, and state at once when and how it ended, so that its calls go to other workers.

    The worker need not know of this: then it serves the calls named with --session. Otherwise it finds the sidecar's interface
    at the unix socket in RECOVERY_SOCKET, and its identity in RECOVERY_INSTANCE and RECOVERY_WORKER_TOKEN.
    Its environment lacks the Redis passwords, API tokens and encryption keys of this command, unless --pass-env names them.
    Signals are passed on; SIGTERM is passed on after the worker's calls were handed over, if another worker can take them.

    Exit status: the worker's own; 128 and the signal's number if it was killed; 1 a call or the name belongs to another instance;
    2 wrong usage or settings; 3 the store is not available.
    """
    needs_url(settings)
    for one in session or []:
        check_session_id(one)
    return anyio.run(_run, settings, command, session or [], restart, close_on_success, pass_env or [])
