"""The pipelining executor against a real server that misbehaves."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import redis

from coordinator import ConfigurationError, StoreUnavailableError, Worker
from coordinator.ids import new_lineage
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.deployment import check_server
from coordinator.store.executor import Executor
from coordinator.store.keys import Keys
from coordinator.store.scripts import Argument
from tests.coordinating import partition_loop
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
INIT = calls.init(KEYS, partitions=1, protocol=1, lineage=new_lineage(), hold=0.001)


@asynccontextmanager
async def executing(url: str, timeout: float = 2.0) -> AsyncIterator[Executor]:
    """An executor on its own connection."""
    connector = Connector(url, store_timeout=timeout)
    try:
        yield connector.executor(KEYS.tag)
    finally:
        await connector.aclose()


async def test_answers_come_in_order(url: str) -> None:
    """A thousand commands at once are each answered with their own answer."""
    async with executing(url) as run:
        answers = await run.commands([("ECHO", str(n)) for n in range(1000)])
        assert answers == [str(n).encode() for n in range(1000)]


async def test_what_waits_goes_out_together(url: str, redis_client: redis.Redis) -> None:
    """A thousand commands of one moment need few reads of the server."""
    async with executing(url) as run:
        await run.command("PING")
        before = redis_client.info("stats")["total_reads_processed"]
        await run.commands([("ECHO", str(n)) for n in range(1000)])
        after = redis_client.info("stats")["total_reads_processed"]
        assert after - before < 50


async def test_cancelled_calls_do_not_shift_answers(url: str) -> None:
    """Cancel as often as you like: no call gets the answer of another."""
    async with executing(url) as run:
        wrong: list[bytes] = []

        async def ask(n: int) -> None:
            with anyio.move_on_after(0.0001 * (n % 7)):
                answer = await run.command("ECHO", str(n))
                if answer != str(n).encode():
                    wrong.append(answer)

        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                for n in range(100):
                    tasks.start_soon(ask, n)
        assert wrong == []
        assert await run.command("ECHO", "end") == b"end"


async def test_a_flushed_script_cache_is_no_error(url: str, redis_client: redis.Redis) -> None:
    """NOSCRIPT is answered with the text of the script, in the middle of a batch too."""
    async with executing(url) as run:
        for _ in range(3):
            redis_client.script_flush()
            answers = await run.run_many([INIT] * 5)
            assert {answer.word for answer in answers} == {"OK"}
        assert await run.command("ECHO", "after") == b"after"


async def test_a_killed_connection_is_made_anew(url: str, redis_client: redis.Redis) -> None:
    """CLIENT KILL costs one error of kind connection at most (none when the loop sees the end first); the next call works."""
    async with executing(url) as run:
        await run.command("PING")
        redis_client.client_kill_filter(_type="normal", skipme=True)
        try:
            await run.command("PING")
        except StoreUnavailableError as refused:
            assert refused.kind == "connection"  # noqa: PT017 - there may be none
        assert await run.command("ECHO", "again") == b"again"


async def test_a_server_that_stands_still_is_a_timeout() -> None:
    """No answer within the time limit is an error of kind timeout; when the server goes on, so do we."""
    server = RedisServer()
    try:
        async with executing(server.url, timeout=0.2) as run:
            await run.command("PING")
            server.pause()
            with pytest.raises(StoreUnavailableError) as refused:
                await run.command("ECHO", "lost")
            assert refused.value.kind == "timeout"
            server.resume()
            assert await run.command("ECHO", "mine") == b"mine"
    finally:
        server.close()


async def test_a_server_that_is_away_is_an_error_at_once() -> None:
    """Nobody listens: kind connection; after it came back the same executor works."""
    server = RedisServer()
    try:
        async with executing(server.url) as run:
            await run.command("PING")
            before = run.server
            server.kill()
            with pytest.raises(StoreUnavailableError) as refused:
                await run.command("PING")
            assert refused.value.kind == "connection"
            server.start()
            assert await run.command("PING") == b"PONG"
            assert run.server != before, "the run id of the new server is known"
    finally:
        server.close()


async def test_one_refused_command_does_not_hurt_its_neighbours(url: str) -> None:
    """In a batch each command has its own answer or its own error."""
    async with executing(url) as run:
        got: dict[str, object] = {}

        async def ask(name: str, *command: str) -> None:
            try:
                got[name] = await run.command(*command)
            except StoreUnavailableError as error:
                got[name] = error.kind

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "before", "ECHO", "1")
            tasks.start_soon(ask, "wrong", "NONSENSE")
            tasks.start_soon(ask, "after", "ECHO", "2")
        assert got == {"before": b"1", "wrong": "unsupported", "after": b"2"}


async def test_a_full_memory_is_named(redis_client: redis.Redis, url: str) -> None:
    """Out of memory is a kind of its own, and reading goes on."""
    async with executing(url) as run:
        await run.command("PING")
        redis_client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailableError) as refused:
                await run.run(INIT)
            assert refused.value.kind == "out_of_memory"
            assert await run.command("ECHO", "still") == b"still"
        finally:
            redis_client.config_set("maxmemory", "0")


async def test_closing_fails_what_waits(redis_server: RedisServer) -> None:
    """Calls under way at the end are errors, none hangs."""
    proxy = Proxy(redis_server.path)
    kinds: list[str] = []
    try:
        connector = Connector(proxy.url, store_timeout=30)
        run = connector.executor(KEYS.tag)
        await run.command("PING")
        proxy.cut()

        async def ask() -> None:
            try:
                await run.command("PING")
            except StoreUnavailableError as error:
                kinds.append(error.kind)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            await connector.aclose()
        assert len(kinds) == 3
        with pytest.raises(StoreUnavailableError):
            await run.command("PING")
    finally:
        proxy.close()


async def test_a_password_is_used_and_a_wrong_one_is_named(
    redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    """With the right password the store answers; a wrong one or none is an error of kind auth that does not tell it."""
    redis_client.config_set("requirepass", "open-sesame")
    try:
        async with executing(f"unix://:open-sesame@{redis_server.path}") as run:
            assert await run.command("PING") == b"PONG"
        for url in (f"unix://:guess@{redis_server.path}", redis_server.url):
            async with executing(url) as run:
                with pytest.raises(StoreUnavailableError) as refused:
                    await run.command("PING")
                assert refused.value.kind == "auth"
                assert "guess" not in str(refused.value)
    finally:
        redis_client.config_set("requirepass", "")


async def test_a_server_without_auth_repeats_no_password() -> None:
    """Redis repeats what stands behind a command that it does not know; here neither the error nor its causes do."""
    server = RedisServer("--rename-command", "AUTH", "")
    try:
        connector = Connector(f"unix://user:open-sesame@{server.path}", store_timeout=2.0)
        heart = connector.heart(KEYS.tag)
        init = calls.init(KEYS, partitions=1, protocol=1, lineage=new_lineage(), hold=0.001, previous="")
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: connector.executor(KEYS.tag).command("PING"),
            lambda: connector.blocking(KEYS.tag).command("PING"),
            lambda: anyio.to_thread.run_sync(heart.run, init),
        ]
        for ask in asked:
            with pytest.raises(StoreUnavailableError) as refused:
                await ask()
            assert refused.value.kind == "unsupported"
            told = "".join(traceback.format_exception(refused.value))
            assert "AUTH" in told
            assert "open-sesame" not in told
        heart.close()
        async with (await connector.listener(KEYS.tag)).pubsub() as channel:
            with pytest.raises(redis.RedisError) as heard:
                await channel.subscribe("x")
        assert "open-sesame" not in "".join(traceback.format_exception(heard.value))
        await connector.aclose()
    finally:
        server.close()


async def test_a_rotated_password_is_used_from_the_next_connection_on(
    redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    """The URL is asked for again when a connection is made."""
    passwords = ["first"]
    redis_client.config_set("requirepass", "first")
    connector = Connector(lambda: f"unix://:{passwords[-1]}@{redis_server.path}", store_timeout=2.0)
    try:
        run = connector.executor(KEYS.tag)
        assert await run.command("PING") == b"PONG"
        redis_client.config_set("requirepass", "second")
        passwords.append("second")
        redis_client.client_kill_filter(_type="normal", skipme=True)

        async def works() -> bool:
            try:
                return bool(await run.command("PING"))
            except StoreUnavailableError:
                return False

        await eventually(works)
    finally:
        redis_client.config_set("requirepass", "")
        await connector.aclose()


async def test_a_worker_with_a_wrong_password_starts_with_an_error(redis_client: redis.Redis, url: str) -> None:
    """The worker's start says what is wrong, and leaves nothing behind."""
    redis_client.config_set("requirepass", "open-sesame")
    try:
        with pytest.raises(StoreUnavailableError, match="auth"):
            async with Worker(url, name="a"):
                raise AssertionError("it was let in")
    finally:
        redis_client.config_set("requirepass", "")
    assert redis_client.keys("*") == []


