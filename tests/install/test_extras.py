"""What is installed without any extra does all that needs none."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement

EXTRAS = ("embedded", "sealing", "sessions", "kubernetes")
DISTRIBUTIONS = packages_distributions()


def modules_of(extra: str) -> set[str]:
    """Names by which the packages of an extra are imported, those that the project needs anyway excepted."""
    wanted = [Requirement(line) for line in requires("recovery-coordinator") or []]
    always = {one.name for one in wanted if one.marker is None}
    own = {one.name for one in wanted if one.marker is not None and one.marker.evaluate({"extra": extra})} - always
    return {module for module, names in DISTRIBUTIONS.items() if own & set(names)}


BLOCKED = sorted(module for extra in EXTRAS for module in modules_of(extra))


def run_without(program: str) -> subprocess.CompletedProcess[str]:
    """A program in a process to which no package of an extra is there."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
    return subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True, check=False)


def test_the_packages_of_extras_are_known() -> None:
    """What the others leave out is not nothing."""
    assert {"cryptography", "stamina", "httpx2"} <= set(BLOCKED)


@pytest.mark.parametrize(
    "module", ["coordinator", "coordinator.cli.app", "coordinator.daemon.daemon", "coordinator.sidecar.sidecar"]
)
def test_a_program_starts_without_extras(module: str) -> None:
    """Library, commands, daemon and sidecar are imported."""
    done = run_without(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_users_are_printed_without_extras() -> None:
    """Those of the deployment; the session store's is left out, which is said."""
    done = run_without("from coordinator.cli.app import main; sys.argv[1:] = ['doctor', '--acl', '--json']; main()")
    assert done.returncode == 0, done.stderr
    assert [user["user"] for user in json.loads(done.stdout)["users"]][:3] == ["worker", "coordinator", "reader"]
    assert "sessions" not in {user["user"] for user in json.loads(done.stdout)["users"]}
    assert "install this package with its extra sessions" in done.stderr
