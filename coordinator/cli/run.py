"""``coordinator run``: the daemon."""

from __future__ import annotations

import anyio
from pydantic import SecretStr

from coordinator.cli.options import OK, with_settings
from coordinator.cli.tables import complain
from coordinator.embedded import EmbeddedRedis
from coordinator.keyring import check_sealed_only
from coordinator.settings import Settings
from coordinator.settings.groups import Program

__all__ = ["run"]

EMBEDDED = (
    "REDIS_URL is not set: an embedded Redis is running at {url}",
    "it is for trying out, and none of its data is kept; workers on this machine can use that URL",
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
        for line in EMBEDDED:
            complain(line.format(url=server.url))
        await Daemon(settings.model_copy(update={"redis_url": SecretStr(server.url)})).run()


@with_settings(of=Program.DAEMON)
def run(settings: Settings) -> int:
    """Run a coordinator: notice dead workers, offer their calls to living ones, serve health and metrics.

    Any number of them may run side by side. Without a Redis URL an embedded Redis is started, for trying out.

    Exit status: 0 ended as asked (SIGTERM, SIGINT); 1 failed; 2 a setting is wrong; 3 the store refuses.
    """
    # It opens no data. But an operator gives the same keys to the workers, and learns here of keys that are wrong.
    check_sealed_only(settings.key_source(), sealed_only=settings.sealed_only)
    anyio.run(_run, settings)
    return OK