async def test_a_worker_with_another_number_of_partitions_is_refused(url: str, redis_client: redis.Redis) -> None:
    """The stored number wins; the message has both."""
    async with Worker(url, name="a"):
        pass
    with pytest.raises(ConfigurationError, match="partitions: 2 is set, but this store was made with 1"):
        async with Worker(url, name="b", partitions=2):
            raise AssertionError("it was let in")


async def test_a_server_that_evicts_is_refused(url: str, redis_client: redis.Redis) -> None:
    """Worker and coordinator do not start on a Redis that deletes keys, and say which setting it is."""
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigurationError, match=r"maxmemory-policy allkeys-lru.*set maxmemory-policy noeviction"):
            async with Worker(url, name="a"):
                raise AssertionError("it was let in")
        async with partition_loop(url) as loop:
            with pytest.raises(ConfigurationError, match="allkeys-lru"):
                await loop.run()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert redis_client.keys("*") == []


class _Told(Executor):
    """A server that answers INFO so, or refuses it."""

    def __init__(self, info: str) -> None:
        self._info = info

    async def command(self, *args: Argument) -> bytes:
        if not self._info:
            raise StoreUnavailableError("permission", "this user has no permissions to run the 'info' command")
        return self._info.encode()


@pytest.mark.parametrize(
    ("info", "refused"),
    [
        ("redis_version:6.0.16", True),
        ("redis_version:5.0.7", True),
        ("redis_version:6.2.0", False),
        ("redis_version:7.2.4\r\nvalkey_version:8.0.1", False),
        ("redis_version:255.255.255", False),
        ("", False),
    ],
)
async def test_a_server_that_is_too_old_is_refused(info: str, refused: bool) -> None:
    """Below 6.2 it is named with what is needed; whoever does not tell is taken where that is wanted."""
    if refused:
        with pytest.raises(
            ConfigurationError, match=r"the server is Redis \d\.0\.\d+; 6\.2 or newer, or Valkey, is needed"
        ):
            await check_server(_Told(info), without_info=True)
    else:
        assert not await check_server(_Told(info), without_info=True)


@pytest.mark.parametrize("info", ["", "redis_version:7.2.4"])
async def test_a_server_that_does_not_tell_its_run_id_is_refused(info: str) -> None:
    """INFO is refused, or says nothing of it: lost writes could not be seen, and both ways out are named."""
    with pytest.raises(ConfigurationError, match=r"lost writes cannot be seen.* \+info, or set WITHOUT_INFO=true"):
        await check_server(_Told(info), without_info=False)


async def test_a_server_that_tells_its_run_id_is_taken() -> None:
    """With it lost writes are seen."""
    assert await check_server(_Told("run_id:1f\r\nredis_version:7.2.4"), without_info=False)
