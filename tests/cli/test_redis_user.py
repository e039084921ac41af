"""The users of Redis that are printed: with their rights everything works, and each program says at its start what is missing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from coordinator import ConfigurationError, Session, Worker
from coordinator.cli.app import app
from coordinator.sessions import RedisStore, SessionState
from coordinator.store.acl import user_for
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.redis_users import Users, as_user
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.store.harness import Bench
from tests.waiting import eventually, wait_until


@pytest.fixture
def by(redis_server: RedisServer, users: Users) -> Callable[[str], str]:
    """The URL by which a user of that name reaches the server."""
    return lambda name: as_user(redis_server.url, name)


@pytest.fixture
def bench(redis_server: RedisServer, users: Users) -> Iterator[Bench]:
    """The store, looked at as an administrator."""
    client = redis_server.client()
    yield Bench(client)
    client.close()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of the program, until it ends."""
    line = [sys.executable, "-m", "coordinator", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def quick(*words: str) -> tuple[int, str]:
    """A command that only asks, in this process: its exit status and all that it says."""
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


async def test_workers_and_a_coordinator_do_everything_as_their_users(
    users: Users, by: Callable[[str], str], bench: Bench
) -> None:
    """Calls are opened, written, handed over, adopted after a death, released, closed, and given up on: nothing was refused."""
    seen: list[str] = []

    async def serve(session: Session) -> None:
        seen.append(session.id)
        await session.resumed()
        await session.checkpoint({"n": 2})
        await anyio.sleep_forever()

    async with (
        coordinating(by("coordinator"), max_recoveries=0),
        Worker(by("worker"), name="heir") as heir,
        anyio.create_task_group() as tasks,
    ):
        async with Worker(by("worker"), name="a") as owner:
            tasks.start_soon(heir.serve, serve)
            session = await owner.open("handed-over", {"n": 1})
            await session.checkpoint({"n": 2})
            await (await owner.open("closed", {"n": 1})).close()
            await (await owner.open("released", {"n": 1})).release("cannot serve it")
            report = await owner.drain(timeout=10)
            assert list(report.handed_over) == ["handed-over"]
        bench.join("dead~1")
        bench.open("given-up", "dead~1")
        bench.certify("dead~1")
        await eventually(lambda: bench.record("given-up").get("state") == "dead_lettered")
        await eventually(lambda: "handed-over" in seen)
        tasks.cancel_scope.cancel()
    assert users.refused() == set()


def test_commands_work_as_the_operator_and_those_that_look_as_the_reader(
    users: Users, by: Callable[[str], str], bench: Bench
) -> None:
    """Draining, certifying and dead letters; the reader sees all, changes nothing, and is told where the rights stand."""
    bench.init()
    bench.join("a~1")
    bench.open("s", "a~1")
    bench.open("t", "a~1")
    looks = (("status",), ("instances",), ("sessions",), ("session", "s"), ("quarantine", "list"))
    for words in looks:
        for name in ("reader", "operator"):
            status, said = quick(*words, "--redis-url", by(name))
            assert status == 0, (name, words, said)
    assert users.refused() == set()
    for words in (("drain", "a~1"), ("certify", "a~1")):
        status, said = quick(*words, "--redis-url", by("reader"))
        assert (status, "coordinator doctor --acl" in said) == (3, True), said
        status, said = quick(*words, "--redis-url", by("operator"))
        assert status == 0, (words, said)
    users.reset()
    bench.claim("a~1", ["s", "t"], max_recoveries=0)
    for name, words, meant in (
        ("reader", ("list",), 1), ("reader", ("show", "s"), 0), ("operator", ("replay", "s"), 0), ("operator", ("purge", "t"), 0),
    ):  # fmt: skip
        status, said = quick("dead-letters", *words, "--redis-url", by(name))
        assert status == meant, (words, said)
    assert users.refused() == set()


def test_a_sidecar_works_as_its_user(users: Users, by: Callable[[str], str]) -> None:
    """It coordinates, stands for workers, and hands their calls over."""
    server: Any = SimpleNamespace(url=by("coordinating-sidecar"))
    sidecar = Sidecar(server, "--coordinate", "--drain-port", "0")
    try:
        with contextlib.closing(Client(sidecar.path)) as a, contextlib.closing(Client(sidecar.path)) as b:
            assert a.register("a").status_code == 201
            epoch = a.open("call", {"n": 1})
            saved = a("PUT", "/v1/sessions/call/checkpoint", {"recovery_data": {"n": 2}}, If_Match=f'"{epoch}"')
            assert saved.status_code == 204, saved.text
            assert b.register("b").status_code == 201
            adopted = b("POST", "/v1/sessions/call/adopt?wait=0s")
            assert adopted.status_code in (200, 409)
            assert a("DELETE", "/v1/sessions/call", If_Match=f'"{epoch}"').status_code in (204, 412)
    finally:
        sidecar.close()
    assert users.refused() == set()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("-evalsha", "-eval"), ("may not run EVAL", "coordinator: partition 0")),
        (("-zrangebyscore",), ("coordinator: partition 0",)),
        (("-xreadgroup",), ("may not run XREADGROUP",)),
    ],
)
def test_a_sidecar_whose_rights_are_taken_away_is_not_ready(
    users: Users, by: Callable[[str], str], rules: tuple[str, ...], said: tuple[str, ...]
) -> None:
    """It says which part of it does not do what it is for, also where plain commands work, and is ready when they are back."""
    server: Any = SimpleNamespace(url=by("coordinating-sidecar"))
    sidecar = Sidecar(server, "--coordinate", "--drain-port", "0")
    try:
        with contextlib.closing(Client(sidecar.path)) as client:
            assert client.register("a").status_code == 201
            wait_until(lambda: client("GET", "/readyz").status_code == 200, 30)
            users.change("coordinating-sidecar", *rules)
            wait_until(lambda: all(one in client("GET", "/readyz").text for one in said), 60)
            assert client("GET", "/readyz").status_code == 503
            users.change("coordinating-sidecar", *(f"+{rule[1:]}" for rule in rules))
            wait_until(lambda: client("GET", "/readyz").status_code == 200, 60)
    finally:
        sidecar.close()
        users.reset()


