"""The documents say what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.cli.doctor_rights import tried_commands
from coordinator.settings import Settings
from coordinator.store.keys import KINDS, PERMANENT, PERMANENT_WHILE
from coordinator.store.scripts import SCRIPTS
from tests.cli.docs_tables import ROOT, TABLES, written
from tests.cli.lifetimes import KEYS

DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATH = re.compile(r"`((?:coordinator|docs|examples|tests|deploy)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)#]+)\)")
UPPER_CASE = re.compile(r'\("([A-Z]{3,})"')
ASKED_ON_CONNECTING = {"INFO", "AUTH", "SELECT", "HELLO", "CLIENT", "ROLE", "ASKING", "CLUSTER"}
ERROR_WORDS = {"READONLY"}  # begins an error, and is a command that nobody sends
SCRIPT_COMMAND = re.compile(rb"redis\.p?call\('(\w+)'")


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_what_the_code_says(name: str) -> None:
    """A table in the docs equals the one made from the code (python -m tests.cli.docs_tables writes it)."""
    _, make = TABLES[name]

    assert written(name) == make()


def test_every_kind_of_key_has_a_lifetime_in_the_docs() -> None:
    """Those that have no expiry, ever or in some state, end by what happens; the others after a time that is named."""
    timed = {kind for kind, (_, ends) in KEYS.items() if "_TTL" in ends or "7 days" in ends}

    assert KEYS.keys() == KINDS
    assert timed - {*PERMANENT_WHILE} == KINDS - {*PERMANENT} - {*PERMANENT_WHILE} - {"mailbox", "scratch"}
    assert {word for _, ends in KEYS.values() for word in re.findall(r"[A-Z_]+_TTL", ends)} <= {
        name.upper() for name in Settings.model_fields
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_paths_exist(document: Any) -> None:
    """Every path that a document names is there, and so is every file that it links to."""
    text = document.read_text()
    named = [ROOT / path for path in PATH.findall(text)]
    linked = [document.parent / path for path in LINK.findall(text) if "://" not in path]

    assert [str(path) for path in named + linked if not path.exists()] == []


def test_readme_shows_the_example_worker() -> None:
    """The worker in the README is examples/python/worker.py, character for character."""
    assert (ROOT / "examples/python/worker.py").read_text().rstrip() in (ROOT / "README.md").read_text()


def test_example_worker_is_about_twenty_lines() -> None:
    """The example stays as short as promised: at most 25 lines of code."""
    tree = ast.parse((ROOT / "examples/python/worker.py").read_text())
    lines = {node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")}

    assert len(lines) <= 25


def commands_of(typer_app: Any, prefix: Any = ()) -> Iterator[str]:
    for command in typer_app.registered_commands:
        yield " ".join((*prefix, command.name))
    for group in typer_app.registered_groups:
        yield from commands_of(group.typer_instance, (*prefix, group.name))


COMMANDS = list(commands_of(app))


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_lists_every_command(command: Any) -> None:
    """Each command has a row in the README's table."""
    assert f"| `coordinator {command}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_exit_status(command: Any) -> None:
    """`--help` works for each command and tells the exit statuses."""
    run = CliRunner().invoke(app, [*command.split(), "--help"])

    assert run.exit_code == 0
    assert "Exit status:" in run.stdout


def test_doctor_tries_every_command_that_scripts_call() -> None:
    """No script calls a command whose right `doctor` does not try out."""
    called = {name.decode().upper() for script in SCRIPTS.values() for name in SCRIPT_COMMAND.findall(script.source)}

    assert called - tried_commands() == set()


def test_doctor_tries_every_command_that_the_program_sends(redis_client: redis.Redis) -> None:
    """No command in the store, the daemon or the worker is sent whose right `doctor` does not try out."""
    known = {name.upper() for name in redis_client.command()}
    assert "HSET" in known
    files = [path for part in ("store", "daemon", "worker") for path in (ROOT / "coordinator" / part).glob("*.py")]
    sources = [path for path in files if path.name not in ("commands.py", "rights.py")]  # they list them
    named = {name for path in sources for name in UPPER_CASE.findall(path.read_text())} & known

    assert named - tried_commands() - ASKED_ON_CONNECTING - ERROR_WORDS == set()
