"""Where a deployment's store lives: one server, a primary with replicas under Sentinels, or a Cluster of three shards.

Each knows which server is the primary now, as its own members say, and not as the programs under test believe.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import redis

from coordinator.store.keys import Keys
from tests.deployments import Node, free_port
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.redis_users import as_user
from tests.waiting import wait_until

__all__ = ["Alone", "ClusterPlace", "ManagedPlace", "OneServer", "Place", "Replicated", "SentinelPlace", "keys_of"]

APPEND = ("appendonly yes", "appendfsync always", 'save ""', "repl-diskless-sync-delay 0", "repl-diskless-sync yes")
"""Whoever is killed comes back with its data."""
LOOK_AGAIN_SECONDS = 0.25
SLOTS = 16384


def keys_of(partition: int) -> Keys:
    """The keys of a partition."""
    return Keys("recovery", partition)


class Place(Protocol):
    """What a deployment asks.

    Attributes:
        partitions: into which the store is divided.
        settings: of the programs that use it.
    """

    partitions: int
    settings: ClassVar[dict[str, Any]]

    def url(self, program: str) -> str:
        """By which a program reaches it: ``worker`` or ``coordinator``."""

    def client(self, partition: int) -> Any:
        """A client of the server that holds a partition now; `redis.RedisError` while there is none."""

    def close(self) -> None:
        """Ends all servers."""


class OneServer:
    """A server on a unix socket."""

    partitions = 1
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client = redis.Redis(unix_socket_path=server.path, protocol=2, socket_timeout=30)

    def url(self, program: str) -> str:
        """The same for all, as nobody in particular."""
        return self._server.url

    def client(self, partition: int) -> Any:
        """Always the same."""
        return self._client

    def close(self) -> None:
        """Ends it."""
        self._client.close()
        self._server.close()


class _Nodes(ABC):
    """Servers with TCP ports in a folder of their own, each with one client."""

    partitions = 1
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rc-place-"))
        self.nodes: list[Node] = []
        self._clients: dict[Node, Any] = {}
        self._found: dict[int, tuple[float, Node]] = {}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _start(self) -> None:
        """Begins all servers."""

    @abstractmethod
    def _named(self, partition: int) -> Node | None:
        """Which server the members say is the primary."""

    def ask(self, node: Node) -> Any:
        """Its client."""
        if node not in self._clients:
            self._clients[node] = node.client
        return self._clients[node]

    def primary(self, partition: int = 0) -> Node:
        """The server that holds a partition now.

        Raises:
            redis.ConnectionError: there is none that answers.
        """
        at, node = self._found.get(partition, (0.0, None))
        if node is None or time.monotonic() - at > LOOK_AGAIN_SECONDS:
            node = self._named(partition)
            if node is None or not node.answers:
                self._found.pop(partition, None)
                raise redis.ConnectionError(f"there is no primary of partition {partition} now")
            self._found[partition] = time.monotonic(), node
        return node

    def knows(self, command: str) -> bool:
        """Whether the servers have a command, written as ``CONTAINER|PART``."""
        try:
            return bool(self.ask(self.nodes[0]).execute_command("COMMAND", "INFO", command))
        except (redis.RedisError, TypeError):  # the latter is how redis-py reads that there is none
            return False

    def is_primary(self, node: Node) -> bool:
        """Whether a server takes itself for one."""
        return node.answers and bool(self.ask(node).role()[0] == b"master")

    def client(self, partition: int) -> Any:
        """Of its primary."""
        return self.ask(self.primary(partition))

    def at(self, port: int) -> Node | None:
        """The server with that port."""
        return next((node for node in self.nodes if node.port == port), None)

    def close(self) -> None:
        """Kills them all."""
        for client in self._clients.values():
            client.close()
        for node in self.nodes:
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Alone(_Nodes):
    """One server that keeps its data when it is restarted."""

    def _start(self) -> None:
        self.nodes.append(Node(self.folder, free_port(), *APPEND))

    def _named(self, partition: int) -> Node | None:
        return self.nodes[0]

    def url(self, program: str) -> str:
        """With that program's user."""
        return as_user(f"redis://127.0.0.1:{self.nodes[0].port}/0", program)


class Replicated(_Nodes):
    """Primaries with replicas: what can fail over."""

    def replicas(self, primary: Node) -> list[Node]:
        """Servers that a primary sends its writes to."""
        rows = self.ask(primary).role()[2]
        return [node for row in rows if (node := self.at(int(row[1]))) is not None and node.answers]

    def wait_for_replicas(self, primary: Node, count: int) -> None:
        """So many follow it and have its data."""
        wait_until(
            lambda: sum(self.follows(one) for one in self.replicas(primary)) >= count,
            30,
            f"{count} replicas follow {primary.port}",
        )

    def follows(self, node: Node) -> bool:
        """Whether a server is a replica whose link to its primary is up."""
        try:
            role = self.ask(node).role()
        except redis.RedisError:
            return False
        return bool(role[0] == b"slave" and role[3] == b"connected")

    @abstractmethod
    def fail_over(self, partition: int = 0) -> None:
        """As an operator asks for it; returns as soon as another primary is named."""

    def replaced(self, former: Node, partition: int = 0) -> bool:
        """Whether another primary than this one is named, and takes itself for it."""
        try:
            found = self._named(partition)
            return found is not None and found is not former and self.is_primary(found)
        except redis.RedisError:
            return False


