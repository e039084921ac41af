"""A program of a test's in a process of its own, which says lines of JSON and goes on when it is told to."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SILENT_SECONDS = 120.0


class Program:
    """Started at once.

    Args:
        path: the program.
        args: its arguments.
    """

    def __init__(self, path: Path, *args: str) -> None:
        # unbuffered, so that a line which came together with another is still where `select` sees it
        self.process = subprocess.Popen(
            [sys.executable, str(path), *args],
            bufsize=0,
            env={**os.environ, "PYTHONPATH": str(ROOT)},  # it may use what tests have, as `tests.inside`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.errors = ""

    def hears(self, *who: str) -> dict[str, Any]:
        """The next line, which is of one of these."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], SILENT_SECONDS)[0], (
            f"{who} was expected, and nothing is said"
        )
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert found["who"] in who
        return found

    def go_on(self) -> None:
        """It takes its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def close(self) -> None:
        """Kills it; ``errors`` is what it wrote to standard error."""
        self.process.kill()
        self.errors = self.process.communicate()[1].decode()
