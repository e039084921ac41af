"""An owner that gives a session away and does not hear what became of it never believes beside its successor."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
import redis

from coordinator import FencedError, StoreUnavailableError, Worker
from coordinator.store.keys import Keys
from coordinator.store.scripts import SCRIPTS
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_handover_whose_answer_is_lost(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    """The store let it go and the answer is lost: the old owner holds nothing from before the request was sent."""
    proxy = Proxy(redis_server.path)
    try:
        async with Worker(proxy.url, name="old") as old, Worker(redis_server.url, name="new") as new:
            mine = await old.open("call-1", b"data")
            believed: list[bool] = []

            async def watch() -> None:
                while True:
                    heirs = [s for s in new.sessions if s.held]
                    believed.append(bool(heirs) and (mine.held or mine.may_speak))
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                proxy.lose_reply_to(SCRIPTS["let_go"].sha.encode())
                taken = await new.adopt("call-1", wait=8)
                assert taken is not None
                with within(10):
                    await mine.lost.wait()
                tasks.cancel_scope.cancel()
            assert proxy.lost_replies == 1
            assert not any(believed)
            assert taken is not None
            assert taken.held
    finally:
        proxy.close()


async def test_a_release_that_never_arrived_is_carried_out_later(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """No answer for too long: lost from before it was sent, and others are offered the call when the store is back."""
    proxy = Proxy(redis_server.path)
    try:
        async with Worker(proxy.url, name="a") as worker:
            session = await worker.open("call-1", b"data")
            proxy.cut()
            with pytest.raises(StoreUnavailableError):
                await session.release("no codec")
            assert not session.held
            assert not session.may_speak, "somebody else may have it by now"
            assert session.lost.is_set()
            with pytest.raises(FencedError):
                await session.checkpoint(b"more")
            proxy.mend()
            await eventually(lambda: redis_client.hget(KEYS.session("call-1"), "state") == b"offered")
    finally:
        proxy.close()


async def test_a_cancelled_release_is_carried_out(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    """Cancelled while under way: lost from before it was sent, and others are offered the call."""
    proxy = Proxy(redis_server.path)
    try:
        async with Worker(proxy.url, name="a") as worker:
            session = await worker.open("call-1", b"data")
            proxy.cut()
            with anyio.move_on_after(0.05):
                await session.release()
            assert not session.held
            assert session.lost.is_set()
            proxy.mend()
            await eventually(lambda: redis_client.hget(KEYS.session("call-1"), "state") == b"offered")
    finally:
        proxy.close()


async def test_a_session_that_comes_back_to_the_same_worker(url: str, redis_client: redis.Redis) -> None:
    """It was released past the library and adopted here again: what was held under the old epoch is lost."""
    bench = Bench(redis_client)
    async with Worker(url, name="a") as worker:
        old = await worker.open("call-1", b"data")
        assert bench.release("call-1", worker.id, old.epoch).word == "OK"
        new = await worker.adopt("call-1")
        assert new is not None
        assert old.lost.is_set()
        assert not old.held
        assert new.held
        assert worker.sessions == (new,)
        with pytest.raises(FencedError):
            await old.checkpoint(b"older")
        await new.checkpoint(b"newer")
        assert redis_client.hget(KEYS.session("call-1"), "data") == b"newer"
