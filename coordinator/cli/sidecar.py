"""``coordinator sidecar``: HTTP on this machine for workers in any language."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from coordinator.cli.options import OK, with_settings
from coordinator.cli.store import needs_url
from coordinator.settings import Settings
from coordinator.settings.groups import Program

__all__ = ["sidecar"]


async def _run(settings: Settings, coordinate: bool) -> None:
    # Here, so that the other commands start without a web server.
    from coordinator.logs import configure_logging
    from coordinator.sidecar.sidecar import Sidecar

    configure_logging(settings)
    await Sidecar(settings, coordinate=coordinate).run()


@with_settings(of=Program.SIDECAR)
def sidecar(
    settings: Settings,
    coordinate: Annotated[
        bool, typer.Option("--coordinate", help="Run a coordinator too, with the settings of `coordinator run`.")
    ] = False,
) -> int:
    """Stand for the workers of this pod or machine, which then need nothing but HTTP.

    The interface is served on HTTP_PORT of loopback, and on a unix socket if HTTP_SOCKET is set; /openapi.json describes it.
    SIGTERM hands over what the workers own; the sidecar ends when that is done.

    Exit status: 0 ended as asked; 1 failed; 2 a setting is wrong; 3 the store refuses.
    """
    needs_url(settings)
    anyio.run(_run, settings, coordinate)
    return OK
