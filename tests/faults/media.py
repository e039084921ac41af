"""Where the media of all calls arrives: a UDP port, with the time at which the kernel got each datagram."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Heard", "MediaListener", "Tick", "listen"]

SO_TIMESTAMPNS = 35
BUFFER_BYTES = 8 * 2**20

Tick = tuple[float, int]
"""When a tick arrived, in seconds, and the epoch of whoever sent it."""


@dataclass(frozen=True)
class Heard:
    """What the callers heard.

    Attributes:
        at_moves: milliseconds between the last tick of an owner and the first of the next one, of every move.
        longest: milliseconds of the longest silence of each call, whatever the reason.
        broken: ticks of an older epoch that arrived after a newer one's, in words.
    """

    at_moves: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def listen(ticks: dict[str, list[Tick]]) -> Heard:
    """What the ticks of each call, in the order of their arrival, amount to."""
    heard = Heard()
    for call, arrived in ticks.items():
        heard.longest.append(0.0)
        newest, before = arrived[0][1], arrived[0][0]
        for at, epoch in arrived[1:]:
            silence = (at - before) * 1000
            heard.longest[-1] = max(heard.longest[-1], silence)
            if epoch > newest:
                heard.at_moves.append(silence)
                newest = epoch
            elif epoch < newest:
                heard.broken.append(f"G1: {call} was heard with epoch {epoch} after {newest}")
            before = at
    return heard


class MediaListener:
    """A port of its own on loopback; a thread keeps what arrives until `close`.

    Attributes:
        ticks: of each call, in the order of their arrival; from `close` on.
    """

    def __init__(self) -> None:
        self.ticks: dict[str, list[Tick]] = defaultdict(list)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind(("127.0.0.1", 0))
        self._arrived: list[tuple[float, bytes]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where to send to."""
        return int(self._socket.getsockname()[1])

    @property
    def count(self) -> int:
        """How many datagrams have arrived."""
        return len(self._arrived)

    def _run(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, 64)
            if data == b"over":
                return
            self._arrived.append((_stamp(ancillary), data))

    def close(self) -> Heard:
        """Hears no more."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"over", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()
        for at, data in self._arrived:
            for line in data.decode().splitlines():
                call, _, epoch = line.partition(" ")
                self.ticks[call].append((at, int(epoch)))
        return listen(self.ticks)


def _stamp(ancillary: Sequence[tuple[int, int, bytes]]) -> float:
    [(_, _, raw)] = ancillary
    seconds, nanoseconds = map(int, struct.unpack("qq", raw[:16]))
    return seconds + nanoseconds / 1e9