class SentinelPlace(Replicated):
    """A primary with two replicas under three Sentinels, which find a primary down after a second."""

    def _start(self) -> None:
        self.sentinels: list[Node] = []
        primary = Node(self.folder, free_port(), *APPEND)
        self.nodes.append(primary)
        for _ in range(2):
            self.nodes.append(Node(self.folder, free_port(), *APPEND, f"replicaof 127.0.0.1 {primary.port}"))
        self.wait_for_replicas(primary, 2)
        for _ in range(3):
            self.sentinels.append(
                Node(
                    self.folder,
                    free_port(),
                    f"sentinel monitor calls 127.0.0.1 {primary.port} 2",
                    "sentinel down-after-milliseconds calls 1000",
                    "sentinel failover-timeout calls 3000",
                    mode=("--sentinel",),
                )
            )
        wait_until(lambda: all(self._knows_all(one) for one in self.sentinels), 30, "the Sentinels know each other")

    def _knows_all(self, sentinel: Node) -> bool:
        told = self.ask(sentinel).sentinel_masters()["calls"]
        return bool(told["num-slaves"] == 2 and told["num-other-sentinels"] == 2)

    def url(self, program: str) -> str:
        """Names the Sentinels; with that program's user."""
        named = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return as_user(f"redis+sentinel://{named}/calls/0", program)

    def _named(self, partition: int) -> Node | None:
        for sentinel in self.sentinels:
            if sentinel.answers and (told := self.ask(sentinel).sentinel_get_master_addr_by_name("calls")):
                return self.at(int(told[1]))
        return None

    def fail_over(self, partition: int = 0) -> None:
        """``SENTINEL FAILOVER``; asked for again while the last one is not over."""
        former = self.primary()

        def accepted() -> bool:
            try:
                self.ask(self.sentinels[0]).execute_command("SENTINEL", "FAILOVER", "calls")
            except redis.ResponseError:
                return False
            return True

        wait_until(accepted, 30, "the Sentinel begins a failover")
        wait_until(lambda: self.replaced(former), 30, "another primary is named")

    def close(self) -> None:
        """Kills them all."""
        for node in self.sentinels:
            node.close()
        super().close()


class ManagedPlace(Replicated):
    """One endpoint in front of a primary with two replicas, as a provider sells it.

    Whoever is connected when another server takes over loses its connection; one that says nothing for four seconds carries nothing
    more. No program may use INFO or CONFIG. A server that does not answer is replaced after two seconds.
    """

    settings: ClassVar[dict[str, Any]] = {"without_info": True}

    def _start(self) -> None:
        self._target = Node(self.folder, free_port(), *APPEND)
        self.nodes.append(self._target)
        for _ in range(2):
            self.nodes.append(Node(self.folder, free_port(), *APPEND, f"replicaof 127.0.0.1 {self._target.port}"))
        for node in self.nodes:
            for user in ("worker", "coordinator"):
                self.ask(node).execute_command("ACL", "SETUSER", user, "-info", "-config")
            self.ask(node).config_rewrite()  # it has the same users when it is started again
        self.wait_for_replicas(self._target, 2)
        self._endpoint = Proxy(self._target.port, idle=4.0)
        self._ended = threading.Event()
        self._provider = threading.Thread(target=self._provide)
        self._provider.start()

    def url(self, program: str) -> str:
        """Names the endpoint; with that program's user."""
        return as_user(self._endpoint.url, program)

    def _named(self, partition: int) -> Node | None:
        return self._target

    def _provide(self) -> None:
        """Replaces a primary that does not answer, and has whoever is back follow the primary of today."""
        silent_since = None
        while not self._ended.wait(0.1):
            if self._target.answers:
                silent_since = None
            elif silent_since is None:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > 2.0:
                self._replace()
            with contextlib.suppress(redis.RedisError):
                for node in self.nodes:
                    if node is not self._target and self._target.answers and self.is_primary(node):
                        self.ask(node).replicaof("127.0.0.1", self._target.port)

    def _replace(self) -> None:
        def offset(node: Node) -> int:
            return int(self.ask(node).info("replication")["slave_repl_offset"])

        best = max([node for node in self.nodes if node is not self._target and node.answers], key=offset)
        self.ask(best).replicaof("NO", "ONE")
        for node in self.nodes:
            if node is not best and node.answers:
                self.ask(node).replicaof("127.0.0.1", best.port)
        self._target = best
        self._found.clear()
        self._endpoint.lead_to(best.port)

    def fail_over(self, partition: int = 0) -> None:
        """The former primary takes no writes any more, and has none that its successor has not."""
        former = self._target
        self.ask(former).client_pause(1000, all=False)
        wait_until(
            lambda: len({self.ask(node).info("replication")["master_repl_offset"] for node in self.nodes}) == 1, 10
        )
        self._replace()

    def close(self) -> None:
        """Ends all of it."""
        if hasattr(self, "_provider"):
            self._ended.set()
            self._provider.join()
            self._endpoint.close()
        super().close()


