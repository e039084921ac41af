"""The Pythons of this machine that can make a virtual environment: ``python -m tests.install.pythons [FROM]`` prints the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PROMISED", "found"]

PROMISED = [(3, 11), (3, 12), (3, 13), (3, 14)]
ASK = (
    "import ensurepip, sys, venv; print(*sys.version_info[:2]); print(getattr(sys, '_base_executable', sys.executable))"
)


def _candidates() -> Iterator[str]:
    """Names for the PATH, then what version managers keep beside it; this one first."""
    yield sys.executable
    yield "python3"
    for _, minor in PROMISED:
        yield f"python3.{minor}"
    home = Path.home()
    for kept in (Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions", home / ".local/share/uv/python"):
        yield from map(str, sorted(kept.glob("*/bin/python3")))


def found() -> dict[tuple[int, int], str]:
    """The first interpreter of each minor version that is promised to work, by version."""
    pythons: dict[tuple[int, int], str] = {}
    for name in _candidates():
        try:
            done = subprocess.run([name, "-Ic", ASK], capture_output=True, text=True, timeout=120, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # not there, too broken to start, or without its venv module
        version, path = done.stdout.splitlines()
        major, minor = map(int, version.split())
        if (major, minor) in PROMISED:
            pythons.setdefault((major, minor), path)
    return dict(sorted(pythons.items()))


if __name__ == "__main__":
    least = tuple(map(int, sys.argv[1].split("."))) if sys.argv[1:] else PROMISED[0]
    print(next((path for version, path in reversed(found().items()) if version >= least), ""))
