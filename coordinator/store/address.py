"""Where the server of a partition is: an address, and how it is found in the answer of a Cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.crc import key_slot

__all__ = ["Address", "slot_owner"]


UNKNOWN = ("", "?")
"""What a node writes in place of a host that it does not know, or that clients must know themselves."""


@dataclass(frozen=True, slots=True)
class Address:
    """One server: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def slot_owner(slots: list[list[Any]], key: str, asked: Address) -> Address | None:
    """The primary that holds a key, from the answer of CLUSTER SLOTS; None when no node does.

    Args:
        slots: rows of first slot, last slot, primary, replicas.
        key: any key with the hash tag of the partition.
        asked: the node that answered. It leaves its own host out when it does not know it.
    """
    slot = key_slot(key.encode())
    for first, last, primary, *_ in slots:
        if first <= slot <= last:
            host = (primary[0] or b"").decode()
            return Address(asked.host if host in UNKNOWN else host, int(primary[1]))
    return None
