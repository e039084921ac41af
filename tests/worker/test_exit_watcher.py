"""The exit watcher: the worker of the README as a process, which ends in each way that a process can end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from coordinator import Worker
from coordinator.store.keys import Keys
from tests.acceptance.processes import Process, coordinator
from tests.certificates import Authority
from tests.deployments import Node, Secured, cluster, free_port, sentinel
from tests.exit_watchers import exit_watchers_of, the_exit_watcher_of
from tests.redis_server import RedisServer
from tests.redis_users import as_user, refusals
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)
PROGRAM = "tests.worker.watched_process"


class Watched:
    """A worker process with an exit watcher, which ends as it is told.

    Attributes:
        process: the worker's.
        watcher: process id of its exit watcher.
        id: its instance.
    """

    def __init__(self, url: str, name: str = "a", **environment: str) -> None:
        self.process = Process(PROGRAM, url, name, COORDINATOR_WATCH_EXIT="true", **environment)
        try:
            [ready] = self.process.wait_for("ready")
            self.id, self.ids = ready["id"], ready["ids"]
            wait_until(lambda: "exit_watched" in self.process.errors(), 20, f"it is watched: {self.process.errors()}")
            self.watcher = the_exit_watcher_of(self.process.pid)
        except BaseException:
            self.process.close()
            raise

    def ends(self, how: str) -> None:
        """Tells it how to end, and waits for that."""
        self.process.write(how + "\n")
        wait_until(lambda: not self.process.alive, 20, "it has ended")


Start = Callable[..., Watched]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(url: str, name: str = "a", **environment: str) -> Watched:
            watched = Watched(url, name, **environment)
            stack.callback(watched.process.close)
            return watched

        yield begin


def death(client: redis.Redis, instance: str, keys: Keys = KEYS) -> tuple[str, str, str]:
    """Cause, signature and reason of an instance's death, as soon as it is dead."""
    found: list[Any] = []

    def dead() -> bool:
        found[:] = client.hmget(keys.instance(instance), "state", "cause", "by", "reason")
        return bool(found[0] == b"dead")

    wait_until(dead, 20, f"{instance} is dead")
    cause, by, reason = (text.decode() for text in found[1:])
    return cause, by, reason


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("SIGKILL", "killed by SIGKILL"),
        ("SIGSEGV", "killed by SIGSEGV"),
        ("exit 3", "exit status 3"),
    ],
)
def test_every_end_is_certified(start: Start, url: str, redis_client: redis.Redis, how: str, told: str) -> None:
    """However the process ends without a good-bye, its instance is certified, with the signal or the status."""
    worker = start(url)
    worker.ends(how)
    assert death(redis_client, worker.id) == ("exited", "exit watcher", told)
    wait_until(lambda: not exit_watchers_of(worker.process.pid), 20, "its watcher has ended")


def test_the_call_goes_on_at_another_worker(start: Start, url: str, redis_client: redis.Redis) -> None:
    """The worker of the README is killed with SIGKILL, and its call goes to another one, by the certificate."""
    environment = {"COORDINATOR_REDIS_URL": url, "COORDINATOR_WATCH_EXIT": "true", "COORDINATOR_LOG_LEVEL": "debug"}
    heir = Process("coordinator.cli.demo_worker", "b", **environment)
    dying = Process("coordinator.cli.demo_worker", "a", "call-1", **environment)
    try:
        with coordinator(url):
            wait_until(lambda: "exit_watched" in dying.errors(), 20, "it is watched")
            wait_until(lambda: int(redis_client.hget(KEYS.session("call-1"), "checkpoint") or 0) > 0, 20, "it stages")
            dying.send(signal.SIGKILL)

            def adopted() -> bool:
                found: list[Any] = redis_client.hmget(KEYS.session("call-1"), "owner", "cause")
                return (found[0] or b"").startswith(b"b~") and bool(found[1] == b"exited")

            wait_until(adopted, 20, "the call is adopted")
    finally:
        for process in (dying, heir):
            process.close()


