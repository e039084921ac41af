"""Workers behind a door: each speaks Media Streams on a port of its own. Forked from one process, which certifies their ends.

Lines on standard input: ``start NAME`` starts one. With ``certify`` as the second argument the end of a worker is certified by
this process, as the supervisor does it; without it coordinators find out by themselves.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

import anyio
import redis
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from coordinator import FencedError, SessionHeldError, StoreUnavailableError, Worker
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.executor import SyncExecutor
from coordinator.store.keys import Keys
from coordinator.supervisor.child import die_with_parent

CHECKPOINT_FRAMES = 5
WAIT_SECONDS = 3.0


def tell(what: str, **fields: Any) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


async def work(url: str, name: str, settings: dict[str, Any]) -> None:
    """Serves calls until killed."""
    async with Worker(url, name=name, capacity=1000, **settings) as worker:

        async def call(socket: ServerConnection) -> None:
            port = socket.local_address[1]
            try:
                await _call(worker, socket, port)
            except (ConnectionClosed, FencedError, StoreUnavailableError):
                return

        async with serve(call, "127.0.0.1", 0, max_queue=None) as server:
            port = server.sockets[0].getsockname()[1]
            tell("ready", name=name, id=worker.id, pid=os.getpid(), port=port)
            await anyio.sleep_forever()


async def _call(worker: Worker, socket: ServerConnection, port: int) -> None:
    await socket.recv()  # connected
    start = json.loads(await socket.recv())["start"]
    session = await worker.adopt(start["callSid"], wait=WAIT_SECONDS)
    if session is None:
        try:
            session = await worker.open(start["callSid"], {"sequence": 0})
        except SessionHeldError:
            await socket.close(1013, "its call is elsewhere: try again later")
            return
    data = session.recovery_data
    assert isinstance(data, dict)
    sequence = int(data["sequence"])
    await session.resumed()
    await socket.send(json.dumps({"event": "mark", "port": port, "mark": {"name": f"resumed:{sequence}"}}))
    async for text in socket:
        if json.loads(text)["event"] != "media":
            continue
        sequence += 1
        if sequence % CHECKPOINT_FRAMES == 0:
            await session.checkpoint({"sequence": sequence})
            await socket.send(json.dumps({"event": "mark", "mark": {"name": f"saved:{sequence}"}}))


def _certify(executor: SyncExecutor, client: Any, name: str, reason: str) -> None:
    keys = Keys("recovery", 0)
    newest = client.hget(keys.names, name).decode()
    executor.run(calls.certify(keys, instance=newest, cause="exited", by="test", reason=reason))


def main(url: str, how: str, settings: str) -> None:
    """Forks workers as it is told, and reaps them."""
    executor = Connector(url).heart("{recovery:0}")
    client = redis.Redis.from_url(url, protocol=2)
    ids: dict[int, str] = {}
    ready, write = os.pipe()
    waiting = [sys.stdin.fileno(), ready]
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        able, _, _ = select.select(waiting, [], [])
        if ready in able:
            os.read(ready, 4096)
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) if ids else None) is not None:
                name = ids.pop(ended.si_pid)
                if how == "certify":
                    _certify(executor, client, name, f"killed by signal {ended.si_status}")
        if sys.stdin.fileno() in able:
            lines = os.read(sys.stdin.fileno(), 65536).decode().splitlines()
            if not lines:
                return
            for line in lines:
                name = line.split()[1]
                pid = os.fork()
                if not pid:
                    die_with_parent()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    anyio.run(work, url, name, json.loads(settings))
                    os._exit(0)
                ids[pid] = name


if __name__ == "__main__":
    main(*sys.argv[1:])
