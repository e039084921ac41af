"""The benchmark at its smallest: that it measures, not what."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

BENCH = [sys.executable, "-m", "coordinator", "bench"]
SMALLEST = [
    "--deaths", "5", "--storm", "20", "--sessions", "200", "--beats", "100", "--idle", "50,100",
    "--idle-seconds", "0.5",
]  # fmt: skip


@pytest.mark.timeout(300)
def test_bench_measures_everything_in_one_json_document() -> None:
    """One run gives every figure, each death is seen, and each call adopted."""
    run = subprocess.run([*BENCH, *SMALLEST, "--json"], capture_output=True, text=True, timeout=280)
    result = json.loads(run.stdout)

    assert run.returncode == 0
    assert result["deaths"]["detection_after_deadline_ms"]["seen"] == 5
    assert result["deaths"]["takeover_after_deadline_ms"]["seen"] == 5
    assert result["deaths"]["exit_of_one_with_many_ms"]["seen"] == 20
    assert result["deaths"]["takeover_after_deadline_ms"]["p50"] >= 0
    assert result["rates"]["claims_per_second"] > 0
    assert result["rates"]["adoptions_to_plain"] > 0
    assert result["heartbeats"]["redis_cpu_ms_per_1000"] > 0
    assert [row["sessions"] for row in result["idle"]] == [50, 100]
    assert all(row["daemon_resident_mb"] is None or row["daemon_resident_mb"] > 1 for row in result["idle"])


@pytest.mark.parametrize("sizes", ["many", "0", "1,-5"])
def test_wrong_sizes_are_told(sizes: Any) -> None:
    """A wrong list of sizes is wrong usage: exit status 2, one line."""
    run = subprocess.run([*BENCH, "--idle", sizes], capture_output=True, text=True, timeout=120)

    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
