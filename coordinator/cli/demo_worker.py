"""The demo's worker, a process of its own: checkpoints its calls all the time and reports each step as a JSON line.

A line is written *after* the store acknowledged what it tells, so that whoever reads the lines of a killed worker
knows what was acknowledged last; one more checkpoint may have been on its way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from base64 import b64encode
from collections.abc import Sequence

import anyio

from coordinator import FencedError, Session, StoreUnavailableError, Worker
from coordinator.cli.demo_data import recovery_data

CHECKPOINT_EVERY = 0.1
"""Seconds between two checkpoints of a call."""
REPORT_BYTES = 4096
"""A pipe takes a line up to this size whole or not at all."""


def report(what: str, **fields: str | int) -> None:
    """Writes one line, unbuffered: it is out when this returns, whatever happens to the process next."""
    line = json.dumps({"what": what, **fields}).encode() + b"\n"
    if len(line) > REPORT_BYTES:
        raise ValueError(f"a report of {len(line)} bytes could be torn; at most {REPORT_BYTES}")
    os.write(sys.stdout.fileno(), line)


async def keep_checkpointing(session: Session, sequence: int) -> None:
    """Checkpoints a call until it is lost; ``sequence`` is the last that is stored."""
    while True:
        await anyio.sleep(CHECKPOINT_EVERY)
        try:
            await session.checkpoint(recovery_data(session.id, sequence + 1))
        except FencedError:
            report("fenced", session=session.id, epoch=session.epoch)
            return
        except StoreUnavailableError:
            continue  # the same checkpoint again: its reply may be all that was lost
        sequence += 1
        report("checkpointed", session=session.id, sequence=sequence, epoch=session.epoch)


async def serve(url: str, prefix: str, name: str, capacity: int, calls: Sequence[str]) -> None:
    """Opens ``calls``, then adopts whatever it is offered, until it is killed."""
    async with Worker(url, name=name, prefix=prefix, capacity=capacity) as worker, anyio.create_task_group() as tasks:
        for call in calls:
            session = await worker.open(call, recovery_data=recovery_data(call, 0))
            report("opened", session=call, epoch=session.epoch)
            tasks.start_soon(keep_checkpointing, session, 0)
        report("ready")
        async for offer in worker.offers():
            adopted = await offer.adopt()
            if adopted is None:
                continue
            data = adopted.recovery_data
            if not isinstance(data, bytes):
                raise TypeError(f"bytes were checkpointed, {type(data).__name__} came back")
            report("adopted", session=adopted.id, epoch=adopted.epoch, data=b64encode(data).decode())
            await adopted.resumed()
            tasks.start_soon(keep_checkpointing, adopted, int(json.loads(data)["sequence"]))


def main() -> None:
    """Reads its arguments; ends when its standard input does, so that no worker outlives the demo."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.cli.demo_worker")
    for option in ("--redis-url", "--prefix", "--name"):
        parser.add_argument(option, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("calls", nargs="*")
    args = parser.parse_args()

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, args.redis_url, args.prefix, args.name, args.capacity, args.calls)
            await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
            os._exit(0)

    anyio.run(run)


if __name__ == "__main__":
    main()
