"""The far end of a call over RTP: a UDP port that keeps each packet with where it came from."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass

__all__ = ["FarEnd", "Packet"]

BYE = 203


@dataclass(frozen=True)
class Packet:
    """One that arrived.

    Attributes:
        port: of its sender.
        begins: its marker.
    """

    port: int
    begins: bool
    sequence: int
    timestamp: int
    ssrc: int


class FarEnd:
    """On loopback; a thread reads until `close`.

    Attributes:
        byes: ports from which an RTCP BYE came.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._packets: list[Packet] = []
        self.byes: list[int] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def packets(self) -> list[Packet]:
        """In the order of their arrival."""
        return list(self._packets)

    @property
    def senders(self) -> list[int]:
        """Their ports, in the order of their first packets."""
        return list(dict.fromkeys(packet.port for packet in self.packets))

    def of(self, sender: int) -> list[Packet]:
        """The packets of one sender, by its place among `senders`."""
        senders = self.senders
        return [packet for packet in self.packets if len(senders) > sender and packet.port == senders[sender]]

    def hang_up(self) -> None:
        """Says BYE to whoever sent last."""
        last = self.packets[-1]
        self._socket.sendto(struct.pack("!BBHI", 0x81, BYE, 1, 1), ("127.0.0.1", last.port))

    def _read(self) -> None:
        while data := self._read_one():
            payload, (_, port) = data
            if not payload:
                return
            if payload[1] == BYE:
                self.byes.append(port)
            else:
                _, kind, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", payload)
                self._packets.append(Packet(port, bool(kind & 0x80), sequence, timestamp, ssrc))

    def _read_one(self) -> tuple[bytes, tuple[str, int]]:
        return self._socket.recvfrom(2048)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()
