"""A primary with a replica under a Sentinel, and a Cluster of three: real servers on loopback, for one test each.

They know the users that ``doctor --acl`` prints.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.certificates import Authority
from tests.redis_server import server_path
from tests.redis_users import config_lines
from tests.waiting import wait_until

PARTITIONS = 6
"""Of which the users may use the keys."""


def free_port(*, below: int = 65536) -> int:
    """A port that is free now; below 55536 for cluster nodes, whose bus takes the port plus 10000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < below:
            return port


@functools.cache
def tls_server() -> str:
    """Path of a redis-server on the PATH that was built with TLS; without one the test skips."""
    for folder in os.get_exec_path():
        path = str(Path(folder) / "redis-server")
        if not os.access(path, os.X_OK):
            continue
        command = [path, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/none"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.read()  # either way it cannot start
        if "Bad directive" not in said:
            return path
    pytest.skip("there is no redis-server with TLS")


SENTINEL_RIGHTS = "-@all +sentinel|get-master-addr-by-name +sentinel|master +sentinel|replicas"
"""What a Sentinel's user needs, as the documents say."""


@dataclass(frozen=True)
class Secured:
    """How servers of a deployment are spoken to: by TLS alone, each with a certificate of 127.0.0.1, and with a password."""

    authority: Authority
    certificate: Path
    key: Path
    password: str = "of-the-servers"
    sentinel_user: str = "watcher"
    sentinel_password: str = "of-the-sentinels"

    @classmethod
    def by(cls, authority: Authority) -> Secured:
        """With certificates of an authority."""
        return cls(authority, *authority.issue("server", "127.0.0.1", "localhost"))

    @property
    def files(self) -> tuple[str, ...]:
        """What a server's configuration says of TLS."""
        return (
            f"tls-cert-file {self.certificate}", f"tls-key-file {self.key}", f"tls-ca-cert-file {self.authority.ca}",
            "tls-auth-clients no", "tls-replication yes", "tls-cluster yes",
        )  # fmt: skip

    @property
    def login(self) -> tuple[str, ...]:
        """What a server's configuration says of passwords."""
        return (f"requirepass {self.password}", f"masterauth {self.password}")


class Node:
    """A server on a TCP port of loopback: in clear, or secured."""

    def __init__(
        self, folder: Path, port: int, *options: str, mode: tuple[str, ...] = (), secured: Secured | None = None
    ) -> None:
        self.port, self._secured, self._is_sentinel = port, secured, bool(mode)
        listen = ["--port", str(port)]
        if not mode:
            options = (*options, *config_lines(PARTITIONS))
        if secured is not None:
            login = () if mode else secured.login
            options, listen = (*secured.files, *login, *options), ["--port", "0", "--tls-port", str(port)]
        self.folder = folder / str(port)
        self.folder.mkdir()
        config = self.folder / "node.conf"
        config.write_text("\n".join(options))
        program = tls_server() if secured else server_path()
        self._command = [program, str(config), *listen, "--bind", "127.0.0.1", "--dir", str(self.folder), *mode]
        self.stands_still = False
        self.start()

    def start(self) -> None:
        """Starts it, at first or again, with the files and the configuration that it has by now."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        try:
            wait_until(self._answers, description=f"the server on port {self.port} answers")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    @property
    def answers(self) -> bool:
        """Whether it runs, and does not stand still."""
        return self._process.poll() is None and not self.stands_still

    @property
    def client(self) -> Any:
        """A new client."""
        login: dict[str, Any] = {}
        if (s := self._secured) is not None:
            login = {
                "ssl": True, "host": "127.0.0.1", "password": s.password, "ssl_ca_certs": str(s.authority.ca),
                "ssl_certfile": str(s.certificate), "ssl_keyfile": str(s.key), "ssl_check_hostname": False,
                "ssl_exclude_verify_flags": [ssl.VERIFY_X509_STRICT],
            }  # fmt: skip
            if self._is_sentinel:
                login |= {"username": s.sentinel_user, "password": s.sentinel_password}
        return redis.Redis(port=self.port, protocol=2, socket_timeout=2, **login)

    def pause(self) -> None:
        """It stands still, until `resume`."""
        self.stands_still = True
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self._process.send_signal(signal.SIGCONT)
        self.stands_still = False

    def close(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()
        self.stands_still = False


def confirms_a_write(primary: Node) -> bool:
    """Whether a replica has what was written just now; before anything was written a server counts one that still loads, too."""
    with primary.client.pipeline(transaction=False) as together:  # one connection: WAIT looks at what this one wrote
        together.set("probe", 1).delete("probe").execute_command("WAIT", 1, 1000)
        return bool(together.execute()[-1])


@contextmanager
def replicated() -> Iterator[tuple[str, Node, Node]]:
    """URL, primary and replica, which follows."""
    folder, nodes = Path(tempfile.mkdtemp(prefix="rc-replicated-")), []
    try:
        primary = Node(folder, free_port(), 'save ""', "repl-diskless-sync-delay 0")
        nodes.append(primary)
        replica = Node(folder, free_port(), 'save ""', f"replicaof 127.0.0.1 {primary.port}")
        nodes.append(replica)
        wait_until(lambda: confirms_a_write(primary), 20, "the replica confirms")
        yield f"redis://127.0.0.1:{primary.port}/0", primary, replica
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sentinel(secured: Secured | None = None) -> Iterator[tuple[str, Node, Node]]:
    """URL, primary and replica; one Sentinel that fails over half a second after the primary is gone.

    The URL of a secured one has no passwords and names no authority.
    """
    folder, nodes = Path(tempfile.mkdtemp(prefix="rc-sentinel-")), []
    try:
        plain = ('save ""',)
        primary = Node(folder, free_port(), *plain, secured=secured)
        nodes.append(primary)
        follows = (f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0")
        replica = Node(folder, free_port(), *plain, *follows, secured=secured)
        nodes.append(replica)
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", 20, "the replica follows")
        login: tuple[str, ...] = ()
        if secured is not None:
            rights = f"{SENTINEL_RIGHTS} +ping +sentinel|slaves"  # the last two for the test
            user = f"user {secured.sentinel_user} on >{secured.sentinel_password} {rights}"
            login = (f"sentinel auth-pass calls {secured.password}", "user default off", user)
        watcher = Node(
            folder,
            free_port(),
            f"sentinel monitor calls 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds calls 500",
            "sentinel failover-timeout calls 3000",
            *login,
            mode=("--sentinel",),
            secured=secured,
        )
        nodes.append(watcher)
        wait_until(lambda: watcher.client.sentinel_slaves("calls"), 20, "the sentinel knows the replica")
        yield f"redis{'s' if secured else ''}+sentinel://127.0.0.1:{watcher.port}/calls/0", primary, replica
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(secured: Secured | None = None) -> Iterator[tuple[str, list[Node]]]:
    """URL and three primaries that share all slots. The URL of a secured one has no password and names no authority."""
    folder, nodes = Path(tempfile.mkdtemp(prefix="rc-cluster-")), []
    try:
        for _ in range(3):
            options = ('save ""', "cluster-enabled yes", "cluster-node-timeout 2000")
            nodes.append(Node(folder, free_port(below=55536), *options, secured=secured))
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
        named = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        yield f"redis{'s' if secured else ''}+cluster://{named}", nodes
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)


class MovingSlot:
    """A slot of a cluster on its way from one node to another, as `redis-cli --cluster reshard` moves it.

    Args:
        nodes: its primaries, in the order in which they share the slots.
        key: one of the slot.
    """

    def __init__(self, nodes: list[Node], key: str) -> None:
        self.nodes, self.slot = nodes, int(nodes[0].client.execute_command("CLUSTER", "KEYSLOT", key))
        owned = (self.slot * len(nodes)) // 16384
        self.source, self.target = nodes[owned], nodes[(owned + 1) % len(nodes)]

    @staticmethod
    def id_of(node: Node) -> str:
        """By which the cluster knows it."""
        told = node.client.execute_command("CLUSTER", "MYID")
        return str(told.decode() if isinstance(told, bytes) else told)

    def begin(self) -> None:
        """From now on what is not at the source is asked for at the target."""
        for node, state, other in (
            (self.target, "IMPORTING", self.source),
            (self.source, "MIGRATING", self.target),
        ):
            node.client.execute_command("CLUSTER", "SETSLOT", self.slot, state, self.id_of(other))

    def keys(self) -> list[bytes]:
        """Those that are still at the source."""
        found: list[bytes] = self.source.client.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 10_000)
        return found

    def move(self, most: int = 10_000) -> None:
        """So many keys go over."""
        if keys := self.keys()[:most]:
            self.source.client.execute_command("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        """What is left goes over, and everybody is told."""
        while self.keys():
            self.move()
        for node in (self.target, self.source, *self.nodes):
            node.client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self.id_of(self.target))