def test_a_worker_that_leaves_is_not_certified(start: Start, url: str, redis_client: redis.Redis) -> None:
    """A worker that leaves says so itself, and its watcher ends while the process lives on."""
    worker = start(url)
    worker.process.write("leave\n")
    worker.process.wait_for("left")
    assert death(redis_client, worker.id)[0] == "left"
    wait_until(lambda: not exit_watchers_of(worker.process.pid), 20, "its watcher has ended")
    assert worker.process.alive


def test_a_watcher_that_ends_is_started_again(start: Start, url: str, redis_client: redis.Redis) -> None:
    """A watcher that is killed is followed by another one, which certifies; the log tells of both once."""
    worker = start(url)
    os.kill(worker.watcher, signal.SIGKILL)
    wait_until(lambda: worker.process.errors().count('"exit_watched"') == 2, 20, "it is watched again")
    assert worker.process.errors().count('"exit_not_watched"') == 1
    assert the_exit_watcher_of(worker.process.pid) != worker.watcher
    worker.ends("SIGKILL")
    assert death(redis_client, worker.id) == ("exited", "exit watcher", "killed by SIGKILL")


def test_a_signal_to_all_of_a_service_does_not_end_the_watcher(
    start: Start, url: str, redis_client: redis.Redis
) -> None:
    """SIGTERM, SIGINT and SIGHUP to the watcher too, as from systemd or a terminal, change nothing."""
    worker = start(url)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(worker.watcher, number)
    worker.ends("SIGKILL")
    assert death(redis_client, worker.id)[2] == "killed by SIGKILL"
    assert worker.process.errors().count("exit_not_watched") == 0


def test_told_to_end_it_does_not_hold_up_a_service(start: Start) -> None:
    """The worker ends while the store does not answer, and a service manager ends the rest: the watcher does not stay for long."""
    with ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.close)
        worker = start(server.url)
        server.pause()
        worker.ends("SIGKILL")
        os.kill(worker.watcher, signal.SIGTERM)
        wait_until(
            lambda: not exit_watchers_of(worker.process.pid), 4, "its watcher has ended"
        )  # else it would stay for 30 s


def test_it_stands_apart(start: Start, url: str, redis_client: redis.Redis) -> None:
    """It is no child of the worker, in a session and process group of its own, holds none of its files, and stays small."""
    worker = start(url)
    status = Path(f"/proc/{worker.watcher}/status").read_text()
    values = {line.split(":")[0]: line.split()[1:] for line in status.splitlines() if ":" in line}
    assert int(values["PPid"][0]) not in (worker.process.pid, os.getpid())
    assert os.getsid(worker.watcher) not in (os.getsid(worker.process.pid), os.getsid(0))
    assert os.getpgid(worker.watcher) != os.getpgid(worker.process.pid)
    assert int(values["VmRSS"][0]) < 15_000, "KiB"
    assert int(values["Threads"][0]) == 1
    links = [str(one.readlink()) for one in Path(f"/proc/{worker.watcher}/fd").iterdir()]
    assert sorted(link.partition(":")[0] for link in links) == ["/dev/null"] * 3 + ["anon_inode", "socket", "socket"]
    names = [row["name"] for row in redis_client.client_list()]
    assert names.count("recovery-exit-watcher") == 1


def test_it_has_no_secret_in_sight(start: Start, redis_server: RedisServer, redis_client: redis.Redis) -> None:
    """The password stands in neither the arguments nor the environment of the watcher, which the user `worker` of the docs serves."""
    refusals_before = refusals(redis_client)
    worker = start(as_user(redis_server.url, "worker"), SOME_SECRET="of-the-worker")
    seen = b"".join(Path(f"/proc/{worker.watcher}/{name}").read_bytes() for name in ("cmdline", "environ"))
    assert b"password" not in seen.lower()
    assert b"worker:" not in seen
    assert b"of-the-worker" not in seen
    worker.ends("SIGKILL")
    assert death(redis_client, worker.id)[0] == "exited"
    assert refusals(redis_client) == refusals_before


