"""What a process says of where it listens, and what it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["port_of", "resident_mb"]


def port_of(log: str) -> int:
    [line] = [json.loads(line) for line in log.splitlines() if '"coordinator_started"' in line]
    return int(line["http"].rpartition(":")[2])


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
