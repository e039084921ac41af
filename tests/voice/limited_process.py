"""A worker with one call of limited duration; what happens to it are lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import anyio

from coordinator import Session, Worker, limit_duration


def tell(what: str, **fields: object) -> None:
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


async def main(*arguments: str) -> None:
    url, name, call, seconds = arguments

    async def hook(what: str, *_: float) -> None:
        tell(what)

    async def handler(session: Session) -> None:
        try:
            async with limit_duration(
                session, float(seconds), warn=0.1, on_warn=partial(hook, "warned"), on_end=partial(hook, "good-bye")
            ) as limit:
                tell("serving")
                await anyio.sleep_forever()
            tell("ended", reached=limit.reached)
        finally:
            tell("over", lost=session.lost.is_set(), closed=session.closed.is_set())

    async with Worker(url, name=name) as worker:
        await worker.open(call, b"")
        await worker.serve(handler)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
