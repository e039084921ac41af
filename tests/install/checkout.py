"""A checkout of its own for a test, in a path with a space, and make in it, which installs from a folder of wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

__all__ = ["ADAPTERS", "ROOT", "Checkout", "locked"]

ROOT = Path(__file__).resolve().parents[2]
[_NAMES] = re.findall(r"^ADAPTERS := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
ADAPTERS = frozenset(_NAMES.split())
"""Extras for other people's frameworks, each in an environment of its own."""
FILES = ["Makefile", "pyproject.toml", "README.md", "LICENSE", *(path.name for path in ROOT.glob("requirements*.lock"))]
OF_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "PYTHONPYCACHEPREFIX", "VENV"}


def locked(text: str) -> dict[str, str]:
    """The entries of a lock file by ``name==version``, each as it stands there without its comments."""
    blocks = re.findall(r"^([a-z0-9._-]+==[^\s;]+)(.*(?:\n +--hash=.*)*\n)", text, flags=re.MULTILINE)
    return {pin: pin + rest for pin, rest in blocks}


class Checkout:
    """What the targets of the Makefile need, copied; no environment yet.

    Args:
        folder: an empty one.
        wheels: where every wheel of `requirements-demo.lock` is, and no index is asked; None: as the caller has it.
    """

    def __init__(self, folder: Path, wheels: Path | None = None) -> None:
        self.path = folder / "a check out"
        self.path.mkdir()
        self._wheels = wheels
        self.lock = self.path / "requirements-demo.lock"
        for name in FILES:
            shutil.copy(ROOT / name, self.path)
        shutil.copytree(ROOT / "coordinator", self.path / "coordinator", ignore=shutil.ignore_patterns("__pycache__"))

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for make: this process's but those of a make that runs it, the wheels, and more."""
        source = {}
        if self._wheels:
            settings = self.path.with_name("quick.conf")
            settings.write_text("[install]\ncompile = false\n")  # most of it is never imported
            source = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self._wheels), "PIP_CONFIG_FILE": str(settings)}
        own = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
        return own | source | more

    def make(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs make to its end, without a terminal, with further environment variables."""
        return subprocess.run(
            ["make", *words],
            cwd=self.path,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def edit(self, name: str, old: str, new: str) -> None:
        """Replaces text that must be there, once."""
        text = (self.path / name).read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
        (self.path / name).write_text(text.replace(old, new))

    def relock(self, package: str, change: Callable[[str], str]) -> None:
        """Changes the entry of a package in requirements-demo.lock."""
        entry = next(text for pin, text in locked(self.lock.read_text()).items() if pin.startswith(f"{package}=="))
        self.edit(self.lock.name, entry, change(entry))

    @property
    def installed(self) -> set[str]:
        """Names of the distributions in its environment."""
        return {
            path.name.split("-")[0].lower() for path in self.path.glob(".venv/lib/python3*/site-packages/*.dist-info")
        }