class ClusterPlace(Replicated):
    """Three shards of two servers each, which find a primary down after two seconds.

    Args:
        partitions: into which the store is divided.
        coverage: whether a shard that is down stops the others, as by default.
    """

    shards = 3

    def __init__(self, partitions: int, *, coverage: bool = True) -> None:
        self.partitions, self._coverage = partitions, "yes" if coverage else "no"
        super().__init__()

    def _start(self) -> None:
        coverage = f"cluster-require-full-coverage {self._coverage}"
        options = (*APPEND, "cluster-enabled yes", "cluster-node-timeout 2000", coverage)
        for _ in range(2 * self.shards):
            self.nodes.append(Node(self.folder, free_port(below=55536), *options))
        primaries = self.nodes[: self.shards]
        for n, node in enumerate(primaries):
            first, last = n * SLOTS // self.shards, (n + 1) * SLOTS // self.shards - 1
            self.ask(node).execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            self.ask(node).execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            self.ask(self.nodes[0]).execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_until(lambda: all(len(self._table(node)) == len(self.nodes) for node in self.nodes), 30, "all have met")
        for primary, replica in zip(primaries, self.nodes[self.shards :], strict=True):
            self.ask(replica).execute_command("CLUSTER", "REPLICATE", self._id(primary))
        for primary in primaries:
            self.wait_for_replicas(primary, 1)
        wait_until(self.is_well, 30, "the cluster is well")

    def _table(self, node: Node) -> list[list[str]]:
        told = self.ask(node).execute_command("CLUSTER NODES")
        if isinstance(told, dict):  # as the client parses it
            return [
                [
                    row["node_id"],
                    at,
                    row["flags"],
                    row["master_id"],
                    row["epoch"],
                    *(f"{a}-{b}" for a, b in _ranges(row)),
                ]
                for at, row in told.items()
            ]
        return [line.split() for line in told.decode().splitlines()]

    def _id(self, node: Node) -> str:
        return next(row[0] for row in self._table(node) if "myself" in row[2])

    def is_well(self) -> bool:
        """Every server says that all slots are served, and that it knows every replica."""
        for node in self.nodes:
            if not node.answers or sum("slave" in row[2] for row in self._table(node)) != self.shards:
                return False
            told = self.ask(node).execute_command("CLUSTER INFO")
            if (told["cluster_state"] if isinstance(told, dict) else "ok" * (b"cluster_state:ok" in told)) != "ok":
                return False
        return True

    def url(self, program: str) -> str:
        """Names three of the servers; with that program's user."""
        named = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[: self.shards])
        return as_user(f"redis+cluster://{named}", program)

    def slot(self, partition: int) -> int:
        """In which a partition lies."""
        return int(redis.crc.key_slot(keys_of(partition).tag.encode()))

    def _named(self, partition: int) -> Node | None:
        """Whoever has the slot by the newest configuration, of those that say so of themselves."""
        slot, best, newest = self.slot(partition), None, -1
        for node in self.nodes:
            if not node.answers:
                continue
            try:
                [mine] = [row for row in self._table(node) if "myself" in row[2]]
            except redis.RedisError:
                continue
            epoch = int(mine[4])
            if "master" in mine[2] and epoch > newest and any(_has(part, slot) for part in mine[5:]):
                best, newest = node, epoch
        return best

    def primaries(self) -> list[Node]:
        """In the order in which they share the slots at first; who replaced one stands in its place."""
        return [self._owner(n * SLOTS // self.shards) for n in range(self.shards)]

    def _owner(self, slot: int) -> Node:
        found = [
            node
            for node in self.nodes
            if node.answers
            for row in self._table(node)
            if "myself" in row[2] and "master" in row[2] and any(_has(part, slot) for part in row[5:])
        ]
        return found[0]

    def fail_over(self, partition: int = 0) -> None:
        """``CLUSTER FAILOVER`` at a replica."""
        former = self.primary(partition)
        replica = self.replicas(former)[0]
        self.ask(replica).execute_command("CLUSTER", "FAILOVER")
        wait_until(lambda: self.replaced(former, partition), 30, "the replica is the primary")


def _ranges(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(part[0], part[-1]) for part in row["slots"]]


def _has(part: str, slot: int) -> bool:
    """Whether a word of ``CLUSTER NODES`` names a slot; those on their way are in brackets."""
    if part.startswith("["):
        return False
    first, _, last = part.partition("-")
    return int(first) <= slot <= int(last or first)


@contextmanager
def placed(make: Callable[[], Place]) -> Iterator[Place]:
    """A place, until the end of the block."""
    made = make()
    try:
        yield made
    finally:
        made.close()
