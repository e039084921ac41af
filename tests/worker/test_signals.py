"""A worker process that is told to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)


@contextmanager
def serving(url: str, name: str, mode: str, *calls: str) -> Iterator[Process]:
    """A worker of serving_process.py."""
    process = Process("tests.worker.serving_process", url, name, mode, *calls)
    try:
        yield process
    finally:
        process.close()


def test_sigterm_hands_over_and_ends(url: str, redis_client: redis.Redis) -> None:
    """One SIGTERM: each call is served by another before the process ends, with exit status 0."""
    with serving(url, "new", "serve") as new, serving(url, "old", "serve", "call-1", "call-2") as old:
        new.wait_for("ready")
        old.wait_for("serving", 2)
        old.send(signal.SIGTERM)
        taken = new.wait_for("serving", 2)
        assert {line["session"] for line in taken} == {"call-1", "call-2"}
        wait_until(lambda: not old.alive)
        assert old.exit_status == 0
        assert old.told("drain_ended")[0]["handed_over"] == 2


def test_sigterm_again_changes_nothing(url: str, redis_client: redis.Redis) -> None:
    """A second SIGTERM while it drains is said in the log; the calls are still served, and still handed over."""
    with serving(url, "old", "serve", "call-1") as old:
        old.wait_for("serving")
        old.send(signal.SIGTERM)
        old.wait_for("drain_started")
        old.send(signal.SIGTERM)
        [line] = old.wait_for("drain_under_way")
        assert (line["signal"], line["sessions"]) == ("SIGTERM", 1)
        owner = redis_client.hget(KEYS.session("call-1"), "owner")
        assert isinstance(owner, bytes)
        assert owner.startswith(b"old~")
        with serving(url, "new", "serve") as new:
            new.wait_for("serving")
            wait_until(lambda: not old.alive)
            assert old.exit_status == 0
            assert old.told("drain_ended")[0]["handed_over"] == 1


def test_sigterm_while_it_starts() -> None:
    """The store does not answer yet: it ends at once, as a program without handlers does, and owns nothing."""
    server = RedisServer()
    try:
        server.pause()
        with serving(server.url, "starts", "serve", "call-1") as process:
            process.wait_for("starting")
            process.send(signal.SIGTERM)
            wait_until(lambda: not process.alive)
            assert process.exit_status == -signal.SIGTERM
        server.resume()
        assert not server.client().exists(KEYS.session("call-1"))
    finally:
        server.close()


async def test_sigterm_before_it_serves(url: str, redis_client: redis.Redis) -> None:
    """It opened a call and does not drain on signals yet: the call is offered to others as soon as it is seen dead."""
    async with coordinating(url):
        with serving(url, "old", "opens", "call-1") as old, serving(url, "new", "serve") as new:
            await eventually(lambda: old.told("ready"))
            old.send(signal.SIGTERM)
            await eventually(lambda: new.told("serving"))
            assert not old.alive
            assert new.told("serving")[0]["data"] == "call-1"
