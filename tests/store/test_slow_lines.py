"""Lines that carry little: it takes longer, and nothing fails as long as something moves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import redis

from coordinator import StoreUnavailableError, Worker
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.executor import Executor
from coordinator.store.keys import Keys
from coordinator.store.packing import pack
from coordinator.store.scripts import ScriptCall
from coordinator.store.thread_link import ThreadLink
from coordinator.store.url_source import UrlSource
from tests import inside
from tests.redis_server import RedisServer
from tests.slow_line import SlowLine
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
TIMEOUT = 0.3
MBIT = 125_000
KIB = 1024
PLAIN, GULPING = 1448, 64 * KIB
"""A line on which bytes are seen to go, and one with a proxy that swallows whole requests."""

Lines = Callable[..., SlowLine]


@pytest.fixture
def slow_line(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[Lines]:
    """Makes slow lines to the empty server."""
    made: list[SlowLine] = []

    def make(**options: Any) -> SlowLine:
        made.append(SlowLine(redis_server.path, **options))
        return made[-1]

    yield make
    for line in made:
        line.close()
    redis_client.flushall()


@asynccontextmanager
async def executing(line: SlowLine) -> AsyncIterator[Executor]:
    """An executor over a line, connected."""
    connector = Connector(line.url, store_timeout=TIMEOUT)
    try:
        run = connector.executor(KEYS.tag)
        await run.command("PING")
        yield run
    finally:
        await connector.aclose()


async def all_of(*asked: Awaitable[Any]) -> list[Any]:
    """Their answers and errors."""
    return await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
async def test_many_large_checkpoints_are_all_acknowledged(slow_line: Lines, gulp: int) -> None:
    """Thirty calls of 64 KiB at one moment over 20 Mbit/s: all are written, and none is sent twice."""
    line = slow_line(gulp=gulp)
    async with Worker(line.url, name="a", store_timeout=TIMEOUT) as worker:
        sessions = [await worker.open(f"call-{n}", b"x") for n in range(30)]
        line.rate, before = 20 * MBIT, line.up.carried
        assert await all_of(*(s.checkpoint(os.urandom(64 * KIB)) for s in sessions)) == [None] * 30
        assert line.up.carried - before < 1.2 * 30 * 64 * KIB
        line.rate = 0


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
async def test_many_smaller_checkpoints_over_a_slower_line(slow_line: Lines, gulp: int) -> None:
    """A hundred calls of 2 KiB over 2 Mbit/s."""
    line = slow_line(gulp=gulp)
    async with Worker(line.url, name="a", store_timeout=TIMEOUT) as worker:
        sessions = [await worker.open(f"call-{n}", b"x") for n in range(100)]
        line.rate = 2 * MBIT
        assert await all_of(*(s.checkpoint(os.urandom(2 * KIB)) for s in sessions)) == [None] * 100
        line.rate = 0


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
async def test_a_rate_that_falls_in_the_middle(slow_line: Lines, gulp: int) -> None:
    """A line that carries a tenth from one moment to the next is late, not broken."""
    line = slow_line(gulp=gulp)
    async with executing(line) as run:
        line.rate = 40 * MBIT
        asking = [asyncio.ensure_future(run.command("SET", f"k{n}", os.urandom(64 * KIB))) for n in range(30)]
        await eventually(lambda: sum(a.done() for a in asking) >= 10)
        line.rate /= 10
        assert await all_of(*asking) == [b"OK"] * 30


async def test_a_line_with_latency(slow_line: Lines) -> None:
    """Each answer takes 0.2 s; large and small requests are answered, and the line is used meanwhile."""
    line = slow_line(delay=0.1, rate=40 * MBIT)
    async with executing(line) as run:
        large = [run.command("SET", f"large-{n}", os.urandom(64 * KIB)) for n in range(20)]
        small = [run.command("SET", f"small-{n}", "1") for n in range(100)]
        assert await all_of(*large, *small) == [b"OK"] * 120


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
async def test_one_request_that_takes_longer_than_the_time_limit(slow_line: Lines, gulp: int) -> None:
    """64 KiB at 60 KB a second: more than a second, and bytes move all the time."""
    line = slow_line(gulp=gulp)
    async with executing(line) as run:
        line.rate = 60_000
        assert await run.command("SET", "k", os.urandom(64 * KIB)) == b"OK"
        assert line.up.carried < 70 * KIB


async def test_a_line_slower_than_any_allowance(slow_line: Lines) -> None:
    """20 KiB at 6 KB a second, on which the bytes are seen to go: that is movement, however little."""
    line = slow_line()
    async with executing(line) as run:
        line.rate = 6_000
        assert await run.command("SET", "k", os.urandom(20 * KIB)) == b"OK"
        assert line.up.carried < 25 * KIB


async def test_a_large_script_call_is_sent_once_to_a_server_that_does_not_know_the_script(
    slow_line: Lines, redis_client: redis.Redis
) -> None:
    """After SCRIPT FLUSH, and on a new connection: the data crosses the line once; later without the script's text."""
    line = slow_line()
    async with executing(line) as run:
        redis_client.script_flush()
        carried = []
        for _ in range(2):
            before = line.up.carried
            await run.run(checkpoint("s", 64 * KIB))
            carried.append(line.up.carried - before)
        assert 64 * KIB < carried[1] < carried[0] < 80 * KIB


