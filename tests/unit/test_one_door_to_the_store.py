"""Outside of the store no program sends a Redis command or converts to its milliseconds: they ask in words of the protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "coordinator"
SENDS = {"command", "commands", "outcomes"}
"""Methods of an executor that take a command."""
MAY = {
    "daemon/pod_api.py",  # talks to Kubernetes
    "worker/writes.py",  # asks the connection of another package whether it leads to the same store
    "cli/bench.py", "cli/bench_deaths.py", "cli/bench_idle.py", "cli/bench_rates.py", "cli/bench_store.py", "cli/bench_worker.py",
    "cli/demo.py",  # shows what lies in the store
    "cli/doctor.py", "cli/doctor_acl.py", "cli/doctor_checks.py", "cli/doctor_rights.py",  # looks at the server itself
}  # fmt: skip
PROGRAMS = ("daemon", "worker", "sidecar", "supervisor", "cli")
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


CONVERTS = {
    "clock.py",  # the one place that converts
    "sessions/state.py", "sessions/timestamp.py",  # nanoseconds and microseconds
    "settings/units.py", "settings/groups.py",  # as people write them, of any length
    "cli/bench_rates.py", "cli/bench_store.py", "cli/bench_idle.py", "cli/doctor_checks.py",  # measure below a millisecond
}  # fmt: skip


def converted(tree: ast.AST) -> list[int]:
    """Lines on which something is multiplied or divided by a thousand."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv)
        and any(isinstance(side, ast.Constant) and side.value == 1000 for side in (node.left, node.right))
    ]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "store"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_seconds_outside_milliseconds_inside(path: Path) -> None:
    """Lengths of time are in seconds outside of the store; what has milliseconds asks `coordinator.clock`."""
    found = converted(ast.parse(path.read_text()))
    assert bool(found) == (str(path.relative_to(PACKAGE)) in CONVERTS), found


def test_a_conversion_is_seen() -> None:
    """The look finds each form."""
    assert converted(ast.parse("a = b * 1000\nc = 1_000 * d\ne = f / 1000\ng = h // 1000\ni = j * 100\n")) == [
        1,
        2,
        3,
        4,
    ]
