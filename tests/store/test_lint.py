"""No name in the scripts as they are loaded is undefined, unused or hides another; single files cannot say, as each uses others."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pytest

from coordinator.sessions.calls import SCRIPTS as SESSIONS
from coordinator.store.scripts import SCRIPTS, Script

LUACHECK = shutil.which("luacheck")
ALL = {**SCRIPTS, **{f"sessions.{name}": script for name, script in SESSIONS.items()}}
UNUSED = re.compile(r"unused (?:function|variable) '(\w+)'")
FOUND = re.compile(r"^(.+)\.lua:(\d+):\d+: (.*)$", re.MULTILINE)

pytestmark = pytest.mark.skipif(LUACHECK is None, reason="luacheck is not installed")


def lint(folder: Path, sources: Mapping[str, bytes]) -> list[tuple[str, int, str]]:
    """What luacheck finds: name of the source, line and text."""
    for name, source in sources.items():
        (folder / f"{name}.lua").write_bytes(source)
    options = "--no-config --std lua51 --read-globals KEYS ARGV redis --no-max-line-length --no-color --codes --formatter plain ."
    run = subprocess.run([str(LUACHECK), *options.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return [(name.removeprefix("./"), int(line), text) for name, line, text in FOUND.findall(run.stdout)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """In all scripts."""
    return lint(tmp_path_factory.mktemp("loaded"), {name: script.source for name, script in ALL.items()})


def own_line(script: Script) -> int:
    """Where a script's own text begins, behind what it uses."""
    before, _, _ = script.source.decode().partition(f"-- {script.name}.lua: ")
    return before.count("\n") + 1


def library(name: str, lib: str) -> str:
    """A piece of Lua that a script uses: of its own package, else of the protocol."""
    packages = ("coordinator.sessions", "coordinator.store") if name.startswith("sessions.") else ("coordinator.store",)
    files = [resources.files(package) / "lua" / "lib" / f"{lib}.lua" for package in packages]
    return next(one for one in files if one.is_file()).read_text()


def unused(found: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Script, line and name of what is not used."""
    return [(name, line, match[1]) for name, line, text in found if (match := UNUSED.search(text))]


def test_no_name_is_undefined_or_hides_another(found: list[tuple[str, int, str]]) -> None:
    """Nor is there anything else to be said of the scripts, but for what is not used."""
    assert [one for one in found if not UNUSED.search(one[2])] == []


def test_a_script_uses_its_own_names(found: list[tuple[str, int, str]]) -> None:
    """Its keys are named, used or not; nothing else is there for nothing."""
    own = [(name, what) for name, line, what in unused(found) if line >= own_line(ALL[name])]
    assert [(name, what) for name, what in own if what not in ALL[name].header.keys] == []


def test_what_a_script_uses_is_used(found: list[tuple[str, int, str]]) -> None:
    """No script names a piece of Lua of which it needs nothing, and nothing of a piece is unused wherever the piece is."""
    idle = {(name, what) for name, line, what in unused(found) if line < own_line(ALL[name])}
    users: dict[tuple[str, str], set[str]] = {}
    for name, script in ALL.items():
        for lib in script.header.uses:
            names = re.findall(r"^local (?:function )?(\w+)", library(name, lib), re.MULTILINE)
            assert any((name, what) not in idle for what in names), f"{name} needs nothing of {lib}"
            for what in names:
                users.setdefault((lib, what), set()).add(name)
    assert [one for one, names in users.items() if all((name, one[1]) in idle for name in names)] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("local nothing = 1", "unused variable 'nothing'"),
        ("nowhere(1)", "undefined variable 'nowhere'"),
        ("local function guard() end", "'guard' was previously defined"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, line: str, said: str) -> None:
    """In the text that a script begins with, behind all that it uses."""
    script = SCRIPTS["checkpoint"]
    lines = script.source.decode().split("\n")
    lines.insert(own_line(script), line)
    assert any(said in text for _, _, text in lint(tmp_path, {"checkpoint": "\n".join(lines).encode()}))
