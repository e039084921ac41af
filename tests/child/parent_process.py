"""A worker that owns a call and says where its channel is."""

from __future__ import annotations

import json
import os
import sys

import anyio

from coordinator import Worker


async def main() -> None:
    async with Worker(sys.argv[1], name="parent") as worker:
        await worker.open("call-1", b"data")
        address = (await worker.channel()).address
        os.write(1, json.dumps({"what": "ready", "address": address}).encode() + b"\n")
        await anyio.sleep_forever()


anyio.run(main)
