"""Outside of the store's package nobody sends a Redis command: programs ask in words of the protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "coordinator"
SENDS = {"command", "commands", "outcomes"}
"""Methods of an executor that take a command."""
MAY = {
    "worker/writes.py",  # asks the connection of another package whether it leads to the same store
    "cli/bench.py", "cli/bench_deaths.py", "cli/bench_idle.py", "cli/bench_rates.py", "cli/bench_store.py", "cli/bench_worker.py",
    "cli/demo.py",  # shows what lies in the store
    "cli/doctor.py", "cli/doctor_acl.py", "cli/doctor_checks.py", "cli/doctor_rights.py",  # looks at the server itself
}  # fmt: skip
PROGRAMS = ("worker", "sidecar", "supervisor", "cli")
FILES = [
    path
    for program in PROGRAMS
    for path in sorted((PACKAGE / program).rglob("*.py"))
    if str(path.relative_to(PACKAGE)) not in MAY
]


def sent(tree: ast.AST) -> list[int]:
    """Lines on which a command is sent: an executor's method is called with the command's name in capitals."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDS
        for words in [
            [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        ]
        if any(word.isupper() for word in words)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_command_is_sent(path: Path) -> None:
    """What it wants to know or change has a function in the store."""
    assert sent(ast.parse(path.read_text())) == []


def test_a_command_that_is_sent_is_seen() -> None:
    """The look finds one."""
    assert sent(ast.parse("async def f(run):\n    await run.command('HGET', key, 'state')\n")) == [2]
