"""Fixtures for every test: one real redis-server a test process, empty for each test, and a look for leaked keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog

from tests.leaks import leaked_keys
from tests.redis_server import RedisServer
from tests.untraced import UNTRACED, is_traced_elsewhere, untraced_environment

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Programs that tests start can be interrupted also where a shell started the tests in its background, which ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is traced elsewhere is not traced."""
    for item in items:
        if is_traced_elsewhere(item.path.relative_to(ROOT).as_posix()):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(pytestconfig: pytest.Config) -> Iterator[None]:
    """Where nothing may be written beside the sources, processes that tests start find them compiled in pytest's cache.

    Each of hundreds would compile all of them otherwise, which is a third of what it takes to start one. The first does it
    here, while no test waits for it.
    """
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)  # it may be switched off
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE") and "PYTHONPYCACHEPREFIX" not in os.environ and cache:
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(cache.mkdir("compiled")))
            subprocess.run([sys.executable, "-c", "import coordinator.cli.app"], env=untraced_environment(), check=True)
        yield


@pytest.fixture(autouse=True)
def children_as_their_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that an untraced test starts are not traced either."""
    if request.node.get_closest_marker("no_cover"):
        for name in UNTRACED:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """redis-py's asynchronous client runs on asyncio only."""
    return "asyncio"


@pytest.fixture(autouse=True)
def logs_as_they_are() -> Iterator[None]:
    """No test finds logging as another one has set it up."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests of this process; a test that stops or ends servers makes its own."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client on the empty server; afterwards every key must have an expiry or be allowed to stay."""
    client = redis_server.client()
    client.flushall()
    yield client
    assert not leaked_keys(client)
    client.close()


@pytest.fixture
def url(redis_server: RedisServer, redis_client: redis.Redis) -> str:
    """URL of the empty server."""
    return redis_server.url
