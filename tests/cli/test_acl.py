"""`doctor --acl`: least users of Redis, and that each of their rights is needed and none does harm."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest
import redis
from typer.testing import CliRunner, Result

from coordinator import ConfigurationError, StoreUnavailableError, Worker
from coordinator.cli.app import app
from coordinator.cli.doctor_acl import USERS, users
from coordinator.cli.doctor_checks import Finding, Server
from coordinator.cli.doctor_rights import UserFor
from coordinator.cli.doctor_rights import check_rights as doctors_look
from coordinator.sessions import RedisStore, SessionState
from coordinator.sessions.rights import needed_commands
from coordinator.store import PROTOCOL, calls
from coordinator.store.acl import PASSWORD, numbers_below, user_for
from coordinator.store.connect import Connector
from coordinator.store.keys import KINDS, Keys, kind_of
from coordinator.store.past import Past
from coordinator.store.rights import (
    CONNECTING,
    OPTIONAL,
    Program,
    check_rights,
    every_kind,
    needed_by,
    rule_of,
    used_by,
)
from tests.cli.docs_tables import ROOT
from tests.redis_server import RedisServer
from tests.redis_users import Users, as_user, named
from tests.store.harness import Bench

KEYS = Keys("recovery", 0)
ALL = users("recovery", 1)
DANGEROUS = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "DEBUG SLEEP 0", "SCRIPT FLUSH", "SCRIPT KILL",
    "FUNCTION FLUSH", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "MONITOR", "ACL LIST", "ACL SETUSER voice on",
    "ACL GETUSER default", "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "CLUSTER RESET", "CLUSTER NODES",
    "REPLICAOF NO ONE", "SWAPDB 0 1", "MIGRATE h 1 k 0 1", "MODULE LIST", "SLOWLOG GET", "LATENCY RESET", "PSUBSCRIBE *",
    "PUBSUB CHANNELS", "RANDOMKEY", "DUMP {recovery:0}:meta", "MOVE {recovery:0}:meta 1", "SORT {recovery:0}:meta",
    "OBJECT HELP", "MEMORY DOCTOR",
)  # fmt: skip
"""What an administrator does, what stops a server or others, and what nobody here needs."""
OF_OTHERS = ("{recovery:1}:meta", "{recovery:0:0}:meta", "{recovery2:0}:meta", "{other:0}:session:a", "calls", "meta")


@pytest.fixture
def bench(redis_server: RedisServer, users: Users) -> Iterator[Bench]:
    """The store, looked at as an administrator."""
    client = redis_server.client()
    yield Bench(client)
    client.close()


@pytest.fixture
def client(redis_server: RedisServer, users: Users) -> Iterator[Callable[[str], Any]]:
    """Makes clients of a user."""
    found: list[Any] = []

    def make(name: str) -> Any:
        found.append(redis.Redis(unix_socket_path=redis_server.path, protocol=2, username=name, password=PASSWORD))
        return found[-1]

    yield make
    for one in found:
        one.close()


@asynccontextmanager
async def connected(server: RedisServer, name: str) -> AsyncIterator[Any]:
    """An executor, as that user."""
    connector = Connector(as_user(server.url, name))
    yield connector.executor(KEYS.tag)
    await connector.aclose()


async def looked(server: RedisServer, name: str, user_for: UserFor | None = None) -> list[Finding]:
    """What `doctor` finds of that user's rights."""
    async with connected(server, name) as executor:
        return await doctors_look(Server(executor.command, KEYS, 1, PROTOCOL), user_for)


def doctor(*words: str) -> Result:
    """`doctor` that knows of no Redis."""
    done = CliRunner().invoke(app, ["doctor", *words])
    assert done.exit_code == 0, done.output
    return done


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_the_lines_are_printed_without_a_server() -> None:
    """Standard output is lines to be given to redis-cli and nothing else; standard error says what they were made from."""
    done = doctor("--acl", "--prefix", "calls", "--partitions", "3")

    assert done.stdout.splitlines() == [user.line for user in users("calls", 3)]
    assert "prefix calls and partitions 3" in done.stderr
    assert {"worker", "coordinator", "reader"} <= {line.split()[2] for line in done.stdout.splitlines()}