@contextmanager
def by_tls(folder: str) -> Iterator[tuple[str, str]]:
    """A server that speaks only TLS, with a password; its URL, of database 3, and the file of its authority."""
    secured = Secured.by(Authority(Path(folder)))
    node = Node(Path(folder), free_port(), 'save ""', secured=secured)
    try:
        yield f"rediss://:{secured.password}@127.0.0.1:{node.port}/3", str(secured.authority.ca)
    finally:
        node.close()


@pytest.mark.parametrize("authority", ["in the URL", "relative", "in the environment", "not looked at"])
def test_by_tls_with_a_password_and_a_database(start: Start, authority: str) -> None:
    """What the worker's URL and environment say of TLS, login and database holds for the watcher, too."""
    with tempfile.TemporaryDirectory(prefix="rc-tls-") as folder, by_tls(folder) as (url, ca):
        options, environment = f"?ssl_ca_certs={ca}", {}
        if authority == "relative":
            options = f"?ssl_ca_certs={os.path.relpath(ca)}"
        elif authority == "in the environment":
            options, environment = "", {"SSL_CERT_FILE": ca}
        elif authority == "not looked at":
            options = "?ssl_cert_reqs=none"
        worker = start(url + options, **environment)
        worker.ends("SIGKILL")
        with redis.Redis.from_url(f"{url}?ssl_ca_certs={ca}") as client:
            assert death(client, worker.id) == ("exited", "exit watcher", "killed by SIGKILL")


def test_a_server_that_was_restarted(start: Start) -> None:
    """The watcher connects anew when its server was away."""
    with ExitStack() as stack:
        server = RedisServer("--appendonly", "yes")
        stack.callback(server.close)
        worker = start(server.url)
        server.restart()
        client = server.client()
        wait_until(
            lambda: "recovery-exit-watcher" in [row["name"] for row in client.client_list()], 20, "it is connected anew"
        )
        worker.ends("SIGKILL")
        assert death(client, worker.id)[0] == "exited"


def test_a_server_that_stands_still_takes_the_certificate_later(start: Start) -> None:
    """The store does not answer when the worker is killed, and is told as soon as it does, before the silence counts."""
    with ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.close)
        worker = start(server.url)
        server.pause()
        worker.ends("SIGKILL")
        threading.Event().wait(1.5)  # longer than one trial
        server.resume()
        assert death(server.client(), worker.id) == ("exited", "exit watcher", "killed by SIGKILL")


def test_after_a_failover_the_new_primary_is_told(start: Start) -> None:
    """Under Sentinels the watcher goes to the server that the worker goes to."""
    with sentinel() as (url, primary, replica):
        worker = start(as_user(url, "worker"))
        primary.close()
        client = replica.client
        wait_until(
            lambda: "recovery-exit-watcher" in [row["name"] for row in client.client_list()],
            60,
            "it is connected to the new primary",
        )
        worker.ends("SIGKILL")
        assert death(client, worker.id)[0] == "exited"


