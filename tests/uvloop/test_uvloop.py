"""`make environments` runs the worker's tests where sniffio and uvloop are installed: that it does is looked at first."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from tests.acceptance.processes import coordinator, worker

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("uvloop"), reason="uvloop is not installed: `make environments` runs the tests on it"
)


async def test_tests_run_on_uvloop() -> None:
    """The loop of a test is uvloop's, and sniffio can be imported."""
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == "uvloop"
    assert importlib.util.find_spec("sniffio")


def test_processes_run_on_uvloop(url: str) -> None:
    """So are the loops of a coordinator and a worker that a test starts: each has loaded uvloop, which only making a loop does."""
    with coordinator(url) as daemon, worker(url, "voice-1", "call-1") as process:
        for pid in (daemon.pid, process.pid):
            assert "/uvloop/" in Path(f"/proc/{pid}/maps").read_text()