@pytest.fixture
def large_answers(redis_client: redis.Redis) -> dict[str, tuple[Any, ...]]:
    """Commands with answers of about 200 KB, by name."""
    redis_client.sadd("set", *(f"{n:040d}" for n in range(4000)))
    redis_client.hset("hash", mapping={f"data-{n}": os.urandom(64 * KIB) for n in range(3)})
    redis_client.xgroup_create("stream", "workers", id="0", mkstream=True)
    for _ in range(25):
        redis_client.xadd("stream", {"data": os.urandom(8 * KIB)})
    return {
        "set": ("SMEMBERS", "set"),
        "hash": ("HGETALL", "hash"),
        "stream": ("XREADGROUP", "GROUP", "workers", "a", "COUNT", 25, "STREAMS", "stream", ">"),
        "blocking": ("XREADGROUP", "GROUP", "workers", "a", "COUNT", 25, "BLOCK", 1000, "STREAMS", "stream", ">"),
    }


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
@pytest.mark.parametrize("name", ["set", "hash", "stream", "blocking"])
async def test_a_large_answer_takes_its_time(
    slow_line: Lines, large_answers: dict[str, tuple[Any, ...]], gulp: int, name: str
) -> None:
    """About 200 KB over 2 Mbit/s, three times the time limit: it is read to its end."""
    line = slow_line(gulp=gulp, rate=2.2 * MBIT)
    connector = Connector(line.url, store_timeout=TIMEOUT)
    try:
        ask = connector.blocking(KEYS.tag).command if name == "blocking" else connector.executor(KEYS.tag).command
        answer = await ask(*large_answers[name])
        assert len(answer[0][1] if "XREADGROUP" in large_answers[name] else answer) in (4000, 6, 25)
    finally:
        await connector.aclose()


async def test_bytes_that_arrive_are_movement(slow_line: Lines, large_answers: dict[str, tuple[Any, ...]]) -> None:
    """Also without any allowance for what may be held back in between."""
    line = slow_line(rate=2.2 * MBIT)
    async with executing(line) as run:
        inside.distrust_no_proxy(run)
        assert len(await run.command(*large_answers["set"])) == 4000


