"""A Sentinel that says what a test wants: in real ones, disagreement and silence cannot be had at will."""

from __future__ import annotations

import socketserver
import threading
from typing import Any

__all__ = ["FakeSentinel", "read_command"]


class FakeSentinel:
    """Listens on a port of loopback until it is closed.

    Attributes:
        address: of the primary that it names, as host and port; None when it knows none.
        epoch: of its configuration.
        replicas: rows of fields.
        refused: names of what it does not permit, of ``MASTER``, ``REPLICAS``.
        silent: it takes everything and answers nothing.
        asked: how often it was asked for the address.
    """

    def __init__(self, address: tuple[str, int] | None, epoch: int = 1) -> None:
        self.address, self.epoch = address, epoch
        self.replicas: list[dict[str, str]] = []
        self.refused: set[str] = set()
        self.silent = False
        self.asked = 0
        sentinel = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while (words := read_command(self.rfile)) is not None:
                    if not sentinel.silent:
                        self.wfile.write(sentinel._answer([word.upper() for word in words]))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, words: list[str]) -> bytes:
        name = words[1] if words[0] == "SENTINEL" else words[0]
        if name in self.refused:
            return b"-NOPERM this user has no permissions to run the command\r\n"
        if name == "GET-MASTER-ADDR-BY-NAME":
            self.asked += 1
            return b"*-1\r\n" if self.address is None else _array([self.address[0], str(self.address[1])])
        if name == "MASTER":
            return _array(["config-epoch", str(self.epoch)])
        if name == "REPLICAS":
            rows = [[word for pair in row.items() for word in pair] for row in self.replicas]
            return b"*%d\r\n" % len(rows) + b"".join(map(_array, rows))
        return b"+OK\r\n"

    def close(self) -> None:
        """Listens no longer."""
        self._server.shutdown()
        self._server.server_close()


def _array(words: list[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


def read_command(rfile: Any) -> list[str] | None:
    head = rfile.readline()
    if not head.startswith(b"*"):
        return None
    words = []
    for _ in range(int(head[1:])):
        size = int(rfile.readline()[1:])
        words.append(rfile.read(size + 2)[:-2].decode())
    return words