async def test_a_worker_that_may_not_read_offers_says_so_once(
    users: Users, by: Callable[[str], str], bench: Bench
) -> None:
    """Nothing else would show: its calls go on. When the right is back it reads them."""
    async with Worker(by("worker"), name="a") as worker, anyio.create_task_group() as tasks:
        adopted: list[str] = []

        async def serve(session: Session) -> None:
            adopted.append(session.id)
            await anyio.sleep_forever()

        with capture_logs() as logs:
            users.change("worker", "-xreadgroup")
            tasks.start_soon(worker.serve, serve)
            await eventually(lambda: [line for line in logs if line["event"] == "offers_not_read"])
            bench.join("dead~1")
            bench.open("waits", "dead~1")
            bench.certify("dead~1")
            bench.claim("dead~1", ["waits"])
            before = users.rejected("xreadgroup")
            await eventually(lambda: users.rejected("xreadgroup") >= before + 3, description="it tries again and again")
            users.change("worker", "+xreadgroup")
            await eventually(lambda: adopted == ["waits"])
        assert len([line for line in logs if line["event"] == "offers_not_read"]) == 1
        tasks.cancel_scope.cancel()


async def test_conversations_are_kept_as_their_user(users: Users, by: Callable[[str], str], bench: Bench) -> None:
    """Saved, listed, found by alias and removed, also when bound to a call."""
    async with Worker(by("worker"), name="a") as worker, RedisStore(by("sessions")) as store:
        session = await worker.open("call")
        state = SessionState("call")
        await store.create(state)
        await store.fenced(session).save(state)
        await store.update_heartbeat("call")
        assert await store.list_active() == ["call"]
        assert (await store.load("call")).id == "call"
        await store.count()
        await store.fenced(session).delete("call")
        await session.close()
    assert users.refused() == set()


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            "resetchannels",
            "may not use channels {recovery:0}:mailbox:*; permit it with: ACL SETUSER worker &{recovery:0}:mailbox:*",
        ),
        ("resetkeys", "may not use keys {recovery:0}:*; permit it with: ACL SETUSER worker ~{recovery:0}:*"),
        ("-publish", "may not run PUBLISH; permit it with: ACL SETUSER worker +publish"),
        ("-@sortedset", "may not run ZADD, ZSCORE, ZRANGE, ZREM; permit"),
        ("-evalsha", "may not run EVALSHA; permit it"),
    ],
)
async def test_a_worker_does_not_start_without(users: Users, by: Callable[[str], str], rule: str, told: str) -> None:
    """It raises one line that names the user and what it may not."""
    users.change("worker", rule)
    with pytest.raises(ConfigurationError) as error:
        async with Worker(by("worker"), name="a"):
            pass
    assert f"redis_url: user 'worker' {told}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", ["-hset", "-info"])
