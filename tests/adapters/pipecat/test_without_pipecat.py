"""A program without Pipecat."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
sys.modules["pipecat"] = sys.modules["fastapi"] = None
{program}
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("pipecat", "fastapi") and sys.modules[name]))
print("coordinator.adapters" in sys.modules)
"""


def run(program: str) -> list[str]:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(program=program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_worker_loads_no_adapter() -> None:
    """Nor anything of a framework."""
    assert run("from coordinator import Worker; Worker('redis://h')") == ["", "False"]


def test_the_adapter_is_loaded_without_pipecat() -> None:
    """All that it exports is there, and Pipecat comes when a bot runs."""
    program = "import coordinator.adapters.pipecat as adapter\nfor name in adapter.__all__: getattr(adapter, name)"
    assert run(program) == ["", "True"]
