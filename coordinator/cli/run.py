"""``coordinator run``: the daemon."""

from __future__ import annotations

import sys

import anyio
from pydantic import SecretStr

from coordinator.cli.options import OK, with_settings
from coordinator.embedded import EmbeddedRedis
from coordinator.settings import Settings

__all__ = ["run"]

EMBEDDED = (
    "coordinator: REDIS_URL is not set: an embedded Redis is running at {url}\n"
    "coordinator: it is for trying out, nothing of it is kept; workers of this machine can use that URL"
)


async def _run(settings: Settings) -> None:
    # Here, so that the other commands start without a web server.
    from coordinator.daemon.daemon import Daemon
    from coordinator.logs import configure_logging

    configure_logging(settings)
    if settings.url is not None:
        await Daemon(settings).run()
        return
    with EmbeddedRedis() as server:
        print(EMBEDDED.format(url=server.url), file=sys.stderr, flush=True)
        await Daemon(settings.model_copy(update={"redis_url": SecretStr(server.url)})).run()


@with_settings(everything=True)
def run(settings: Settings) -> int:
    """Run a coordinator: notice dead workers, offer their calls to living ones, serve health and metrics.

    Any number of them may run side by side. Without a Redis URL an embedded Redis is started, for trying out.

    Exit status: 0 ended as asked (SIGTERM, SIGINT); 1 failed; 2 a setting is wrong; 3 the store refuses.
    """
    anyio.run(_run, settings)
    return OK
