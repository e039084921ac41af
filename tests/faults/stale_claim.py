"""A coordinator that stood still claims, long after, what it had found in a grave: ``url grave session...``."""

from __future__ import annotations

import sys

import anyio

from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys


async def main(*arguments: str) -> None:
    url, grave, *sessions = arguments
    keys, connector = Keys("recovery", 0), Connector(url)
    try:
        await connector.executor(keys.tag).run(
            calls.claim(
                keys, grave=grave, sessions=sessions, pool="default", lease=3, max_recoveries=3,
                recovery_window=600,
            )
        )  # fmt: skip
    finally:
        await connector.aclose()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
