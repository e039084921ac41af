"""Sizes of files, messages of commits, and hooks that run what the environment has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MOST_LINES = 700
"""Of a file of the program: the largest of today, but for those below. A file that grows beyond it is divided."""
LARGER = ("coordinator/store/calls.py",)
"""One wrapper a script, each like the others; it is read by name and never from its beginning."""
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "coordinator").rglob("*.py"))


def is_generated(text: str) -> bool:
    """Whether a file says in its first lines that a program writes it."""
    return "generated" in "\n".join(text.splitlines()[:5]).lower()


def test_a_source_is_no_longer_than_a_reader_bears() -> None:
    """Unless a program writes it."""
    texts = {name: (ROOT / name).read_text() for name in SOURCES if name not in LARGER}
    assert len(texts) > 200
    long = {name: lines for name, text in texts.items() if (lines := text.count("\n")) > MOST_LINES}
    assert [name for name in long if not is_generated(texts[name])] == []


def said_of(message: str, folder: Path) -> str:
    """What the hook says of a commit's message; '' when it is good."""
    path = folder / "message"
    path.write_text(message)
    done = subprocess.run([ROOT / ".ci" / "commit-message", path], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if done.stderr else 0)
    return done.stderr


@pytest.mark.parametrize(
    "message",
    [
        "A subject\n\nWhy it is so.\n",
        f"{'é' * 72}\n\nCharacters count, not bytes.\n# a comment\n",
        "fixup! A subject\n",
        "Merge branch 'main'\n",
    ],
)
def test_a_good_message_is_taken(message: str, tmp_path: Path) -> None:
    """A subject and a body; what git makes itself needs none."""
    assert said_of(message, tmp_path) == ""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (f"{'x' * 73}\n\nWhy.\n", "73 characters"),
        ("A subject\nand more\n", "not empty"),
        ("A subject\n", "no body"),
        ("A subject\n\n# only a comment\n", "no body"),
        ("A subject\n\nSigned-off-by: a\n", "no body"),
        ("# only a comment\n", "no subject"),
    ],
)
def test_a_bad_message_is_refused_with_its_reason(message: str, why: str, tmp_path: Path) -> None:
    """Too long, run together, or without a body."""
    assert why in said_of(message, tmp_path)


def test_hooks_run_what_the_environment_has() -> None:
    """None of them comes from elsewhere, and each program is one that the lock installs or that is in the checkout."""
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    lock = (ROOT / "requirements.lock").read_text()
    packages = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter"}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        program = hook["entry"].split()[0]
        if program.startswith(".venv/bin/"):
            assert f"\n{packages[program.removeprefix('.venv/bin/')]}==" in lock
        elif program != "sh":
            assert (ROOT / program).stat().st_mode & 0o111
