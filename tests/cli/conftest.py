"""A partition with one worker that owns a call, for commands about instances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from tests.redis_server import RedisServer
from tests.redis_users import Users
from tests.store.harness import Bench


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in this process on the server of the test."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition with one instance that owns a call."""
    made = Bench(redis_client)
    made.init()
    made.join("voice-1~1")
    made.open("call-1", "voice-1~1")
    return made


@pytest.fixture
def users(redis_server: RedisServer) -> Iterator[Users]:
    """Those that are printed, on the empty server."""
    admin: Any = redis_server.client()
    admin.flushall()
    made = Users(admin)
    yield made
    made.close()
    admin.close()
