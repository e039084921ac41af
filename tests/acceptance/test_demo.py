"""The demo, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DEMO = [sys.executable, "-m", "coordinator", "demo"]


@pytest.mark.timeout(90)
def test_demo_recovers_every_call_with_its_last_data() -> None:
    """A killed worker's calls are all adopted with the data last checkpointed, though a coordinator is killed too."""
    run = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=120)
    result = json.loads(run.stdout)

    assert run.returncode == 0, result
    assert result["ok"] is True
    assert sorted(result["killed"].values()) == ["coordinator", "worker"]
    assert (result["calls"], result["orphaned"], result["recovered"]) == (60, 20, 20)
    assert result["undisturbed"] == 40
    for call in result["recoveries"]:
        assert call["data"] in ("acknowledged", "in_flight")
        assert call["epoch_after"] > call["epoch_before"]
        assert call["adopter"] not in ("", call["owner"])
        assert call["declared_ms"] <= call["offered_ms"] <= call["adopted_ms"]


@pytest.mark.timeout(90)
def test_demo_shows_each_call() -> None:
    """Without --json each recovered call has a line, and the summary says OK."""
    run = subprocess.run([*DEMO, "--calls", "6"], capture_output=True, text=True, timeout=120)

    assert run.returncode == 0, run.stdout
    assert run.stdout.count("adopted by demo-worker-") == 2
    assert "2 of 2 orphaned calls recovered" in run.stdout
    assert "OK" in run.stdout.splitlines()


def descendants(pid: int) -> set[int]:
    """Ids of the living processes below ``pid``."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            child = int(stat.parent.name)
            found |= {child} | descendants(child)
    return found


@pytest.mark.timeout(90)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(number: Any) -> None:
    """After SIGINT or SIGTERM every process that the demo started is gone, and the status is 130."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "calls are open" in line:
                break
        children = descendants(demo.pid)
        demo.send_signal(number)
        demo.wait(20)

    assert len(children) >= 4  # a Redis, two coordinators, three workers, of which the demo itself kills two by and by
    assert demo.returncode == 130
    assert wait_gone(children) == set()


def wait_gone(pids: set[int], seconds: float = 5.0) -> set[int]:
    """Those of ``pids`` that are still there after ``seconds``."""
    ends = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < ends:
        left = {pid for pid in left if alive(pid)}
    return left


def alive(pid: int) -> bool:
    """Whether a process exists and is no corpse."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