@pytest.mark.parametrize(
    "words", [("run", "--http-port", "0"), ("sidecar", "--http-port", "0", "--drain-port", "0"), ("supervise", "--", "sleep", "60")],
    ids=["run", "sidecar", "supervise"],
)  # fmt: skip
def test_a_program_ends_with_one_line_and_status_2(
    users: Users, by: Callable[[str], str], words: tuple[str, ...], rule: str
) -> None:
    """As for any other setting that does not fit."""
    user = "coordinator" if words[0] == "run" else "worker"
    users.change(user, rule)
    done = command(words[0], "--redis-url", by(user), *words[1:])
    assert done.returncode == 2, done.stderr
    said = "lost writes cannot be seen" if rule == "-info" else f"user '{user}' may not run HSET"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_store_of_conversations_is_refused_too(users: Users, by: Callable[[str], str]) -> None:
    """Its own rights are looked at when it is entered."""
    users.change("sessions", "-sscan")
    with pytest.raises(ConfigurationError, match="session store: user 'sessions' may not run SSCAN; permit it with"):
        async with RedisStore(by("sessions")):
            pass


async def test_without_info_only_if_that_is_wanted(users: Users, by: Callable[[str], str]) -> None:
    """A worker refuses, or says once what it cannot see and goes on."""
    users.make(user_for("worker", "", ("worker",), "recovery", 2), without="+info")
    with pytest.raises(ConfigurationError, match=r"lost writes cannot be seen.* or set WITHOUT_INFO=true"):
        async with Worker(by("worker"), name="a"):
            pass
    with capture_logs() as said:
        async with Worker(by("worker"), name="a", without_info=True, partitions=2) as worker:
            session = await worker.open("call", {"n": 1})
            await session.checkpoint({"n": 2})
            assert session.held
            await session.close()
    assert len([line for line in said if line["event"] == "lost_writes_unseen"]) == 1


async def test_a_store_bound_to_a_call_sees_lost_writes_too(
    users: Users, by: Callable[[str], str], redis_server: RedisServer
) -> None:
    """Its own user may not INFO: it writes nothing for a call, unless that is wanted."""
    users.change("sessions", "-info")
    async with RedisStore(by("sessions")) as store:
        async with Worker(redis_server.url, name="a") as worker:
            session = await worker.open("call")
            with pytest.raises(ConfigurationError, match=r"cannot see lost writes.* \+info"):
                await store.fenced(session).save(SessionState("call"))
            await session.close()
        async with Worker(redis_server.url, name="b", without_info=True) as worker:
            session = await worker.open("other")
            await store.fenced(session).save(SessionState("other"))
            assert await store.list_active() == ["other"]
            await session.close()
