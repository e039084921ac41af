"""A worker as a program writes it: opens calls, serves until SIGTERM. Its log lines and its steps are lines of JSON."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import MutableMapping
from typing import Any

import anyio
import structlog

from coordinator import Session, Worker


def as_step(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """A log line as the tests read it."""
    return json.dumps({"what": event.pop("event"), **event}, default=str)


async def main(url: str, name: str, mode: str, *calls: str) -> None:
    structlog.configure(processors=[as_step], logger_factory=structlog.PrintLoggerFactory())
    log = structlog.get_logger()
    log.info("starting")

    async def handler(session: Session) -> None:
        log.info("serving", session=session.id, data=session.raw_data.decode())
        await anyio.sleep_forever()

    async with Worker(url, name=name, lease=0.5) as worker:
        for call in calls:
            await worker.open(call, call.encode())
        log.info("ready", id=worker.id)
        if mode == "serve":
            await worker.serve(handler, drain_on=[signal.SIGTERM])
        else:
            await anyio.sleep_forever()
    log.info("ended")


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