def test_the_lines_as_json() -> None:
    """The settings, and each user with its rules one by one."""
    told = json.loads(doctor("--acl", "--json").stdout)

    assert (told["prefix"], told["partitions"]) == ("recovery", 1)
    assert told["users"] == [user.as_data() for user in ALL]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 16, 20, 99, 100, 101, 128, 199, 200, 256])
def test_patterns_fit_the_partitions_and_no_others(count: int) -> None:
    """The numbers below the count, each once, and nothing else that a key may have in that place."""
    patterns = numbers_below(count)
    others = ["", "00", "01", "-1", "1:0", "a", *map(str, range(count, 1200))]

    assert [sum(fnmatch.fnmatchcase(str(n), one) for one in patterns) for n in range(count)] == [1] * count
    assert [text for text in others if any(fnmatch.fnmatchcase(text, one) for one in patterns)] == []


# -- none does harm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [user.name for user in ALL])
def test_nothing_dangerous_is_permitted(users: Users, client: Callable[[str], Any], name: str) -> None:
    """No administrator's command, also from a script, and no key or channel of another deployment."""
    user = client(name)
    for text in DANGEROUS:
        with pytest.raises(redis.ResponseError, match=r"no permissions|NOPERM|unknown (sub)?command|Unknown"):
            user.execute_command(*text.split())
    for key in OF_OTHERS:
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command("HMGET", key, "field")
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command("EVAL", "return redis.call('HMGET', KEYS[1], 'f')", 1, key)
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command("PUBLISH", f"{key}:mailbox:a", "x")


@pytest.mark.parametrize("program", ["reader", "exporter"])
def test_who_only_looks_changes_nothing(users: Users, bench: Bench, program: Program) -> None:
    """Not one of its commands writes, whatever its arguments: the server says so of each; a reader runs no script either."""
    told = bench.client.command()
    names = [name[0].lower() for name in used_by(program)]

    assert [name for name in names if "write" in told[name]["flags"]] == []
    assert {"eval", "evalsha", "publish", "subscribe"} & {*names} <= ({"eval"} if program == "exporter" else set())
    assert [
        rule for rule in CONNECTING if rule not in ("client|setname", "select", "cluster|slots", "acl|whoami", "info")
    ] == []


# -- each is needed ----------------------------------------------------------------------------------------------------

STARTED: tuple[Program, ...] = ("worker", "coordinator", "operator")
NOT_FROM_SCRIPTS = {"+eval", "+subscribe", "+unsubscribe"}


def can_be_asked(bench: Bench) -> bool:
    """Redis 6.2 cannot be, for these, without doing them."""
    return int(bench.client.info("server")["redis_version"].split(".")[0]) >= 7


@pytest.mark.parametrize("program", STARTED)
async def test_each_command_is_needed(redis_server: RedisServer, users: Users, bench: Bench, program: Program) -> None:
    """A line without any single one: the program is refused at its start, by a sentence that names it and the rule that gives it."""
    wrong = {}
    async with connected(redis_server, program) as executor:
        await check_rights(executor, KEYS, program)
        assert users.refused() == set()
        for name in sorted(needed_by(program) - set(OPTIONAL)):
            rule = rule_of(name)
            if rule in NOT_FROM_SCRIPTS and not can_be_asked(bench):
                continue
            users.make(named(program), without=rule)
            try:
                await check_rights(executor, KEYS, program)
                wrong[rule] = "it began"
            except ConfigurationError as error:
                told = f"user '{program}' may not run {' '.join(name)}; permit it with: ACL SETUSER {program} {rule}"
                wrong |= {} if told in str(error) else {rule: str(error)}
    assert wrong == {}
    assert bench.client.dbsize() == 0


async def test_each_command_of_a_reader_is_needed(redis_server: RedisServer, users: Users) -> None:
    """`doctor` names exactly the one that is missing, and the line that gives it."""
    for name in sorted(needed_by("reader")):
        users.make(named("reader"), without=rule_of(name))
        [found] = await looked(redis_server, "reader", "reader")
        assert (found.level, found.advice) == ("fail", f"ACL SETUSER reader {rule_of(name)}")


