"""A worker in the middle of a call: it saves what the call is doing, and says so, until it is killed."""

from __future__ import annotations

import json
import os
import sys

import anyio

from coordinator import Worker
from coordinator.sessions import RedisStore, SessionManager, SessionState, TurnLatencies


async def main(*arguments: str) -> None:
    url, name, call, doing = arguments
    async with Worker(url, name=name) as worker, RedisStore(url) as store:
        manager = SessionManager(store).fenced(await worker.open(call, b"data"))
        state = SessionState(call, status="active")
        manager.record_turn(
            state, "agent", "how can I help?", 700, TurnLatencies(stt=0.1, agent=0.3, tts=0.2, e2e=0.65)
        )
        state.progress.move_to(doing)
        await manager.save(state)
        os.write(1, json.dumps({"what": "ready", "id": worker.id}).encode() + b"\n")
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
