"""Wheels for the tests of installing: fetched once a run, from the caller's cache or index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.checkout import ROOT, Checkout
from tests.install.pythons import PROMISED

PIPS = {
    "22.3": "1daab4b8d3b97d1d763caeb01a4640a2250a0ea899e257b1e44b9eded91e15ab",
    "23.2.1": "7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be",
    "24.2": "2cd581cf58ab7fcfca4ce8efa6dcacd0de5bf8d0a3eb9ec927e07405f4d9e2a2",
    "25.2": "6d67a2b4e7f14d8b31b8b52648866fa717f45a1eb70e83002f4331d07e953717",
    "26.3": "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13",
}
"""The oldest pip that each Python of `PROMISED` brought, 23.2.1 for 3.11 beside it, and the newest; with their wheels' hashes."""

OLDEST_PIPS = dict(zip(PROMISED, ["22.3", "23.2.1", "24.2", "25.2"], strict=True))

every = pytest.mark.skipif("EVERY_ENVIRONMENT" not in os.environ, reason="`make environments` runs it: it takes long")


def fetch(requirements: Path, folder: Path) -> str:
    """What pip says when it cannot get all that a lock file names as wheels; '' when it got them."""
    done = subprocess.run(
        [
            sys.executable, "-Im", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--dest", str(folder), "--requirement", str(requirements),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


@pytest.fixture(scope="session")
def pip_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of each pip; without an index tests that need one skip, except on CI."""
    folder = tmp_path_factory.mktemp("pips")
    for version, sha256 in PIPS.items():
        wanted = folder / "pip.txt"
        wanted.write_text(f"pip=={version} --hash=sha256:{sha256}\n")
        if (said := fetch(wanted, folder)) and "CI" not in os.environ:
            pytest.skip(f"no package index can be reached: {said.strip().splitlines()[-1]}")
        assert not said
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, pip_wheels: Path) -> Path:
    """A folder with what requirements-demo.lock names, for this Python."""
    folder = tmp_path_factory.mktemp("wheels")
    assert fetch(ROOT / "requirements-demo.lock", folder) == ""
    return folder


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that `make lock` uses."""
    folder = tmp_path_factory.mktemp("uv")
    pip = [sys.executable, "-Im", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(folder)]
    subprocess.run([*pip, "--requirement", str(ROOT / "requirements-uv.lock")], check=True)
    return str(folder / "bin/uv")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with what an install of the project is made from; the build writes into it."""
    folder = tmp_path / "source"
    shutil.copytree(ROOT / "coordinator", folder / "coordinator", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, wheels: Path) -> Checkout:
    """A fresh one."""
    return Checkout(tmp_path, wheels)
