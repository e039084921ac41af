"""A planned failover: the former primary answers, and takes writes, for ten seconds more; here for as long as a test likes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from coordinator import Session, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.settings import load
from coordinator.store.keys import Keys
from tests.acceptance.processes import coordinator, worker
from tests.deployments import Node, free_port
from tests.redis_users import as_user
from tests.store.fake_sentinel import FakeSentinel
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)


def role(node: Node) -> str:
    """What a server takes itself for."""
    return str(node.client.info("replication")["role"])


class Deployment:
    """A primary, its replica, and a Sentinel that says what it is told to.

    Attributes:
        url: names the Sentinel.
        former, new: the servers; the first is the primary until `switch`.
    """

    def __init__(self, folder: Path) -> None:
        self.former = Node(folder, free_port(), 'save ""')
        follows = (f"replicaof 127.0.0.1 {self.former.port}", "repl-diskless-sync-delay 0")
        self.new = Node(folder, free_port(), 'save ""', *follows)
        wait_until(lambda: self.new.client.info("replication")["master_link_status"] == "up", 20, "the replica follows")
        self._sentinel = FakeSentinel(("127.0.0.1", self.former.port))
        self.url = f"redis+sentinel://127.0.0.1:{self._sentinel.port}/calls/0"

    def switch(self) -> None:
        """The replica is promoted and named; the former primary has not heard of it, and the Sentinel sees that."""
        self.new.client.replicaof("NO", "ONE")
        self._sentinel.replicas = [
            {"ip": "127.0.0.1", "port": str(self.former.port), "flags": "slave", "role-reported": "master"}
        ]
        self._sentinel.epoch, self._sentinel.address = 2, ("127.0.0.1", self.new.port)

    def beats_at_the_former(self) -> bool:
        """Somebody beats there who has not heard of the new one, once; returns True."""
        seconds, _ = self.former.client.time()
        self.former.client.zadd(KEYS.instances, {"older~1": (seconds + 2) * 1000})
        return True

    def demote(self) -> None:
        """The former primary is a replica now; a Sentinel looks every ten seconds, and has not seen it yet."""
        self.former.client.replicaof("127.0.0.1", self.new.port)

    def close(self) -> None:
        """Ends them all."""
        self._sentinel.close()
        self.new.close()
        self.former.close()


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """It, until the end of the block."""
    made = Deployment(folder)
    try:
        yield made
    finally:
        made.close()


def epochs_at(node: Node, sessions: list[Session]) -> list[int]:
    """Under which epochs that server knows them; they rise when their owner states them again."""
    found: Any = [node.client.hget(KEYS.session(session.id), "epoch") for session in sessions]
    return [int(epoch or 0) for epoch in found]


def hold(node: Node) -> Any:
    """Why deaths by silence are withheld there."""
    return node.client.hget(KEYS.detector, "hold_reason")


async def all_written(sessions: list[Session], at: Node) -> None:
    """A checkpoint of each call is taken, and stands at that server."""
    for session in sessions:
        await session.checkpoint(b"after the switch")
    written: Any = [at.client.hget(KEYS.session(session.id), "data") for session in sessions]
    assert written == [b"after the switch"] * len(sessions)


async def test_nobody_stays_at_the_former_primary(tmp_path: Path) -> None:
    """Workers and coordinators go to the new one while the former still takes writes; others start meanwhile; no call moves.

    As long as somebody beats there, deaths by silence are withheld, and said to be.
    """
    with deployed(tmp_path) as here:
        new: Any = here.new.client
        daemons = [Daemon(load(redis_url=as_user(here.url, "coordinator"), http_port=0)) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            await tasks.start(daemons[0].run)
            async with Worker(as_user(here.url, "worker"), name="a") as worker:
                sessions = [await worker.open(f"call-{n}", b"data") for n in range(5)]
                await eventually(lambda: not daemons[0].not_ready())
                await eventually(
                    lambda: epochs_at(here.new, sessions) == [one.epoch for one in sessions], 20, "replicated"
                )
                before = [session.epoch for session in sessions]
                here.switch()
                await tasks.start(daemons[1].run)
                async with Worker(as_user(here.url, "worker"), name="b") as newcomer:
                    await eventually(lambda: min(epochs_at(here.new, sessions)) > max(before), 60, "stated again")
                    await eventually(lambda: all(session.held for session in sessions), 60, "held again")
                    assert all(session.may_speak and not session.lost.is_set() for session in sessions)
                    await all_written(sessions, here.new)
                    await eventually(lambda: here.beats_at_the_former() and hold(here.new) == b"another_primary", 5)
                    await eventually(lambda: hold(here.new) == b"", 5, "nobody beats there any more")
                    assert role(here.former) == "master"
                    await eventually(lambda: here.beats_at_the_former() and hold(here.new) == b"another_primary", 5)
                    here.demote()
                    await eventually(lambda: hold(here.new) == b"", 5, "it is a replica, whatever the Sentinel says")
                    await eventually(lambda: not any(daemon.not_ready() for daemon in daemons), 60)
                    owners: Any = {new.hget(KEYS.session(session.id), "owner") for session in sessions}
                    assert [owner.partition(b"~")[0] for owner in owners] == [b"a"]
                    assert new.zcard(KEYS.graves) == 0
                    assert not newcomer.sessions
                    await all_written(sessions, here.new)
                assert all(session.held for session in sessions)
            tasks.cancel_scope.cancel()


def test_who_stood_still_over_a_switch_asks_first(tmp_path: Path) -> None:
    """A worker is dead at the new primary when it goes on: it does not beat at the former, which would believe it."""
    with deployed(tmp_path) as here, coordinator(here.url), worker(here.url, "a", "call", mode="watch") as process:
        one = here.former.client.hget(KEYS.session("call"), "owner").decode()
        before = here.former.client.zscore(KEYS.instances, one)
        wait_until(lambda: here.former.client.zscore(KEYS.instances, one) > before, 20, "it beats")
        wait_until(lambda: hold(here.former) == b"", 20, "the hold at the start is over")
        process.send(signal.SIGSTOP)
        wait_until(
            lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] == "T", 10, "it stands still"
        )
        here.former.client.ping()
        here.former.client.wait(1, 5000)
        last = here.former.client.zscore(KEYS.instances, one)
        here.switch()
        wait_until(lambda: here.new.client.hget(KEYS.instance(one), "state") == b"dead", 30, "it is declared dead")
        process.send(signal.SIGCONT)
        wait_until(lambda: process.told("standing")[-1]["lost"], 20, "it knows")
        assert here.former.client.zscore(KEYS.instances, one) == last
        assert role(here.former) == "master"