def test_in_a_cluster_each_partition_is_told_where_it_is(start: Start) -> None:
    """Six partitions on three servers: one watcher, and a certificate in each partition."""
    with cluster() as (url, nodes):
        worker = start(as_user(url, "worker"), COORDINATOR_PARTITIONS="6")
        assert len(worker.ids) == 6
        worker.ends("SIGKILL")
        for partition, instance in enumerate(worker.ids):
            keys = Keys("recovery", partition)
            node = nodes[key_slot(keys.tag.encode()) * len(nodes) // 16384]
            assert death(node.client, instance, keys)[0] == "exited"


def test_a_forked_child_that_outlives_the_worker(start: Start, url: str, redis_client: redis.Redis) -> None:
    """The worker is certified although a child that it forked lives on with all that it had open."""
    worker = start(url)
    worker.process.write("fork\n")
    [told] = worker.process.wait_for("forked")
    try:
        os.kill(worker.process.pid, signal.SIGKILL)
        assert death(redis_client, worker.id)[0] == "exited"
        os.kill(told["pid"], 0)
    finally:
        os.kill(told["pid"], signal.SIGKILL)


def test_a_child_that_is_forked_while_the_watcher_starts(start: Start, url: str) -> None:
    """It holds neither end of the line to the watcher: when that ends it is started again, although the child lives."""
    worker = start(url, FORKS_EARLY="1")
    [told] = worker.process.wait_for("forked")
    try:
        os.kill(worker.watcher, signal.SIGKILL)
        wait_until(lambda: worker.process.errors().count('"exit_watched"') == 2, 20, "it is watched again")
    finally:
        os.kill(told["pid"], signal.SIGKILL)


def test_a_process_that_becomes_another_program_is_not_certified(
    start: Start, url: str, redis_client: redis.Redis
) -> None:
    """After exec the process lives: its watcher ends without a word."""
    worker = start(url)
    worker.process.write("exec\n")
    wait_until(lambda: not exit_watchers_of(worker.process.pid), 20, "its watcher has ended")
    assert worker.process.alive
    assert redis_client.hget(KEYS.instance(worker.id), "state") != b"dead"


def test_a_worker_that_stands_still_is_not_certified(start: Start, url: str, redis_client: redis.Redis) -> None:
    """SIGSTOP is no end."""
    worker = start(url)
    worker.process.send(signal.SIGSTOP)
    threading.Event().wait(1.0)
    assert redis_client.hget(KEYS.instance(worker.id), "state") != b"dead"
    assert exit_watchers_of(worker.process.pid) == [worker.watcher]
    worker.process.send(signal.SIGCONT)


def test_a_new_life_is_certified_under_its_id(start: Start, url: str, redis_client: redis.Redis) -> None:
    """A worker that was declared dead lives on under another id, and the watcher knows that one."""
    worker = start(url)
    worker.process.write("start over\n")
    [told] = worker.process.wait_for("anew", timeout=30)
    assert told["id"] != worker.id
    wait_until(lambda: worker.process.errors().count(told["id"]) > 0, 20, "its watcher knows the new id")
    worker.ends("SIGKILL")
    assert death(redis_client, told["id"]) == ("exited", "exit watcher", "killed by SIGKILL")


async def test_a_slow_interpreter_holds_up_no_worker(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is entered and left before the watcher has started."""
    started = tmp_path / "started"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\nsleep 2\ntouch {started}\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setenv("COORDINATOR_WATCH_EXIT", "true")
    async with Worker(url, name="a"):
        pass
    assert not started.exists()
    await eventually(started.exists)


def test_without_it(url: str) -> None:
    """WATCH_EXIT=false: no process is started."""
    process = Process(PROGRAM, url, "a", COORDINATOR_WATCH_EXIT="false")
    try:
        process.wait_for("ready")
        process.write("leave\n")
        process.wait_for("left")
        assert "exit_watched" not in process.errors()
        assert exit_watchers_of(process.pid) == []
    finally:
        process.close()


@pytest.mark.skipif(os.getuid() != 0, reason="a process namespace needs root")
def test_process_one_of_a_container_says_once_that_it_cannot_be_watched(url: str) -> None:
    """Where the worker's end ends everything, no watcher is started, and the log says what sees the end there."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", PROGRAM, url, "a"]
    process = Process(program=command, COORDINATOR_WATCH_EXIT="true")
    try:
        process.wait_for("ready")
        process.write("leave\n")
        process.wait_for("left")
        assert process.errors().count("exit_not_watched") == 1
        assert "shareProcessNamespace" in process.errors()
        assert "exit_watched" not in process.errors().replace("exit_not_watched", "")
    finally:
        process.close()
