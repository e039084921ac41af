"""An operator's day with the users of Redis: the worker of the README, a coordinator, a sidecar, and commands, each as its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.store.keys import Keys
from tests.acceptance.processes import Process, coordinator
from tests.redis_server import RedisServer
from tests.redis_users import as_user, refusals
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples/python/worker.py"
KEYS = Keys("recovery", 0)


@contextmanager
def example(url: str, name: str, *calls: str) -> Iterator[Process]:
    """The worker that the README shows."""
    process = Process(
        program=[sys.executable, str(EXAMPLE), name, *calls], COORDINATOR_REDIS_URL=as_user(url, "worker")
    )
    try:
        yield process
    finally:
        process.close()


def test_an_operators_day(redis_server: RedisServer, redis_client: Any) -> None:
    """Who looks sees all and moves nothing; who may drain moves a call; a worker in any language holds one: nobody lacks a right."""
    url = redis_server.url
    admin: Any = redis_server.client()

    def owner(call: str) -> str:
        return (redis_client.hget(KEYS.session(call), "owner") or b"").decode().partition("~")[0]

    def asked(name: str, *words: str) -> int:
        return CliRunner().invoke(app, [*words, "--redis-url", as_user(url, name)]).exit_code

    with ExitStack() as stack:
        stack.enter_context(coordinator(url))
        stack.enter_context(example(url, "voice-1", "call-1"))
        stack.enter_context(example(url, "voice-2"))
        sidecar = stack.enter_context(contextlib.closing(Sidecar(redis_server, "--drain-port", "0")))
        client = stack.enter_context(contextlib.closing(Client(sidecar.path)))
        wait_until(lambda: owner("call-1") == "voice-1", 20, "the call is open")
        wait_until(lambda: redis_client.zcard(KEYS.instances) >= 2, 20, "both are there")
        assert client.register("other-language", pid=os.getpid(), capacity=1).status_code == 201
        client.open("call-2", {"n": 1})
        looks: list[tuple[str, ...]] = [("status",), ("instances",), ("sessions",), ("session", "call-1")]
        assert [asked("reader", *words) for words in looks] == [0] * len(looks)
        assert [asked("reader", what, "list") for what in ("dead-letters", "quarantine")] == [0, 0]
        assert refusals(admin) == set()
        assert asked("reader", "doctor") == 0  # it tries what it may not
        assert [asked("reader", *words) for words in (("drain", "voice-1"), ("certify", "voice-1"))] == [3, 3]
        assert owner("call-1") == "voice-1"
        admin.execute_command("ACL", "LOG", "RESET")
        assert asked("operator", "drain", "voice-1", "--wait") == 0
        assert owner("call-1") == "voice-2"
    admin.close()
