"""A primary with a replica under a Sentinel, and a Cluster of three: real servers on loopback, for one test each."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from coordinator.embedded import find_server
from tests.waiting import wait_until


def free_port(*, below: int = 65536) -> int:
    """A port that is free now; below 55536 for cluster nodes, whose bus takes the port plus 10000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < below:
            return port


class Node:
    """A server on a TCP port of loopback."""

    def __init__(self, folder: Path, port: int, *options: str, mode: tuple[str, ...] = ()) -> None:
        self.port = port
        self.folder = folder / str(port)
        self.folder.mkdir()
        config = self.folder / "node.conf"
        config.write_text("\n".join(options))
        self._process = subprocess.Popen(
            [find_server(), str(config), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), *mode],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, description=f"the server on port {port} answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    @property
    def client(self) -> Any:
        """A new client."""
        return redis.Redis(port=self.port, protocol=2, socket_timeout=2)

    def close(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def sentinel() -> Iterator[tuple[str, Node, Node]]:
    """URL, primary and replica; one Sentinel that fails over half a second after the primary is gone."""
    folder, nodes = Path(tempfile.mkdtemp(prefix="rc-sentinel-")), []
    try:
        plain = ('save ""',)
        primary = Node(folder, free_port(), *plain)
        nodes.append(primary)
        replica = Node(folder, free_port(), *plain, f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0")
        nodes.append(replica)
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", 20, "the replica follows")
        watcher = Node(
            folder,
            free_port(),
            f"sentinel monitor calls 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds calls 500",
            "sentinel failover-timeout calls 3000",
            mode=("--sentinel",),
        )
        nodes.append(watcher)
        wait_until(lambda: watcher.client.sentinel_slaves("calls"), 20, "the sentinel knows the replica")
        yield f"redis+sentinel://127.0.0.1:{watcher.port}/calls/0", primary, replica
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster() -> Iterator[tuple[str, list[Node]]]:
    """URL and three primaries that share all slots."""
    folder, nodes = Path(tempfile.mkdtemp(prefix="rc-cluster-")), []
    try:
        for _ in range(3):
            options = ('save ""', "cluster-enabled yes", "cluster-node-timeout 2000")
            nodes.append(Node(folder, free_port(below=55536), *options))
        for n, node in enumerate(nodes):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            node.client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in nodes[1:]:
            nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)

        def well() -> bool:
            said = [node.client.execute_command("CLUSTER", "INFO") for node in nodes]
            return all("cluster_state:ok" in str(text) and "known_nodes:3" in str(text) for text in said) or all(
                isinstance(info, dict) and info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"
                for info in said
            )

        wait_until(well, 30, "the cluster is well")
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), nodes
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)