@pytest.mark.parametrize("gulp", [PLAIN, GULPING])
@pytest.mark.parametrize("name", ["set", "hash", "stream"])
async def test_the_thread_reads_a_large_answer_to_its_end(
    slow_line: Lines, large_answers: dict[str, tuple[Any, ...]], gulp: int, name: str
) -> None:
    """The thread's exchange has a limit in all, but does not cut an answer that arrives; it has a word with the thread meanwhile."""
    line = slow_line(gulp=gulp, rate=2.2 * MBIT)
    words: list[None] = []
    link = ThreadLink(UrlSource(line.url), KEYS.tag, TIMEOUT, lambda: words.append(None))
    [answer] = await anyio.to_thread.run_sync(link.exchange, [pack(large_answers[name])])
    assert not isinstance(answer, Exception)
    assert len(words) > 10
    link.close()


async def test_the_thread_does_not_wait_for_answer_after_answer(slow_line: Lines) -> None:
    """What is asked of the thread has a limit in all: the answers that came count, the others are given up."""
    line = slow_line(rate=60_000)
    link = ThreadLink(UrlSource(line.url), KEYS.tag, TIMEOUT)
    answers = await anyio.to_thread.run_sync(link.exchange, [pack(("SET", "k", os.urandom(8 * KIB)))] * 20)
    kinds = [a if isinstance(a, bytes) else type(a) for a in answers]
    done = kinds.count(b"OK")
    assert 0 < done < 20
    assert kinds == [b"OK"] * done + [StoreUnavailableError] * (20 - done)
    link.close()


def checkpoint(session: str, size: int) -> ScriptCall[Any]:
    """A checkpoint of a session that nobody opened: it is answered, which is enough here."""
    return calls.checkpoint(
        KEYS, session=session, instance="a~1", epoch=1, sequence=1, data=os.urandom(size), encoding="bytes"
    )


async def test_a_small_checkpoint_does_not_wait_behind_large_ones_of_other_calls(slow_line: Lines) -> None:
    """Twenty large checkpoints wait when a small one comes: it is answered before most of them."""
    line = slow_line()
    done: list[str] = []
    away: list[int] = []
    async with executing(line) as run:

        async def write(name: str, size: int) -> None:
            await run.run(checkpoint(name, size))
            done.append(name)
            wire = inside.link_of(run).wire
            assert wire is not None
            away.append(wire.bytes_away)

        line.rate = 8 * MBIT
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(write, f"large-{n}", 64 * KIB)
            await eventually(lambda: done)
            tasks.start_soon(write, "small", 200)
        assert done.index("small") < 10
        assert max(away) < 8 * 64 * KIB, "no more is on its way than the line carries soon"
        assert [name for name in done if name != "small"] == [f"large-{n}" for n in range(20)]


async def test_what_one_caller_asks_for_stays_in_its_order(slow_line: Lines, redis_client: redis.Redis) -> None:
    """Large and small commands, pipelined and one by one, on a slow line: they arrive as they were sent off."""
    line = slow_line()
    async with executing(line) as run:
        line.rate = 8 * MBIT
        sizes = [64 * KIB, 10, 10, 64 * KIB, 10, 9 * KIB, 10]
        pipelined = run.commands([("RPUSH", "list", b"%d:" % n + os.urandom(size)) for n, size in enumerate(sizes)])
        singly = [
            run.command("RPUSH", "list", b"%d:" % n + os.urandom(size)) for n, size in enumerate(sizes, len(sizes))
        ]
        await all_of(pipelined, *singly)
    stored: Any = redis_client.lrange("list", 0, -1)
    assert [int(item.split(b":")[0]) for item in stored] == list(range(2 * len(sizes)))


async def test_a_line_on_which_nothing_moves_is_given_up(slow_line: Lines) -> None:
    """It carries nothing any more and breaks nothing either: after the time limit that is an error of kind timeout."""
    line = slow_line()
    async with executing(line) as run:
        line.stuck = True
        with pytest.raises(StoreUnavailableError) as refused:
            await run.command("ECHO", "lost")
        assert refused.value.kind == "timeout"
        line.stuck = False
        assert await run.command("ECHO", "mine") == b"mine"
