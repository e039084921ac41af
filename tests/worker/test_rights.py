"""An administrator takes rights away and gives them back: workers and coordinators go on, and every call is held again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from coordinator import StoreUnavailableError, Worker, clock
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.store.rights import needed_by
from tests import inside
from tests.coordinating import coordinating
from tests.inside import member_of
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


@pytest.fixture
def acl(redis_server: RedisServer, bench: Bench) -> Iterator[Any]:
    """Changes the rights of the user `voice`."""
    bench.client.execute_command(
        "ACL", "SETUSER", "voice", "reset", "on", ">pw", "~{recovery:*", "resetchannels", "&{recovery:*", "+@all"
    )
    yield lambda *rules: bench.client.execute_command("ACL", "SETUSER", "voice", *rules)
    bench.client.execute_command("ACL", "DELUSER", "voice")


@pytest.fixture
def bench(redis_client: Any) -> Bench:
    """The store, looked at as an administrator."""
    return Bench(redis_client)


@pytest.fixture
def user_url(redis_server: RedisServer, acl: Any) -> str:
    """Of that user."""
    return redis_server.url.replace("unix://", "unix://voice:pw@", 1)


async def test_each_right_in_turn(user_url: str, acl: Any, bench: Bench) -> None:
    """Whichever command is refused for a while, as `permission` and nothing else: afterwards worker and coordinator work as before."""
    async with coordinating(user_url, dead_after="60s") as loop, Worker(user_url, name="a", dead_after="60s") as worker:
        session = await worker.open("call", {"n": 0})
        await eventually(lambda: loop.up)
        for n, name in enumerate(sorted({name[0] for name in needed_by("worker") | needed_by("coordinator")}), 1):
            acl(f"-{name.lower()}")
            with contextlib.suppress(StoreUnavailableError), anyio.move_on_after(0.1):
                while True:
                    await session.checkpoint({"n": -n})
            acl(f"+{name.lower()}")
            await eventually(lambda: session.held, 20, f"held again after {name}")
            await session.checkpoint({"n": n})
            assert bench.record("call")["state"] == "active"
        last = bench.client.hget(bench.keys.detector, "last_scan_ms")
        await eventually(lambda: bench.client.hget(bench.keys.detector, "last_scan_ms") != last, 20, "it looks again")
        assert not session.lost.is_set()
        await session.close()


@pytest.mark.parametrize("rule", ["-publish", "resetchannels"])
async def test_a_call_is_handed_over_without_a_word(user_url: str, acl: Any, bench: Bench, rule: str) -> None:
    """Nobody may be told: the heir and the owner find out by their heartbeats, and the report names the heir."""
    async with Worker(user_url, name="a") as owner, Worker(user_url, name="b") as heir:
        await owner.open("call", {"n": 1})
        async with anyio.create_task_group() as tasks:

            async def serve(_: Any) -> None:
                await anyio.sleep_forever()

            tasks.start_soon(heir.serve, serve)
            acl(rule)
            report = await owner.drain(timeout=20)
            await eventually(lambda: [s.id for s in heir.sessions] == ["call"], 20)
            acl("+publish", "resetchannels", "&{recovery:*")
            tasks.cancel_scope.cancel()
        assert list(report.handed_over) == ["call"]


async def test_a_connection_that_told_its_server_does_not_go_on_blind(user_url: str, acl: Any, bench: Bench) -> None:
    """INFO is taken away and the connections break: lost writes would not be seen, so it is `permission` until it is back."""
    async with Worker(user_url, name="a", dead_after="60s") as worker:
        session = await worker.open("call", {"n": 0})
        acl("-info")
        for client in bench.client.client_list(_type="normal"):
            if client.get("user") == "voice":
                bench.client.client_kill_filter(_id=client["id"])
        with pytest.raises(StoreUnavailableError) as told:
            while True:
                await session.checkpoint({"n": 1})
        assert told.value.kind in ("permission", "connection")
        await eventually(lambda: not session.held, 20)
        acl("+info")
        await eventually(lambda: session.held, 20)
        await session.close()


async def test_a_channel_that_is_refused_is_said_once(user_url: str, acl: Any, bench: Bench) -> None:
    """SUBSCRIBE is taken away and the connection breaks: one line says so, and the worker goes on without its mailbox."""
    with capture_logs() as said:
        async with Worker(user_url, name="a", dead_after="60s") as worker:
            session = await worker.open("call", {"n": 0})
            await eventually(lambda: _presence(bench, "1"))
            acl("-subscribe")
            for client in bench.client.client_list(_type="pubsub"):
                bench.client.client_kill_filter(_id=client["id"])
            await eventually(lambda: any(line["event"] == "mailbox_refused" for line in said))
            await eventually(lambda: _presence(bench, "0"))
            acl("+subscribe")
            await eventually(lambda: _presence(bench, "1"))
            await session.close()
    assert len([line for line in said if line["event"] == "mailbox_refused"]) == 1


def _presence(bench: Bench, value: str) -> bool:
    """Whether the one instance says in its heartbeats that it listens (1) or not (0)."""
    [instance] = bench.members(bench.keys.instances)
    return bool(bench.client.hget(bench.keys.instance(instance), "presence") == value.encode())


async def test_a_connection_that_is_new_does_not_go_on_blind(user_url: str, acl: Any, bench: Bench) -> None:
    """INFO is gone before the thread that beats has connected: it does not begin without what the others know."""
    connector = Connector(user_url)
    executor = connector.executor(KEYS.tag)
    assert await executor.command("PING") == b"PONG"
    acl("-info")
    heart = connector.heart(KEYS.tag)
    with pytest.raises(StoreUnavailableError) as told:
        await anyio.to_thread.run_sync(heart.run, calls.settle(KEYS, grave="a~1", fenced_ttl=0.001))
    assert told.value.kind == "permission"
    await anyio.to_thread.run_sync(heart.close)
    await connector.aclose()


async def test_one_who_never_agrees_beats_no_faster(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something makes beat and comparison differ for ever: it compares once a beat, and not as fast as it can."""
    async with Worker(url, name="a") as worker:
        member = member_of(worker)
        soon: list[float] = []
        monkeypatch.setattr(member.runtime.heart, "soon", lambda beating: soon.append(clock.now()))
        for _ in range(50):
            inside.agreed(member)
        assert len(soon) <= 1
