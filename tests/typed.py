"""What a type checker says of a program."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["ROOT", "faults_in"]

ROOT = Path(__file__).resolve().parents[1]
FAULT = re.compile(r"program\.py:(\d+): error: (.*?)  \[")


def faults_in(program: str) -> list[tuple[int, str]]:
    """The lines that mypy calls wrong in strict mode, each with what is wrong there.

    Args:
        program: text of a module that imports this package.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--no-error-summary",
                "--hide-error-context",
                "--no-pretty",
                str(path),
            ],
            cwd=ROOT,  # for the configuration and the cache of `make check`
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr
    return [(int(line), said) for line, said in FAULT.findall(done.stdout)]
