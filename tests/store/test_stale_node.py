"""A node of a Cluster that does not know who has replaced whom: cut off from the rest, and first in the URL."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from coordinator.errors import StoreUnavailableError
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from tests.deployments import cluster, free_port
from tests.store.fake_sentinel import read_command
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)


@contextmanager
def stale_node(named: int) -> Iterator[int]:
    """Says that all slots are at a port of loopback; its own port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (words := read_command(self.rfile)) is not None:
                slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % named
                self.wfile.write(slots if words[0].upper() == "CLUSTER" else b"+OK\r\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port: int = server.server_address[1]
        yield port
        server.shutdown()


async def test_another_node_is_asked_next_time() -> None:
    """What it names is gone: the loop's connection and the thread's both get to the server that has the slot."""
    with cluster() as (url, _), stale_node(free_port()) as port:
        connector = Connector(url.replace("://", f"://127.0.0.1:{port},"), store_timeout=0.5)
        try:
            executor, heart = connector.executor(KEYS.tag), connector.heart(KEYS.tag)
            death = calls.certify(KEYS, instance="w~1", cause="exited", by="test", reason="")

            async def loop_answers() -> bool:
                with contextlib.suppress(StoreUnavailableError):
                    return bool(await executor.run(death))
                return False

            def thread_answers() -> bool:
                with contextlib.suppress(StoreUnavailableError):
                    return bool(heart.run(death))
                return False

            await eventually(loop_answers, 20)
            await anyio.to_thread.run_sync(wait_until, thread_answers, 20)
            heart.close()
        finally:
            await connector.aclose()
