"""`make demo` on other people's machines: in a fresh checkout, from wheels, without an index."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.checkout import Checkout
from tests.install.conftest import OLDEST_PIPS, PIPS, every
from tests.install.pythons import PROMISED, found
from tests.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("install"), pytest.mark.timeout(600)]

NEWEST_PIP = list(PIPS)[-1]
MEGABYTES = 100


def python_with(pip: Path, folder: Path) -> str:
    """A Python whose environments have that pip, whatever it brings itself."""
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\n{shlex.quote(sys.executable)} "$@" || exit\nfor last; do :; done\n'
        f'case "$*" in "-Im venv "*) exec "$last/bin/python" -Im pip install -q --no-index --no-deps {shlex.quote(str(pip))};; esac\n'
    )
    program.chmod(0o755)
    return str(program)


def megabytes(folder: Path) -> float:
    """What its files take, each file once."""
    stats = {(stat.st_dev, stat.st_ino): stat for path in folder.rglob("*") if (stat := path.lstat())}
    return sum(stat.st_blocks * 512 for stat in stats.values()) / 1e6


OLDEST_PIP = OLDEST_PIPS.get(sys.version_info[:2], NEWEST_PIP)


@pytest.mark.parametrize("version", [OLDEST_PIP, *(pytest.param(one, marks=every) for one in ("23.2.1", NEWEST_PIP))])
def test_the_demo_runs_from_the_lock_alone(version: str, checkout: Checkout, pip_wheels: Path, tmp_path: Path) -> None:
    """With the oldest pip, and with others, `make demo` installs what runs, less than 100 MB of it, and the demo is OK."""
    if sys.version_info >= (3, 13) and version == "23.2.1":
        pytest.skip("pip 23.2.1 does not work on this Python")
    pip = next(pip_wheels.glob(f"pip-{version}-*.whl"))
    done = checkout.make("demo", PYTHON=python_with(pip, tmp_path), PIP_CONFIG_FILE=os.devnull)  # compiled: it counts

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["OK"]), done.stderr
    assert done.stderr == ""
    assert {"redis", "hiredis", "recovery_coordinator"} <= checkout.installed
    assert not {"pytest", "mypy", "cryptography"} & checkout.installed
    assert (checkout.path / f".venv/lib/python3.{sys.version_info[1]}/site-packages/pip-{version}.dist-info").is_dir()
    assert megabytes(checkout.path / ".venv") < MEGABYTES

    again = checkout.make("demo", "--dry-run", PYTHON=python_with(pip, tmp_path))
    assert again.stdout.splitlines() == [".venv/bin/coordinator demo"]


@pytest.mark.parametrize(
    "package", ["hiredis", *(pytest.param(name, marks=every) for name in ("h11", "click", "setuptools"))]
)
def test_a_lock_that_lacks_something_stops(package: str, checkout: Checkout, tmp_path: Path) -> None:
    """A requirement, one of a requirement, one of an extra, and the build's: pip names it, though its wheel could be had."""
    checkout.relock(package, lambda entry: "")
    configured = tmp_path / "pip.conf"
    configured.write_text(f"[global]\nfind-links = {checkout.environment()['PIP_FIND_LINKS']}\n")
    done = checkout.make("demo", PIP_CONFIG_FILE=str(configured))

    assert done.returncode != 0
    assert package in done.stderr.splitlines()[0]
    assert "requirements-demo.lock does not give what pip names above" in done.stderr
    assert package not in checkout.installed - {"setuptools"}  # some Pythons bring an old one
    assert "SIGKILL" not in done.stdout  # the demo did not begin
    assert planned(checkout)  # it is no readier than before


def test_a_lock_that_is_older_than_the_project_stops(checkout: Checkout) -> None:
    """A requirement that wants another version than the locked one is named."""
    checkout.edit("pyproject.toml", '"redis[hiredis]>=8.0,<9"', '"redis[hiredis]>=9999"')
    done = checkout.make("demo")

    assert done.returncode != 0
    assert "redis>=9999" in done.stderr.replace("[hiredis]", "")


@pytest.mark.parametrize("kind", ["other", "none"])
def test_hashes_are_needed_and_compared(kind: str, checkout: Checkout) -> None:
    """A wheel with another hash than the lock's, or an entry without hashes, stops and is named; nothing is installed."""
    checkout.relock(
        "h11",
        lambda entry: re.sub(r"sha256:\w{64}", f"sha256:{64 * '0'}", entry) if kind == "other" else "h11==0.16.0\n",
    )
    done = checkout.make("demo")

    assert done.returncode != 0
    assert "h11==0.16.0" in done.stderr
    assert "hash" in done.stderr.lower()
    assert not {"h11", "redis"} & checkout.installed


def test_what_was_interrupted_is_made_anew(checkout: Checkout) -> None:
    """After SIGKILL in the middle of the install the next `make demo` works."""
    with subprocess.Popen(
        ["make", "demo"],
        cwd=checkout.path,
        env=checkout.environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as make:
        wait_until(lambda: {"annotated_types", "anyio"} & checkout.installed, 60, "the install is under way")
        os.killpg(make.pid, signal.SIGKILL)
    assert "recovery_coordinator" not in checkout.installed
    done = checkout.make("demo")

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["OK"]), done.stderr


