"""The documents say what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
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

README = ROOT / "README.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "helm").rglob("*.md"))]
PATH = re.compile(r"`((?:coordinator|docs|examples|helm|tests)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INDENTED_PYTHON = re.compile(r"^ *```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
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


def anchors(document: Path) -> set[str]:
    """The anchors that a host of repositories makes from a page's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(CODE.sub("", document.read_text())):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w -]", "", plain.strip().lower()).replace(" ", "-")
        found.add(next(one for n in count() if (one := f"{anchor}-{n}" if n else anchor) not in found))
    return found


def broken_links(document: Path, text: str) -> list[str]:
    """The links of a text in that document that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(CODE.sub("", text)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_paths_exist(document: Path) -> None:
    """Every path that a document names is there."""
    assert [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    """Every relative link of a document leads to a file, and its anchor to a heading there."""
    assert broken_links(document, document.read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    """A file that is not there, a heading that is not there, and no link in a block of code."""
    text = "[a](docs/no.md) [b](docs/faults.md#no) [c](#no) [d](docs/faults.md#faults) [e](#licence)\n```\n[f](no.md)\n```\n"

    assert broken_links(README, text) == ["docs/no.md", "docs/faults.md#no", "#no"]


def test_every_page_can_be_reached_from_the_readme() -> None:
    """The README links to each page of docs/, the decisions by their folder."""
    linked = {ROOT / link.partition("#")[0] for link in LINK.findall(README.read_text())}

    assert {*(ROOT / "docs").glob("*.md"), ROOT / "docs/adr"} - linked == set()


def test_readme_is_a_front_page() -> None:
    """It stays under 150 lines: tables and details stand in docs/."""
    assert len(README.read_text().splitlines()) < 150


def test_readme_shows_the_example_worker() -> None:
    """The worker in the README is examples/python/worker.py, character for character."""
    assert (ROOT / "examples/python/worker.py").read_text().rstrip() in README.read_text()


def test_the_page_on_media_shows_its_examples() -> None:
    """Each block of Python in docs/media.md stands in one of the examples, line by line."""
    blocks = INDENTED_PYTHON.findall((ROOT / "docs/media.md").read_text())
    examples = [
        "\n".join(line.strip() for line in path.read_text().splitlines())
        for path in (ROOT / "examples/python").glob("*.py")
    ]
    shown = ["\n".join(line.strip() for line in block.rstrip().splitlines()) for block in blocks]

    assert len(shown) == 3
    assert [block for block in shown if not any(block in example for example in examples)] == []


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
def test_every_command_is_listed(command: Any) -> None:
    """Each command has a row in the table of docs/commands.md."""
    assert f"| `coordinator {command}" in (ROOT / "docs/commands.md").read_text()


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