def test_each_command_of_an_exporter_is_needed(users: Users, bench: Bench, client: Callable[[str], Any]) -> None:
    """Its script says what is orphaned; without any one it is refused."""
    bench.init()
    bench.join("dead~1")
    bench.open("call", "dead~1")
    bench.certify("dead~1")
    exporter, script = client("exporter"), (ROOT / "helm/files/orphans.lua").read_text()
    assert b"recovery_orphans:0" in exporter.eval(script, 0)
    for name in sorted(needed_by("exporter")):
        users.make(named("exporter"), without=rule_of(name))
        with pytest.raises(redis.ResponseError, match=r"no permissions|can't run|ACL failure"):
            exporter.eval(script, 0)


@pytest.mark.parametrize("name", ["worker", "coordinator", "reader", "operator"])
@pytest.mark.parametrize("partition", [0, 10])
async def test_each_pattern_is_needed(redis_server: RedisServer, users: Users, name: str, partition: int) -> None:
    """Without the keys of some partitions, or their channels, a program is refused at its start, or what it asks fails."""
    programs = next(programs for user, _, programs in USERS if user == name)
    user = user_for(name, "", programs, "recovery", 11)
    keys, connector = Keys("recovery", partition), Connector(as_user(redis_server.url, name))
    executor = connector.executor(keys.tag)
    for pattern in (*user.keys, *user.channels):
        prefix, what = ("&", "channels") if pattern in user.channels else ("~", "keys")
        users.make(user, without=f"{prefix}{pattern}")
        hit = fnmatch.fnmatchcase(keys.tag, pattern.partition(":")[0] + ":" + pattern.split(":")[1])
        if name == "reader":
            said = executor.command("HGET", keys.meta, "partitions")
            error: Any = StoreUnavailableError
        else:
            said = check_rights(executor, keys, programs[0])
            error = ConfigurationError
        if hit:
            with pytest.raises(error, match=rf"use {what} |to access" if name != "reader" else "access"):
                await said
        else:
            await said
    await connector.aclose()


async def test_each_kind_of_key_is_looked_at(redis_server: RedisServer, users: Users) -> None:
    """Patterns that leave out any one kind are not enough to begin with."""
    assert {kind_of(key) for key in every_kind(KEYS)} == KINDS
    async with connected(redis_server, "worker") as executor:
        for left_out in sorted(KINDS):
            keys = [f"~{KEYS.tag}:{kind}{end}" for kind in KINDS - {left_out} for end in ("", ":*")]
            users.change("worker", "resetkeys", *keys)
            with pytest.raises(ConfigurationError, match=r"may not use keys \{recovery:0\}:\*; permit|run EVALSHA"):
                await check_rights(executor, KEYS, "worker")


async def test_without_being_told_who_listens_presence_is_what_the_instance_says(
    redis_server: RedisServer, users: Users, bench: Bench
) -> None:
    """PUBSUB NUMSUB is why a mailbox that nobody hears counts as no presence; no program is refused without."""
    bench.init()
    for without, presence in (("", b"0"), ("+pubsub|numsub", b"1")):
        users.make(named("worker"), without=without)
        instance = f"a{presence.decode()}~1"
        bench.join(instance)
        async with connected(redis_server, "worker") as executor:
            await check_rights(executor, KEYS, "worker")
            await executor.run(
                calls.beat(
                    KEYS, instance=instance, dead_after=2, seen_server=bench.server_id, past=Past("lineage-1"), roll="",
                    loop_lag=0, presence=True,
                )
            )  # fmt: skip
        assert bench.client.hget(KEYS.instance(instance), "presence") == presence


async def test_what_a_connection_sends_by_itself_is_needed(redis_server: RedisServer, users: Users) -> None:
    """A database by its number, the connection's name, and the server's run id: refused, the program does not begin, and says why."""
    for rule in ("+select", "+client|setname", "+info"):
        users.make(named("worker"), without=rule)
        with pytest.raises(ConfigurationError, match=re.escape(rule)):
            async with Worker(as_user(redis_server.url, "worker") + "?db=1", name="a"):
                pass


async def test_a_message_says_the_user_only_if_it_may(redis_server: RedisServer, users: Users) -> None:
    """ACL WHOAMI is for the line that a refusal ends with."""
    users.make(user_for("worker", "", ("reader",), "recovery", 1), without="+acl|whoami")
    [found] = await looked(redis_server, "worker", "worker")

    assert found.advice.startswith("ACL SETUSER <user> +")


