"""What counts as an instance's presence, on real connections that something in between forgets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import redis

from coordinator import Worker, clock
from coordinator.errors import StoreUnavailableError
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from coordinator.worker.heart import Beat
from coordinator.worker.notifications import Notifications
from coordinator.worker.subscription import SilentSubscriptionError, Subscription
from tests import inside
from tests.inside import member_of, members_of
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


@pytest.fixture
def proxy(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[Proxy]:
    """Something between the workers and the store."""
    found = Proxy(redis_server.path)
    yield found
    found.close()


def listeners(client: Any) -> set[str]:
    """The connections that listen, as the server numbers them."""
    return {one["id"] for one in client.client_list(_type="pubsub")}


def present(client: Any, worker: Worker) -> bool:
    """Whether the store takes it for present: that its connection is gone would count."""
    return bool(client.hget(KEYS.instance(worker.id), "presence") == b"1")


def listened_to(client: Any, worker: Worker) -> bool:
    """Whether somebody listens on its channel."""
    return bool(client.pubsub_numsub(KEYS.mailbox(worker.id))[0][1])


@pytest.mark.parametrize("server_told", [True, False])
async def test_a_forgotten_connection_is_made_anew(proxy: Proxy, redis_client: redis.Redis, server_told: bool) -> None:
    """A connection that something in between forgot, with or without the server's knowledge, is replaced, and then counts."""
    async with Worker(proxy.url, name="a") as worker:
        await eventually(lambda: present(redis_client, worker))
        before = listeners(redis_client)
        assert len(before) == 1
        proxy.forget_listeners(server_told=server_told)
        await eventually(lambda: listeners(redis_client) and not listeners(redis_client) & before)
        await eventually(lambda: present(redis_client, worker) and listened_to(redis_client, worker))


async def test_nobody_is_present_before_the_server_confirmed_it(proxy: Proxy, redis_client: redis.Redis) -> None:
    """A subscription whose confirmation never comes does not count, and is asked for again on another connection."""
    proxy.deaf = True
    async with Worker(proxy.url, name="a") as worker:
        await eventually(lambda: listened_to(redis_client, worker))
        first = listeners(redis_client)
        await eventually(lambda: listeners(redis_client) - first)
        assert not present(redis_client, worker)
        proxy.deaf = False
        await eventually(lambda: present(redis_client, worker))


