"""The lock files: complete, alike, and installed without resolution wherever they are installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.install.checkout import ADAPTERS, ROOT, locked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
BUILD = PROJECT["build-system"]["requires"]
EVERYTHING = locked((ROOT / "requirements.lock").read_text())
LOCKS = {path.name: locked(path.read_text()) for path in sorted(ROOT.glob("requirements*.lock"))}
HOLDS = {
    "requirements.lock": (EXTRAS - ADAPTERS, []),
    "requirements-demo.lock": ({"embedded"}, BUILD),
    "requirements-image.lock": ({"kubernetes", "sessions"}, BUILD),
}
"""What each is for: extras of the project, and requirements beside them."""


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether it is one on this Python and machine, with one of these extras or without."""
    return not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})


def closure(extras: set[str], beside: list[str]) -> set[str]:
    """Names of all that the project needs with these extras, at any depth, by what the installed distributions say."""
    wanted = [("recovery-coordinator", frozenset(extras)), *((Requirement(text).name, frozenset()) for text in beside)]
    seen = set(wanted)
    while wanted:
        name, chosen = wanted.pop()
        for requirement in map(Requirement, requires(name) or ()):
            if applies(requirement, set(chosen)):
                found = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if found not in seen:
                    seen.add(found)
                    wanted.append(found)
    return {name for name, _ in seen} - {"recovery-coordinator"}


@pytest.mark.parametrize("name", HOLDS)
def test_a_lock_holds_what_is_needed_and_nothing_else(name: str) -> None:
    """Each requirement on this Python and machine, at any depth and of extras too, has one entry, and no entry is without one."""
    here = [Requirement(pin + text.split("\\")[0].removeprefix(pin)) for pin, text in LOCKS[name].items()]
    names = [requirement.name for requirement in here if applies(requirement, set())]

    assert sorted(names) == sorted(closure(*HOLDS[name]))


def test_the_environment_of_these_tests_is_the_locks() -> None:
    """Whatever the locks of development pin is installed at that version."""
    for pin, text in EVERYTHING.items():
        requirement = Requirement(pin + text.split("\\")[0].removeprefix(pin))
        if applies(requirement, set()):
            assert version(requirement.name) in requirement.specifier, pin


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_a_pin_with_hashes(name: str) -> None:
    """A lock file is nothing but exact versions, each with the hashes of its files."""
    text = "".join(LOCKS[name].values())
    bare = [line for line in (ROOT / name).read_text().splitlines(keepends=True) if not line.lstrip().startswith("#")]

    assert "".join(sorted(bare)) == "".join(sorted(text.splitlines(keepends=True)))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in LOCKS[name].values())


@pytest.mark.parametrize("name", ["requirements-demo.lock", "requirements-image.lock"])
def test_locks_do_not_drift_apart(name: str) -> None:
    """What runs in the demo and in the image is what the tests run with: same version, marker and hashes."""
    assert LOCKS[name]
    assert LOCKS[name] == {pin: EVERYTHING.get(pin) for pin in LOCKS[name]}


def test_what_is_installed_beside_the_lock_is_in_none() -> None:
    """The packages of `make environments` are not in the environment of the other tests, nor is a pin of theirs another's."""
    assert {pin.split("==")[0] for pin in LOCKS["requirements-uvloop.lock"]} == {"sniffio", "uvloop"}
    assert {pin.split("==")[0] for pin in LOCKS["requirements-uv.lock"]} == {"uv"}
    for name in ("sniffio", "uvloop"):
        assert not any(pin.startswith(f"{name}==") for pin in EVERYTHING)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_is_locked_with_its_framework_alone(name: str) -> None:
    """It is an extra, its lock has what the tests need beside the framework, and the framework is in no other lock."""
    [framework] = [Requirement(text).name for text in PROJECT["project"]["optional-dependencies"][name]]
    own = {pin.split("==")[0] for pin in LOCKS[f"requirements-{name}.lock"]}
    assert {framework, "pytest", "pytest-xdist", "setuptools"} <= own
    assert [lock for lock, pins in LOCKS.items() if any(pin.startswith(f"{framework}==") for pin in pins)] == [
        f"requirements-{name}.lock"
    ]


def test_nothing_is_installed_by_resolution() -> None:
    """Every pip command of the Makefile and the Dockerfile takes hashed files of a lock without dependencies, or asks no index.

    Files are wheels, but for the one command that builds what there is as a source alone, with what is installed already.
    """
    text = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text() + (ROOT / "Dockerfile").read_text())
    commands = re.findall(r"\bpip\b.* install .*", text)

    assert len(commands) == 5
    built = [command for command in commands if " --no-build-isolation --no-binary :all:" in command]
    assert len(built) == 1
    for command in commands:
        from_lock = all(f" {flag}" in command for flag in ("--no-deps", "--require-hashes"))
        wheels = command in built or " --only-binary :all:" in command
        assert (from_lock and wheels) or " --no-index" in command, command
