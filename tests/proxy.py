"""A way to Redis that a test can cut: bytes stop in both directions, connections stay open, nothing is answered."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import selectors
import socket
import tempfile
import threading
import time
from pathlib import Path


class Proxy:
    """Passes a unix socket of its own on to a server's unix socket.

    ``cut`` and ``mend`` are a network that drops packets. ``lose_reply_to`` lets one request through, and closes its
    connection instead of passing on the answer; ``lose`` does not let it through. Either may be the last before the network is
    cut. ``forget_listeners`` is something in between that forgets connections.

    Args:
        target: the server's socket; or its port on loopback: then this is on a port of loopback, too.
        delay: seconds that bytes travel, each way.
        jitter: seconds by which that varies, up and down.
        reset: share of answers that end their connection instead.
        idle: seconds after which a connection without a byte carries nothing more; nobody is told.

    Attributes:
        deaf: from now on, whoever subscribes hears nothing on that connection.
        calm: no connection ends by itself, as long as it is true.
    """

    def __init__(
        self,
        target: str | int,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        reset: float = 0.0,
        idle: float = 0.0,
    ) -> None:
        self._target, self._idle = target, idle
        self._delay, self._jitter, self._reset = delay, jitter, reset
        self.calm = False
        self._travelling: list[tuple[float, int, socket.socket, bytes]] = []
        self._order = itertools.count()
        self._last: dict[socket.socket, float] = {}
        self._chance = random.Random(1)
        self._directory = tempfile.TemporaryDirectory(prefix="rc-proxy-")
        self.path = str(Path(self._directory.name) / "proxy.sock")
        self.lost_replies = 0
        self._open = threading.Event()
        self._open.set()
        self._ended = False
        self._marks: list[bytes] = []
        self._lost: list[bytes] = []
        self._then_cut = False
        self._doomed: set[socket.socket] = set()
        self.deaf = False
        self._listeners: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._forget: list[bool] = []
        self._peer: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        if isinstance(target, str):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.path)
            self.url = f"unix://{self.path}"
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._listener.listen(128)
        self._moves: list[str | int] = []
        self._heard: dict[socket.socket, float] = {}
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._open.clear()

    def mend(self) -> None:
        """What waited gets through, and what comes."""
        self._open.set()

    def lose_reply_to(self, mark: bytes, *, then_cut: bool = False) -> None:
        """The next request that contains ``mark`` is executed; its answer is lost."""
        self._then_cut = then_cut
        self._marks.append(mark)

    def lose(self, mark: bytes, *, then_cut: bool = False) -> None:
        """The next request that contains ``mark`` is lost."""
        self._then_cut = then_cut
        self._lost.append(mark)

    def forget_listeners(self, *, server_told: bool) -> None:
        """The connections on which somebody subscribed carry nothing more, and their clients see nothing of it.

        Args:
            server_told: the server sees their end.
        """
        self._forget.append(server_told)

    def lead_to(self, target: str | int) -> None:
        """From now on to another server; all connections end."""
        self._moves.append(target)

    def close(self) -> None:
        """Ends all connections."""
        self._ended = True
        self._open.set()
        self._thread.join()
        for sock in (*self._peer, self._listener):
            sock.close()
        self._directory.cleanup()

    def _run(self) -> None:
        while not self._ended:
            due = self._travelling[0][0] - time.monotonic() if self._travelling else 0.02
            ready = self._selector.select(max(0.0, min(0.02, due)))
            self._open.wait()
            self._arrive()
            while self._forget:
                self._forget_now(server_told=self._forget.pop())
            while self._moves:
                self._target = self._moves.pop(0)
                for client in [*self._clients]:
                    self._drop(client)
            self._forget_idle()
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peer:
                    self._pass(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
        try:
            server.connect(self._target if isinstance(self._target, str) else ("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._peer[client], self._peer[server] = server, client
        self._clients.add(client)
        self._heard[client] = time.monotonic()
        for sock in (client, server):
            self._selector.register(sock, selectors.EVENT_READ)

    def _forget_now(self, *, server_told: bool) -> None:
        for client in self._listeners - self._forgotten:
            self._forgotten |= {client, self._peer[client]}
            if server_told:
                self._peer[client].shutdown(socket.SHUT_RDWR)

    def _forget_idle(self) -> None:
        if not self._idle:
            return
        for client, heard in self._heard.items():
            if time.monotonic() - heard > self._idle:
                self._forgotten |= {client, self._peer[client]}

    def _pass(self, sock: socket.socket) -> None:  # noqa: C901, PLR0912 - each branch is a way to break
        peer = self._peer[sock]
        for end in (sock, peer):
            if end in self._heard:
                self._heard[end] = time.monotonic()
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if sock in self._clients and b"$9\r\nSUBSCRIBE\r\n" in data:
            self._listeners.add(sock)
            if self.deaf:
                self._forgotten.add(peer)
        if sock in self._forgotten:
            if not data and sock in self._clients:
                self._drop(sock)
            elif not data:
                self._selector.unregister(sock)
            return
        if not data or sock in self._doomed:
            self.lost_replies += bool(data)
            self._drop(sock)
            if data and self._then_cut:
                self.cut()
            return
        if sock in self._clients:
            for mark in [m for m in self._lost if m in data]:
                self._lost.remove(mark)
                self._drop(sock)
                if self._then_cut:
                    self.cut()
                return
            for mark in [m for m in self._marks if m in data]:
                self._marks.remove(mark)
                self._doomed.add(peer)
        elif self._reset and not self.calm and self._chance.random() < self._reset:
            self._drop(sock)
            return
        if self._delay:
            late = self._delay + self._chance.uniform(-self._jitter, self._jitter)
            at = max(time.monotonic() + late, self._last.get(peer, 0.0))  # bytes do not overtake each other
            self._last[peer] = at
            heapq.heappush(self._travelling, (at, next(self._order), peer, data))
        else:
            self._send(peer, data)

    def _arrive(self) -> None:
        while self._travelling and self._travelling[0][0] <= time.monotonic():
            _, _, sock, data = heapq.heappop(self._travelling)
            if sock in self._peer:
                self._send(sock, data)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.sendall(data)
        except OSError:
            self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        for end in (sock, self._peer[sock]):
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            self._peer.pop(end, None)
            self._last.pop(end, None)
            self._heard.pop(end, None)
            self._clients.discard(end)
            self._doomed.discard(end)
            self._listeners.discard(end)
            self._forgotten.discard(end)
            end.close()
