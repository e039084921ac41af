"""Fixtures for every test: one real redis-server a test process, empty for each test, and a look for leaked keys."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import structlog

from tests.fast import NothingStarts, fast_tests
from tests.leaks import leaked_keys
from tests.redis_server import RedisServer
from tests.untraced import UNTRACED, is_traced_elsewhere, untraced_environment

ROOT = Path(__file__).parents[1]


os.environ["COORDINATOR_WATCH_EXIT"] = "false"
"""A worker under test has an exit watcher where a test asks for it: most look at what happens without one, and a process more for
each of thousands of workers takes minutes."""

FAST_EXAMPLES = 10
"""Of each property, for ``--fast``, where its test does not say how many."""


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start can be interrupted also where a shell started the tests in its background, which ignores SIGINT."""
    if config.getoption("fast"):
        hypothesis.settings.register_profile("fast", max_examples=FAST_EXAMPLES, deadline=None)
        hypothesis.settings.load_profile("fast")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fast``: only tests from which nothing is reached that starts a program or opens a connection."""
    parser.addoption("--fast", action="store_true", help="only tests that start no program and open no connection")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without a fast test are not even imported for ``--fast``."""
    if config.getoption("fast") and collection_path.name.startswith("test_"):
        return not fast_tests(collection_path) or None
    return None


def is_fast(item: pytest.Item) -> bool:
    """Whether a test is one of those that ``--fast`` runs."""
    return isinstance(item, pytest.Function) and item.originalname in fast_tests(item.path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is traced elsewhere is not traced; ``--fast`` leaves only what is fast."""
    for item in items:
        if is_traced_elsewhere(item.path.relative_to(ROOT).as_posix()):
            item.add_marker(pytest.mark.no_cover)
    if config.getoption("fast"):
        slow = [item for item in items if not is_fast(item)]
        items[:] = [item for item in items if is_fast(item)]
        config.hook.pytest_deselected(items=slow)


LOOPS, SLOW_SECONDS = 2_000_000, 0.15


def pytest_xdist_auto_num_workers() -> int:
    """One more process than the machine has processors, since tests wait a lot; no more than those where each is slow."""
    count = os.cpu_count() or 1
    began = time.perf_counter()
    for _ in range(LOOPS):
        pass
    return count + 1 if time.perf_counter() - began < SLOW_SECONDS else max(2, count)


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that is marked ``alone`` has the machine for itself: what it looks at would differ beside others."""
    if request.config.getoption("fast"):  # none of them is
        yield
        return
    root = tmp_path_factory.getbasetemp()
    folder = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    alone = request.node.get_closest_marker("alone") is not None
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (folder / "door").open("w") as door, (folder / "room").open("w") as inside:
        fcntl.flock(door, kind)  # whoever wants it alone keeps newcomers at the door, and is not kept waiting for ever
        fcntl.flock(inside, kind)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def nothing_starts(request: pytest.FixtureRequest, watch_for_starts: NothingStarts) -> Iterator[None]:
    """A test that is fast by what it reaches starts no program and opens no connection, whatever it calls."""
    if not is_fast(request.node):
        yield
        return
    with watch_for_starts.watching() as caused:
        yield
    assert not caused, "a test that starts programs or connects asks for a fixture that does: tests/README.md"


@pytest.fixture(scope="session")
def watch_for_starts() -> NothingStarts:
    """One for all tests."""
    return NothingStarts()


@pytest.fixture(scope="session", autouse=True)
def compiled_once(pytestconfig: pytest.Config) -> Iterator[None]:
    """Where nothing may be written beside the sources, processes that tests start find them compiled in pytest's cache.

    Each of hundreds would compile all of them otherwise, which is a third of what it takes to start one. The first does it
    here, while no test waits for it.
    """
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)  # it may be switched off
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getoption("fast"):
            pass  # nothing is started
        elif os.environ.get("PYTHONDONTWRITEBYTECODE") and "PYTHONPYCACHEPREFIX" not in os.environ and cache:
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