async def test_each_command_of_the_store_of_conversations_is_needed(
    redis_server: RedisServer, users: Users, bench: Bench
) -> None:
    """Without any one it does not begin."""
    for rule in map(rule_of, sorted(needed_commands())):
        if rule in NOT_FROM_SCRIPTS and not can_be_asked(bench):
            continue
        users.make(named("sessions"), without=rule)
        with pytest.raises(ConfigurationError, match=re.escape(f"ACL SETUSER sessions {rule}")):
            async with RedisStore(as_user(redis_server.url, "sessions")):
                pass


async def test_each_key_of_the_store_of_conversations_is_needed(
    redis_server: RedisServer, users: Users, bench: Bench
) -> None:
    """Without those of its own it does not begin; without one of a call's, a write for the call is refused."""
    url = as_user(redis_server.url, "sessions")
    for n, key in enumerate(named("sessions").keys):
        users.make(named("sessions"), without=f"~{key}")
        async with Worker(as_user(redis_server.url, "worker"), name=f"a{n}") as worker:
            call = await worker.open(f"call-{n}")
            own = not key.startswith("{")
            error: Any = ConfigurationError if own else (ConfigurationError, StoreUnavailableError)
            with pytest.raises(error, match=r"use keys|permission"):
                async with RedisStore(url) as store:
                    await store.fenced(call).save(SessionState(call.id))
            await call.close()


# -- what doctor says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, _, _ in USERS])
async def test_a_least_user_is_fit_for_its_program(redis_server: RedisServer, users: Users, name: str) -> None:
    """Of the programs that it is not for nothing is said; of its own, that all is there."""
    programs = next(programs for user, _, programs in USERS if user == name)
    found = await looked(redis_server, name)

    assert {finding.level for finding in found} == {"ok"}
    assert {f"rights: {program}" for program in programs} <= {finding.check for finding in found}


@pytest.mark.parametrize("name", get_args(UserFor))
async def test_each_user_that_is_printed_can_be_asked_for(
    redis_server: RedisServer, users: Users, name: UserFor
) -> None:
    """`--for` takes each of their names, and finds that user fit, and one with a right too few not, with the line that gives it."""
    assert name in {user.name for user in ALL}
    found = await looked(redis_server, name, name)
    assert found
    assert {finding.level for finding in found} == {"ok"}
    lacks = next(rule for rule in named(name).commands if rule in ("+hget", "+get"))
    users.make(named(name), without=lacks)
    found = await looked(redis_server, name, name)
    assert f"ACL SETUSER {name} {lacks}" in {finding.advice for finding in found}


@pytest.mark.parametrize("pattern", named("sessions").keys)
async def test_keys_that_the_store_of_conversations_may_not_use_are_named(
    redis_server: RedisServer, users: Users, pattern: str
) -> None:
    """Its own ones, and those by which a write for a call is fenced."""
    users.make(named("sessions"), without=f"~{pattern}")
    [found] = await looked(redis_server, "sessions", "sessions")
    assert found.level == "fail"
    assert f"~{pattern}" in found.advice


async def test_a_user_with_one_right_too_few_is_not_fit(redis_server: RedisServer, users: Users) -> None:
    """It is named for the program that it is for, with the line that gives it; and more so where all is permitted but that one."""
    users.make(named("coordinator"), without="+xpending")
    found = {finding.check: finding for finding in await looked(redis_server, "coordinator")}
    assert found["rights: coordinator"].advice == "ACL SETUSER coordinator +xpending"
    users.change("coordinator", "+@all", "-xpending")
    found = {finding.check: finding for finding in await looked(redis_server, "coordinator")}
    assert (found["rights: coordinator"].level, found["rights: worker"].level) == ("fail", "ok")


async def test_what_a_program_goes_on_without_is_a_warning(redis_server: RedisServer, users: Users) -> None:
    """PUBSUB NUMSUB alone may be missing."""
    users.make(named("coordinator"), without="+pubsub|numsub")
    [found] = await looked(redis_server, "coordinator", "coordinator")

    assert (found.level, found.advice) == ("warn", "ACL SETUSER coordinator +pubsub|numsub")
