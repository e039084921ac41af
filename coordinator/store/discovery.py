"""Which server the connections of a partition go to, found alike for the event loop and for a thread.

Pure: a generator that yields what is to be asked and is sent the answer, or thrown the error. Its caller has the connections.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import redis

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address, slot_owner
from coordinator.store.faults import connection_error, store_error
from coordinator.store.url import StoreUrl
from coordinator.store.url_source import UrlSource

__all__ = ["AskNode", "AskSentinels", "Finding", "learnt_server", "run_id_of", "server_of"]


@dataclass(frozen=True, slots=True)
class AskSentinels:
    """The lookout is to be asked where the primary is; its answer is an `Address`."""


@dataclass(frozen=True, slots=True)
class AskNode:
    """A node of the Cluster is to be asked for ``CLUSTER SLOTS``."""

    node: Address


Finding = Generator[AskSentinels | AskNode, Any, Address]
"""Yields what is to be asked, is sent the answer, and returns the server's address."""


def server_of(url: StoreUrl, source: UrlSource, key: str) -> Finding:
    """Finds the server that holds a key.

    Args:
        url: what ``source`` says now.
        source: names the nodes of a Cluster to ask, each time another one first.
        key: any key of the partition.

    Raises:
        StoreUnavailableError: no Sentinel or node could tell.
    """
    if url.kind == "standalone":
        return url.addresses[0]
    if url.kind == "sentinel":
        address: Address = yield AskSentinels()
        return address
    asked: list[str] = []
    for node in source.nodes():
        try:
            slots = yield AskNode(node)
            found = slot_owner(slots, key, node)
        except Exception as error:  # noqa: BLE001 - a node that answers nonsense does not know
            asked.append(f"{node}: {connection_error(error)}")
            continue
        if found:
            return found
        asked.append(f"{node} does not know")
    raise StoreUnavailableError("cluster_down", "; ".join(asked), sent=False)


def run_id_of(info: Any, expected: bool = False) -> bytes:
    """The run id in the answer of INFO server; empty when the server does not tell it.

    Args:
        expected: another connection of this program has learnt it: a program that could see lost writes goes on only with it.

    Raises:
        StoreUnavailableError: the server refused, and told it before: the right was taken away.
    """
    if expected and isinstance(info, redis.ResponseError):
        fault = store_error(info)
        raise fault if isinstance(fault, StoreUnavailableError) else StoreUnavailableError("other", str(fault))
    for line in info.split(b"\r\n") if isinstance(info, bytes) else ():
        if line.startswith(b"run_id:"):
            return bytes(line[7:])
    return b""


def learnt_server(info: Any, source: UrlSource) -> bytes:
    """The run id in the answer of INFO server to a new connection. Once a connection has learnt it, each later one needs it.

    Raises:
        StoreUnavailableError: as `run_id_of`.
    """
    server = run_id_of(info, source.tells_server)
    source.tells_server |= bool(server)
    return server
