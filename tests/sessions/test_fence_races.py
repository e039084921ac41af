"""However writes and changes of owner follow each other: nothing is written under an epoch that is over."""

from __future__ import annotations

import json
import signal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator import Worker
from coordinator.sessions import RedisStore, SessionManager, calls, recover
from coordinator.sessions.keys import SessionKeys
from coordinator.store.fence import Fence
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import within

WHO = ("a~1", "b~1")
WRITES = ("save", "create", "heartbeat", "delete")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(WRITES), st.sampled_from(WHO), st.booleans()),
        st.tuples(st.sampled_from(["release", "adopt", "die"]), st.sampled_from(WHO), st.just(False)),
        st.tuples(st.sampled_from(["lose writes", "hold ends"]), st.just(""), st.just(False)),
    ),
    max_size=30,
)


class World:
    """Two instances, one session, and who may write it by right."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self.bench = Bench(client)
        self.bench.init(hold_ms=60_000)
        for who in WHO:
            self.bench.join(who)
        self.owner = WHO[0]
        self.epochs = {WHO[0]: self.bench.open("s1", WHO[0]).int("epoch"), WHO[1]: 1}
        self.had = {who: [epoch] for who, epoch in self.epochs.items()}
        self.dead: set[str] = set()
        self.held = False
        self.servers = 0

    def write(self, what: str, who: str, old: bool) -> str:
        """One fenced write, perhaps under the first epoch that the writer had; the word."""
        fence = Fence(self.bench.keys, "s1", who, self.had[who][0] if old else self.epochs[who])
        common: Any = {"session": "s1", "fence": fence}
        value = b'{"id":"s1","status":"active","updated_at":"x","by":"%s"}' % who.encode()
        new: Any = {"value": value, "ttl": 60, "listed": True, "version": who, "limit": 0}
        keys = SessionKeys()
        make: Any = {
            "save": lambda: calls.save(keys, **common, **new, expected="", seen=""),
            "create": lambda: calls.create(keys, **common, **new),
            "heartbeat": lambda: calls.heartbeat(keys, **common, updated_at="y", ttl=60),
            "delete": lambda: calls.delete(keys, **common),
        }[what]
        return self.bench.run(make()).word

    def expected(self, who: str, old: bool) -> str:
        """What the fence must say: '' when it lets the writer through."""
        if who in self.dead:
            return "FENCED"
        if self.held:
            return "RESYNC"
        same = not old or self.had[who][0] == self.epochs[who]
        return "" if self.owner == who and same else "FENCED"

    def change(self, what: str, who: str) -> None:
        """Somebody else, or nobody, owns it; or the store may have lost writes."""
        match what:
            case "release" if self.owner == who and not self.held:
                assert self.bench.release("s1", who, self.epochs[who]).word == "OK"
                self.owner = ""
            case "adopt" if not self.owner and not self.held and who not in self.dead:
                self.epochs[who] = self.bench.adopt("s1", who, None).int("epoch")
                self.had[who].append(self.epochs[who])
                self.owner = who
            case "die" if not self.dead:
                self.bench.certify(who)
                self.dead.add(who)
                if self.owner == who:
                    self.owner = "the grave"
            case "lose writes":
                self.servers += 1
                self.bench.server_id = f"server {self.servers}"
                self.held = True
            case "hold ends":
                self.bench.end_hold()
                self.held = self.bench.client.hget(self.bench.keys.meta, "server") != self.bench.server_id.encode()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_only_the_owner_writes(shared: redis.Redis, steps: list[tuple[str, str, bool]]) -> None:
    """In any order of events a write is accepted from the owner of that moment only, and no refused write changes a byte."""
    world = World(shared)
    for what, who, old in steps:
        if what not in WRITES:
            world.change(what, who)
            continue
        before = shared.get("voicesession:s1"), shared.smembers("voicesession:active")
        expected, word = world.expected(who, old), world.write(what, who, old)
        if expected:
            assert word == expected
            assert (shared.get("voicesession:s1"), shared.smembers("voicesession:active")) == before
        else:
            assert word not in ("FENCED", "RESYNC", "UNKNOWN")
    shared.flushall()


@pytest.mark.timeout(100)
async def test_queued_saves_of_a_paused_owner(redis_server: RedisServer, shared: redis.Redis) -> None:
    """A worker stood still with saves on their way, and another has its call: each of them is refused, and it knows of its loss."""
    url = redis_server.url
    stored: Any = shared
    old = Process("tests.sessions.saving_process", url, "old", "call-1")
    try:
        old.wait_for("ready")
        async with (
            coordinating(url),
            Worker(url, name="new") as new,
            RedisStore(url) as store,
        ):
            old.send(signal.SIGSTOP)
            with within(30):
                async for offer in new.offers():
                    call = await recover(offer, SessionManager(store))
                    break
            assert call is not None
            assert call.state is not None
            assert call.state.provider == "old"
            call.state.provider = "new"
            await call.manager.save(call.state)
            old.send(signal.SIGCONT)
            seen = set()
            while not old.told("refused"):
                seen.add(json.loads(stored.get("voicesession:call-1"))["provider"])
                await anyio.lowlevel.checkpoint()
            [told] = old.told("refused")
            assert (told["refused"], told["lost"]) == (50, True)
            assert told["accepted"] >= 500
            assert seen <= {"new"}
            call.state.add_turn("agent", "I am back", 300)
            await call.manager.save(call.state)  # no conflict: nobody has written since
            await call.session.close()
    finally:
        old.send(signal.SIGCONT)
        old.close()