def test_configuration_of_the_caller_changes_nothing(checkout: Checkout, tmp_path: Path) -> None:
    """Modules, targets, constraints, sources and settings of the caller are not those of the demo."""
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('a foreign module was imported')\n")
    (tmp_path / "constraint.txt").write_text("h11<0.1\n")
    (tmp_path / "pip.conf").write_text("[install]\nuser = true\nno-binary = :all:\n")
    done = checkout.make(
        "demo",
        PYTHONPATH=str(tmp_path),
        PYTHONHOME=str(tmp_path),
        PYTHONSAFEPATH="1",
        PYTHONOPTIMIZE="2",
        PIP_TARGET=str(tmp_path / "elsewhere"),
        PIP_USER="1",
        PIP_CONSTRAINT=str(tmp_path / "constraint.txt"),
        PIP_NO_BINARY=":all:",
        PIP_REQUIREMENT=str(tmp_path / "nowhere.txt"),
        PIP_DRY_RUN="1",
        PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
        COORDINATOR_DEAD_AFTER="never",
        COORDINATOR_CONFIG=str(tmp_path / "nowhere.toml"),
    )

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["OK"]), done.stderr
    assert not (tmp_path / "elsewhere").exists()


def planned(checkout: Checkout, **variables: str) -> str:
    """The line with which make would make the environment, '' when it is ready."""
    lines = checkout.make("demo", "--dry-run", **variables).stdout.splitlines()
    return next((line for line in lines if "-Im venv" in line), "")


def stamp(checkout: Checkout) -> None:
    """The environment of the demo counts as ready."""
    told = checkout.make("demo", "--dry-run").stdout
    name = next(line.split()[-1] for line in told.splitlines() if "/.runs-" in line)
    (checkout.path / ".venv").mkdir(exist_ok=True)
    (checkout.path / name).touch()
    assert not planned(checkout)


def test_an_environment_belongs_to_its_lock_place_and_python(checkout: Checkout, tmp_path: Path) -> None:
    """It is made anew when the lock changed, even to an older file, when the checkout moved, and for another Python."""
    stamp(checkout)
    text, times = checkout.lock.read_text(), checkout.lock.stat()
    checkout.lock.write_text(text.replace("0.16.0", "0.16.1"))
    os.utime(checkout.lock, ns=(0, 0))
    assert planned(checkout)
    checkout.lock.write_text(text)
    os.utime(checkout.lock, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not planned(checkout)

    other = tmp_path / "python"
    other.write_text('#!/bin/sh\ncase "$*" in *sys.version,*) echo another;; esac\n')
    other.chmod(0o755)
    assert str(other) in planned(checkout, PYTHON=str(other))

    checkout.path = checkout.path.rename(tmp_path / "moved here")
    assert planned(checkout)


def path_with(folder: Path, **programs: str) -> str:
    """A PATH that begins with scripts."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_python_that_fits_is_found(checkout: Checkout, tmp_path: Path) -> None:
    """With an old python3 beside a python3.12, and without venv in that, the next one is taken."""
    real = f'exec {shlex.quote(sys.executable)} "$@"'
    old = {"python3": "exit 1"}
    path = path_with(tmp_path / "one", **old, **{"python3.12": real})
    assert '"python3.12" -Im venv' in planned(checkout, PATH=path)
    path = path_with(tmp_path / "two", **old, **{"python3.12": "exit 1", "python3.11": "exit 1", "python3.13": real})
    assert '"python3.13" -Im venv' in planned(checkout, PATH=path)


def test_without_a_python_it_says_what_is_needed(checkout: Checkout, tmp_path: Path) -> None:
    """No Python >= 3.11, or a PYTHON that is none: one sentence, and no environment."""
    names = ["python3", *(f"python3.{minor}" for _, minor in PROMISED)]
    done = checkout.make("demo", PATH=path_with(tmp_path / "bin", **dict.fromkeys(names, "exit 1")))
    assert done.returncode != 0
    assert done.stderr.startswith("No Python >= 3.11 with its venv module was found (tried python3 ")

    done = checkout.make("demo", "PYTHON=false")
    assert done.returncode != 0
    assert done.stderr.startswith("PYTHON=false is no Python >= 3.11")
    assert not (checkout.path / ".venv").exists()


def test_what_is_somebody_elses_stays(checkout: Checkout, tmp_path: Path) -> None:
    """VENV=FOLDER is refused when it is there and make did not make it, be it an environment; and so is a path with a space."""
    mine = tmp_path / "documents"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    (mine / "pyvenv.cfg").touch()
    done = checkout.make("demo", f"VENV={mine}")
    assert done.returncode != 0
    assert done.stderr.startswith(f"VENV={mine} is there and was not made by this Makefile")
    checkout.make("clean", f"VENV={mine}")
    assert (mine / "letter").read_text() == "dear"

    done = checkout.make("demo", "VENV=of mine")
    assert done.returncode != 0
    assert "VENV=of mine must be one path without a space" in done.stderr


def test_the_pythons_of_a_machine_are_found() -> None:
    """This one is among them."""
    if sys.version_info[:2] not in PROMISED:
        pytest.skip("this Python is newer than those that are promised")
    assert sys.version_info[:2] in found()
