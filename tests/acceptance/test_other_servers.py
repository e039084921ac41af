"""Scripts, worker and coordinator on the oldest Redis that is supported, on a newer one than most have, and on Valkey.

`make environments` runs all of them. What else runs what a server can see differently, on the oldest: scripts, rights, replies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import other_servers
from tests.untraced import untraced_environment

REPOSITORY = Path(__file__).parents[2]
long = pytest.mark.skipif("EVERY_ENVIRONMENT" not in os.environ, reason="`make environments` runs it: it takes long")
NEWER = ("redis-server", "valkey-server")
SERVERS = ["redis-6.2", *(pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NEWER)]
OF_THE_CLIENT = (
    "address", "clock_steps", "connection_errors", "executor", "named", "pace", "packing", "script_headers", "slow_lines",
    "store_errors", "tls", "url", "waiting",
)  # fmt: skip
"""Tests in tests/store of what programs do with any server."""
DIFFERS = [
    "tests/store", *(f"--ignore=tests/store/test_{name}.py" for name in OF_THE_CLIENT), "tests/property/test_state_machine.py",
    "tests/cli/test_redis_user.py", "tests/cli/test_acl.py", "tests/daemon/test_steps.py", "tests/worker/test_giving_away.py",
    *(f"tests/sessions/test_{name}.py" for name in ("conformance", "redis", "scripts")),
    "-k", "not status_2 and not a_sidecar_works",
]  # fmt: skip


@pytest.mark.skipif("EVERY_ENVIRONMENT" in os.environ, reason="all of them run")
@pytest.mark.timeout(300)
def test_what_a_server_can_see_differently_works_on_the_oldest() -> None:
    """Scripts, rights and the coordinator's steps pass their tests on Redis 6.2."""
    _pass("redis-6.2", DIFFERS, examples=15)


@long
@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    "tests",
    [
        [
            "tests/store",
            "tests/property/test_state_machine.py",
            "tests/cli/test_redis_user.py",
            "tests/cli/test_acl.py",
        ],
        ["tests/worker/test_drain.py", "tests/worker/test_giving_away.py"],
        ["tests/daemon/test_steps.py"],
        [f"tests/sessions/test_{name}.py" for name in ("conformance", "redis", "scripts", "fenced", "alike")],
    ],
    ids=["scripts", "worker", "coordinator", "sessions"],
)
@pytest.mark.timeout(300)
def test_everything_works_on_another_server(name: str, tests: list[str]) -> None:
    """Scripts and rights, the state machine, handovers, the coordinator's steps and both session stores pass their tests on it."""
    _pass(name, tests, examples=50)


def _pass(name: str, tests: list[str], *, examples: int) -> None:
    if missing := other_servers.missing_means(name):
        pytest.skip(missing)
    server = other_servers.server(name)
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    assert {"redis-6.2": "v=6.2.", "redis-server": "Redis server v=8.", "valkey-server": "Valkey server v="}[
        name
    ] in version
    environment = untraced_environment()
    environment.pop("PYTHONPATH", None)  # it is the server that is another one here, not the event loop
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        env=environment | {"TEST_REDIS_SERVER": server, "PROPERTY_EXAMPLES": str(examples)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
