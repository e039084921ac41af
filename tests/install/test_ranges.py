"""The ranges of what the project requires: beside frameworks in whose programs the library runs, and at their lower ends."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.install.checkout import ADAPTERS, ROOT
from tests.install.conftest import every
from tests.install.pythons import found
from tests.redis_server import RedisServer, server_path

pytestmark = [every, pytest.mark.timeout(300), pytest.mark.xdist_group("index"), pytest.mark.usefixtures("pip_wheels")]

FRAMEWORKS = ("livekit-agents", "pipecat-ai")
EXTRAS = sorted(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys() - {"dev"} - ADAPTERS
)
WITH_EXTRAS = [word for extra in EXTRAS for word in ("--extra", extra)]


def skip_without_index(done: subprocess.CompletedProcess[str]) -> None:
    """What failed for want of an index, or of a package in it, says nothing about the ranges."""
    lacking = re.search("not found in the package registry", done.stderr)
    if done.returncode and (lacking or "No solution found" not in done.stderr):
        pytest.skip(f"no package index has it for uv: {done.stderr.strip().splitlines()[-1].strip()}")


def resolved(uv: str, python: str, *words: str, given: str = "") -> dict[str, str]:
    """Versions by name that uv finds for one Python: of requirements on lines of their own, and of files.

    Skips when the index does not answer, or is a part of one that lacks a package; that there is no solution is an error.
    """
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:", "--python-version", python,
         *words, "-"],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    skip_without_index(done)
    assert done.returncode == 0, done.stderr
    pins = (line.split(";")[0].strip().partition("==") for line in done.stdout.splitlines())
    return {name: version for name, _, version in pins}


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_newest_frameworks_can_be_installed_beside_it(python: str, uv: str) -> None:
    """With every extra, at the newest versions of what it requires and at the lowest, they are what they are without it."""
    alone = resolved(uv, python, given="\n".join(FRAMEWORKS))
    newest = {name: alone[name] for name in FRAMEWORKS}
    pins = "\n".join(f"{name}=={version}" for name, version in newest.items())
    for resolution in ("highest", "lowest-direct"):
        both = resolved(uv, python, "--resolution", resolution, *WITH_EXTRAS, "pyproject.toml", given=pins)
        assert {"cryptography", "httpx2", "redis", "stamina", *newest} <= both.keys()


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_lowest_versions_can_be_had(python: str, uv: str) -> None:
    """Every lower bound is a version that there is, and that fits the others."""
    assert "redis" in resolved(uv, python, "--resolution", "lowest-direct", *WITH_EXTRAS, "pyproject.toml")


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_the_lowest_framework_of_an_adapter_can_be_had(adapter: str, uv: str) -> None:
    """Its lower bound is a version that there is, and that fits what the project needs."""
    [framework] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][adapter]
    found = resolved(uv, "3.11", "--resolution", "lowest-direct", "--extra", adapter, "pyproject.toml")
    assert found[re.split(r"[\[<>=]", framework)[0]]


def test_the_command_works_with_the_lowest_versions(
    uv: str, source: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """On the oldest Python here all is imported, the command prints its help, `doctor` finds a Redis fit and the demo is OK."""
    python, of = str(tmp_path / "bare/bin/python"), ",".join(EXTRAS)
    subprocess.run([uv, "venv", "--quiet", "--python", next(iter(found().values())), tmp_path / "bare"], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
    done = subprocess.run([*install, f"{source}[{of}]"], capture_output=True, text=True, check=False)
    skip_without_index(done)
    assert done.returncode == 0, done.stderr

    def said(*words: str | Path) -> str:
        path = f"{Path(server_path()).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            words, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    said(
        python,
        "-c",
        "import coordinator.cli.app, coordinator.daemon.pods, coordinator.sessions, coordinator.sidecar.app",
    )
    command = tmp_path / "bare/bin/coordinator"
    assert "demo" in said(command, "--help")
    assert "This Redis is fit." in said(command, "doctor", "--redis-url", redis_server.url)
    assert said(command, "demo").splitlines()[-1] == "OK"
