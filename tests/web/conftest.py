"""A sidecar and a coordinator as processes, for the tests that send them what nobody should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.redis_users import as_user
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until


@pytest.fixture(scope="package")
def server() -> Iterator[RedisServer]:
    made_one = RedisServer()
    yield made_one
    made_one.close()


@pytest.fixture(scope="package")
def sidecar(server: RedisServer) -> Iterator[Sidecar]:
    found = Sidecar(server, "--api-token", "secret", "--drain-port", "0")
    yield found
    found.close()


@pytest.fixture(scope="package")
def daemon(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    errors = tmp_path_factory.mktemp("daemon") / "log"
    found = Process(
        "coordinator",
        "run",
        "--redis-url",
        as_user(server.url, "coordinator"),
        "--http-port",
        "0",
        "--log-format",
        "json",
        STDERR=str(errors),
    )
    wait_until(lambda: "coordinator_started" in found.errors(), 20)
    yield found
    found.close()
