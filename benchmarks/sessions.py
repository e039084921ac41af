"""What the session store costs: ``python -m benchmarks.sessions [rounds]``.

Save and load of a session of 200 turns, in plain text and sealed, a fenced save and a heartbeat, beside a raw SET and GET of the same
bytes over the same kind of connection in the same run; one at a time, so each figure is a round trip. Then how long the JSON and
the sealing take without Redis.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from coordinator import Worker
from coordinator.cli.figures import percentile
from coordinator.sessions import KeyRing, RedisStore, SessionState, SessionStore
from coordinator.sessions.sealing import Codec
from coordinator.sessions.wire import decode, encode
from coordinator.store.connect import Connector
from tests.redis_server import RedisServer

TURNS = 200
ROUNDS = 1000
SAID = "I ordered the blue one two weeks ago, and what came yesterday was the red one; can you <check> that & tell me? Grüße"


def session(session_id: str) -> SessionState:
    """A session of `TURNS` turns of about 115 characters."""
    state = SessionState(
        session_id, call_id="CA0123456789", provider="twilio", direction="inbound", from_="+15551234567", to="+15559876543",
        status="active", recovery_data={"call_sid": "CA0123456789", "stream_sid": "MZ0123456789", "sequence": 42},
    )  # fmt: skip
    for turn in range(TURNS):
        state.add_turn("agent" if turn % 2 else "user", SAID, 1500)
    return state


async def timed(rounds: int, do: Callable[[], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each of so many runs, after some that do not count."""
    for _ in range(rounds // 10):
        await do()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await do()
        took.append((time.perf_counter() - began) * 1000)
    return took


def computed(rounds: int, do: Callable[[], Any]) -> list[float]:
    """The same for what waits for nothing."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        do()
        took.append((time.perf_counter() - began) * 1000)
    return took


def show(what: str, took: list[float], raw: list[float] | None = None, beside: str = "raw") -> None:
    """One line: median and 99th percentile in milliseconds, and the ratio of the medians to what it stands beside."""
    half, most = percentile(took, 0.5) or 0.0, percentile(took, 0.99) or 0.0
    ratio = f"   {half / (percentile(raw, 0.5) or 1):5.1f} x {beside}" if raw else ""
    print(f"{what:<28}{half:8.3f} ms median{most:9.3f} ms p99{ratio}")


async def main(rounds: int) -> None:
    """Runs everything on a server of its own."""
    server = RedisServer()
    connector = Connector(server.url, store_timeout=5)
    try:
        raw = connector.executor("raw")
        state, ring = session("call-1"), KeyRing.parse(KeyRing.generate("k1"))
        document = encode(state)
        sealed_document, _ = Codec(keys=ring).write(session("call-2"))
        print(f"{TURNS} turns: {len(document):,} bytes of JSON, {len(sealed_document):,} sealed; {rounds} rounds")
        sets = await timed(rounds, lambda: raw.command("SET", "raw", document, "PX", 60_000))
        gets = await timed(rounds, lambda: raw.command("GET", "raw"))
        show("raw SET", sets)
        show("raw GET", gets)
        for name, keys in (("plain", None), ("sealed", ring)):
            async with RedisStore(server.url, keys=keys, store_timeout=5) as store:
                mine = session(f"call-{name}")

                async def save(store: SessionStore = store, mine: SessionState = mine) -> None:
                    mine.recovery_data["sequence"] += 1
                    await store.save(mine)

                show(f"save, {name}", await timed(rounds, save), sets)
                async with Worker(server.url, name=name) as worker:
                    call = await worker.open(mine.id)
                    bound = store.fenced(call)
                    show(f"save, {name}, fenced", await timed(rounds, lambda s=bound: save(s)), sets)  # type: ignore[misc]
                    await call.close()
                show(f"load, {name}", await timed(rounds, lambda s=store, i=mine.id: s.load(i)), gets)  # type: ignore[misc]
                show(f"heartbeat, {name}", await timed(rounds, lambda s=store, i=mine.id: s.update_heartbeat(i)), sets)  # type: ignore[misc]
        codec = Codec(keys=ring)

        def seal() -> None:
            state.sealed = None
            codec.write(state)

        show("encode", computed(rounds, lambda: encode(state)))
        show("decode", computed(rounds, lambda: decode("call-1", document)))
        show("encode and seal", computed(rounds, seal))
        show("open and decode", computed(rounds, lambda: codec.read("call-2", sealed_document)))
    finally:
        await connector.aclose()
        server.close()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