async def test_a_connection_to_another_server_does_not_count(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The presence connection leads elsewhere than the beats, as after a planned failover behind a proxy: it is made anew."""
    other, plain, asked = RedisServer(), Connector.listener, []

    async def listener(connector: Connector, key: str) -> Any:
        asked.append(key)
        return await plain(connector if len(asked) > 1 else Connector(other.url), key)

    monkeypatch.setattr(Connector, "listener", listener)
    try:
        async with Worker(url, name="a") as worker:
            await eventually(lambda: listened_to(other.client(), worker) or len(asked) > 1)
            await eventually(lambda: present(redis_client, worker) and listened_to(redis_client, worker))
            assert len(asked) >= 2
    finally:
        other.close()


async def test_a_listener_is_one_connection(url: str, redis_client: redis.Redis) -> None:
    """After its end nothing is heard and nothing can be said, by whoever reads and whoever writes: no other takes its place."""
    connector = Connector(url)
    client = await connector.listener(KEYS.tag)
    box: Any = client.pubsub()
    await box.connect()
    await box.subscribe("a")
    await eventually(lambda: listeners(redis_client))
    redis_client.client_kill_filter(_type="pubsub")
    with pytest.raises(redis.ConnectionError), within(10):
        while True:
            await box.get_message(timeout=0.1)
    for again in (box.ping("1"), box.subscribe("b"), box.get_message(timeout=0.1)):
        with pytest.raises(redis.ConnectionError):
            await again
    assert not listeners(redis_client)
    await connector.aclose()


async def test_a_message_that_is_no_text_stops_nobody(url: str, redis_client: redis.Redis) -> None:
    """Whatever somebody publishes on a mailbox's channel, what comes after it is heard."""
    async with Worker(url, name="a") as worker:
        await eventually(lambda: present(redis_client, worker))
        redis_client.publish(KEYS.mailbox(worker.id), b"\xff\xfe")
        redis_client.publish(KEYS.mailbox(worker.id), f"drain {worker.id}")
        await eventually(lambda: worker.is_draining)


async def test_a_failed_beat_is_a_doubt(url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat that had no answer says that the other connection may be gone as well."""
    doubts = []
    async with Worker(url, name="a") as worker:
        await eventually(lambda: present(redis_client, worker))
        monkeypatch.setattr(Notifications, "doubt", lambda post: doubts.append(post))
        [member] = members_of(worker)
        inside.hear(member, Beat(member.ledger.roll, clock.now(), error=StoreUnavailableError("timeout", "no answer")))
        assert doubts == [member.runtime.notifications]


# -- one connection, turn by turn --------------------------------------------------------------------------------------


class Box:
    """A pub/sub connection whose server says what the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.said: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.now = 1000.0

    async def get_message(self, timeout: float) -> dict[str, Any] | None:
        await anyio.lowlevel.checkpoint()
        self.now += self.seconds
        return self.said.pop(0) if self.said else None

    async def subscribe(self, *channels: str) -> None:
        self.sent.append(("subscribe", *channels))

    async def unsubscribe(self, *channels: str) -> None:
        self.sent.append(("unsubscribe", *channels))

    async def ping(self, text: str) -> None:
        self.sent.append(("ping", text))

    def confirm(self, channel: str) -> None:
        self.said.append({"type": "subscribe", "channel": channel.encode(), "data": 1})

    def pong(self) -> None:
        self.said.append({"type": "pong", "channel": None, "data": self.sent[-1][1].encode()})


class Heard:
    """A line on such a connection, run turn by turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.box = Box()
        monkeypatch.setattr(clock, "now", lambda: self.box.now)
        self.told: list[str] = []
        self.line = Subscription(
            self.box, 0.5, take=lambda channel, text: None, confirmed=self.told.append,
            doubted=lambda: self.told.append("doubt"),
        )  # fmt: skip

    async def until(self, what: Any) -> None:
        """Runs until something is so."""
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with contextlib.suppress(anyio.get_cancelled_exc_class()):
                    await self.line.run()

            tasks.start_soon(run)
            await eventually(what)
            tasks.cancel_scope.cancel()


async def test_a_line_listens_to_what_is_wanted_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for already is not asked for again; what is wanted no more counts no more, whatever comes late."""
    heard = Heard(monkeypatch)
    box, line = heard.box, heard.line
    await line.listen_to(["a", "b"])
    box.confirm("a")
    await heard.until(lambda: line.counts("a"))
    await line.listen_to(["b", "c"])
    asked = [one for one in box.sent if one[0] != "ping"]
    assert asked == [("subscribe", "a", "b"), ("unsubscribe", "a"), ("subscribe", "c")]
    box.confirm("a")
    box.confirm("b")
    await heard.until(lambda: line.counts("b"))
    assert not line.counts("a")
    assert not line.is_whole


async def test_a_worker_that_goes_leaves_no_work_behind(url: str) -> None:
    """Two workers of a process, one of which is given up with its event loop: nothing was begun that nobody will do."""
    async with Worker(url, name="a") as first, Worker(url, name="b") as second:
        await eventually(lambda: member_of(first).mailbox.subscribed and member_of(second).mailbox.subscribed)
        post = member_of(first).runtime.notifications
        before = asyncio.all_tasks()
        post.remove(member_of(first).part.keys.mailbox(first.id))
        assert asyncio.all_tasks() == before


async def test_a_pause_of_the_process_is_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """After this process stood still nothing counts until the server has answered a question that came after."""
    heard = Heard(monkeypatch)
    box, line = heard.box, heard.line
    await line.listen_to(["a"])
    box.confirm("a")
    await heard.until(lambda: line.counts("a"))
    box.seconds = 60.0
    await heard.until(lambda: not line.counts("a"))
    box.seconds = 0.0
    await heard.until(lambda: box.sent[-1][0] == "ping")
    assert not line.counts("a")
    box.pong()
    await heard.until(lambda: line.counts("a"))
    assert heard.told == ["a", "doubt", "doubt"]


async def test_an_answer_from_before_a_doubt_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to an older question says nothing of the time since."""
    heard = Heard(monkeypatch)
    box, line = heard.box, heard.line
    await line.listen_to(["a"])
    box.confirm("a")
    box.seconds = 0.0
    await heard.until(lambda: line.counts("a") and box.sent[-1][0] == "ping")
    box.pong()
    line.doubt()
    await heard.until(lambda: not box.said and len(box.sent) == 3)
    assert not line.counts("a")
    box.pong()
    await heard.until(lambda: line.counts("a"))


async def test_a_line_without_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question without an answer ends the line; a pause of this process counts as one turn."""
    heard = Heard(monkeypatch)
    turns = 0
    plain = heard.box.get_message

    async def get_message(timeout: float) -> dict[str, Any] | None:
        nonlocal turns
        turns += 1
        heard.box.seconds = 30.0 if turns < 10 else 0.25
        return await plain(timeout)

    monkeypatch.setattr(heard.box, "get_message", get_message)
    with pytest.raises(SilentSubscriptionError), within(10):
        await heard.line.run()
    assert turns > 10
