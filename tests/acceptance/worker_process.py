"""A worker for the acceptance tests: opens calls, adopts offers, and tells each step as a JSON line."""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64encode

import anyio
import anyio.lowlevel

from coordinator import CoordinatorError, Offer, Session, Worker


def tell(what: str, **fields: object) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


def data_of(call: str) -> bytes:
    """What a call's last checkpoint holds."""
    return f"{call}:last".encode() + bytes(range(256))


async def serve(worker: Worker) -> None:
    async for offer in worker.offers():
        session = await offer.adopt()
        if session is not None:
            data = b64encode(session.raw_data).decode()
            tell("adopted", session=session.id, epoch=session.epoch, data=data, at=time.time(), gap=session.gap)


async def attempts(worker: Worker, sessions: list[Session]) -> None:
    """Watches its own clock; after a stand-still tells at once what it believes, then what it may do."""
    kept: list[Offer] = []

    async def keep_an_offer() -> None:
        async for offer in worker.offers():
            kept.append(offer)
            tell("read")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_an_offer)
        before = time.monotonic()
        while True:
            now = time.monotonic()
            if now - before > 1.5:  # the first instruction after a stop
                tell("continued", held=[s.held for s in sessions], may_speak=[s.may_speak for s in sessions])
                break
            before = now
            await anyio.lowlevel.checkpoint()
        outcomes = {}
        for name, attempt in {
            "checkpoint": lambda: sessions[0].checkpoint(b"from the grave"),
            "close": sessions[0].close,
            "release": sessions[0].release,
            "resumed": sessions[0].resumed,
            "adopt": kept[0].adopt,
            "decline": kept[0].decline,
        }.items():
            try:
                await attempt()
                outcomes[name] = "allowed"
            except CoordinatorError as error:
                outcomes[name] = type(error).__name__
        tell("attempts", outcomes=outcomes, lost=[s.lost.is_set() for s in sessions])


async def watch(worker: Worker, sessions: list[Session]) -> None:
    """Tells each change of standing, without asking the store."""
    session, before = sessions[0], None
    while True:
        standing = (session.held, session.may_speak, session.lost.is_set())
        if standing != before:
            tell("standing", held=standing[0], may_speak=standing[1], lost=standing[2], at=time.time())
            before = standing
        await anyio.sleep(0.002)


async def main(*arguments: str) -> None:
    url, name, capacity, mode, *calls = arguments
    async with Worker(url, name=name, capacity=int(capacity)) as worker:
        sessions = []
        for call in calls:
            session = await worker.open(call, b"first")
            await session.checkpoint(data_of(call))
            tell("opened", session=call, epoch=session.epoch)
            sessions.append(session)
        tell("ready")
        match mode:
            case "serve":
                await serve(worker)
            case "attempts":
                await attempts(worker, sessions)
            case "watch":
                await watch(worker, sessions)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
