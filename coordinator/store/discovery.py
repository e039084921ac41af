"""Which server the connections of a partition go to, found alike for the event loop and for a thread.

Without input and output: a search says what is to be asked, and is told the answer or the error. Its caller has the connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address, slot_owner
from coordinator.store.faults import connection_error, store_error
from coordinator.store.url_source import UrlSource

__all__ = ["AskNode", "AskSentinels", "Search", "learnt_server", "run_id_of"]


@dataclass(frozen=True, slots=True)
class AskSentinels:
    """The lookout is to be asked where the primary is; its answer is an `Address`."""


@dataclass(frozen=True, slots=True)
class AskNode:
    """A node of the Cluster is to be asked for ``CLUSTER SLOTS``."""

    node: Address


class Search:
    """Finds the server that holds a key, as long as there is something to ask.

    Args:
        source: the store's URL, read again now. Of a Cluster it says whom to ask, each time another node first.
        key: any key of the partition.

    Attributes:
        url: the URL that this search goes by.
        question: what is to be asked next; None when the server is found.

    Raises:
        StoreUnavailableError: `answered` and `failed` raise it when no Sentinel or node could tell.
    """

    def __init__(self, source: UrlSource, key: str) -> None:
        self.url, self._key = source.now(), key
        self._found: Address | None = None
        self._asked: list[str] = []
        self._nodes = iter(source.nodes() if self.url.kind == "cluster" else ())
        self.question: AskSentinels | AskNode | None = None
        match self.url.kind:
            case "standalone":
                self._found = self.url.addresses[0]
            case "sentinel":
                self.question = AskSentinels()
            case "cluster":
                self._ask_next()

    @property
    def address(self) -> Address:
        """The server, once there is nothing more to ask."""
        assert self._found is not None  # noqa: S101 - there was no more question
        return self._found

    def answered(self, answer: Any) -> None:
        """Takes what was said to the question: an `Address`, or the rows of ``CLUSTER SLOTS``."""
        if isinstance(self.question, AskSentinels):
            self._found, self.question = answer, None
            return
        assert self.question is not None  # noqa: S101 - it was asked
        try:
            found = slot_owner(answer, self._key, self.question.node)
        except Exception as error:  # noqa: BLE001 - a node that answers nonsense is one that does not know
            self.failed(error)
            return
        if found is None:
            self._asked.append(f"{self.question.node} does not know")
            self._ask_next()
        else:
            self._found, self.question = found, None

    def failed(self, error: Exception) -> None:
        """The question has no answer: the next node is asked. An error of the Sentinels is the search's."""
        if not isinstance(self.question, AskNode):
            raise error
        self._asked.append(f"{self.question.node}: {connection_error(error)}")
        self._ask_next()

    def _ask_next(self) -> None:
        node = next(self._nodes, None)
        if node is None:
            raise StoreUnavailableError("cluster_down", "; ".join(self._asked), sent=False)
        self.question = AskNode(node)


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
