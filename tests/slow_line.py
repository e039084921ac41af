"""A line to Redis that carries so many bytes a second, shared by all its connections, and takes its time for each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

SMALL_BUFFER = 4096


class _Direction:
    """Bytes of all connections one after the other, as a line carries them."""

    def __init__(self, line: SlowLine) -> None:
        self._line = line
        self._free = 0.0
        self.carried = 0

    async def carry(self, count: int) -> None:
        self.carried += count
        if self._line.rate:
            self._free = max(self._free, time.monotonic()) + count / self._line.rate
            ahead = self._free - time.monotonic()
            if ahead > 0.001:
                await asyncio.sleep(ahead)


class SlowLine:
    """Listens on loopback and passes everything on to a server's unix socket.

    Args:
        target: the server's socket.
        rate: bytes a second in each direction; 0 for no limit. May be changed at any time.
        delay: seconds that bytes travel, each way.
        gulp: bytes that it takes from a connection before it passes them on. A small gulp is a plain line: who sends sees his
            bytes go. A large one is a proxy that swallows a whole request at once.

    Attributes:
        up, down: count the bytes ``carried`` to the server, and from it.
        stuck: while it is true nothing is carried, and connections stay open.
    """

    def __init__(self, target: str, *, rate: float = 0, delay: float = 0.0, gulp: int = 1448) -> None:
        self._target = target
        self.rate, self._delay, self._gulp = rate, delay, gulp
        self.up, self.down = _Direction(self), _Direction(self)
        self.connections = 0
        self.stuck = False
        self._sockets: set[socket.socket] = set()
        self._listener = socket.socket()
        if gulp <= SMALL_BUFFER:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        accepting = asyncio.create_task(self._accept())
        await self._ended.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(accepting, *tasks, return_exceptions=True)

    async def _accept(self) -> None:
        tasks = set()
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.create_task(self._connect(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _connect(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        ends = (client, server)
        for end in ends:
            end.setblocking(False)
            self._sockets.add(end)
        self.connections += 1
        try:
            await self._loop.sock_connect(server, self._target)
            pumps = [
                asyncio.create_task(self._pump(client, server, self.up)),
                asyncio.create_task(self._pump(server, client, self.down)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            self.connections -= 1
            for end in ends:
                self._sockets.discard(end)
                end.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, direction: _Direction) -> None:
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                at, data = await travelling.get()
                if not data:
                    return
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                await self._loop.sock_sendall(sink, data)

        async def leave() -> None:
            while True:
                data = await self._loop.sock_recv(source, self._gulp)
                while self.stuck:
                    await asyncio.sleep(0.005)
                await direction.carry(len(data))
                travelling.put_nowait((time.monotonic() + self._delay, data))
                if not data:
                    return

        with contextlib.suppress(OSError):
            await asyncio.gather(arrive(), leave())

    def _now(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def reset(self) -> None:
        """Resets (RST) every connection to a client."""

        def run() -> None:
            for sock in list(self._sockets):
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._loop.remove_reader(sock)
                    self._loop.remove_writer(sock)
                    sock.close()
                else:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)

        self._now(run)

    def close(self) -> None:
        """Ends all connections."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._listener.close()
        self._loop.close()
