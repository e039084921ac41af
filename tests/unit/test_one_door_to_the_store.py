"""Outside of the store no program sends a Redis command or converts to its milliseconds: they ask in words of the protocol."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tests.sources import nodes_of, package_files, package_nodes

SENDS = {"command", "commands", "outcomes"}
"""Methods of an executor that take a command."""
SENDING = "|".join(SENDS)
MAY = {
    "daemon/pod_api.py",  # talks to Kubernetes
    "worker/writes.py",  # asks the connection of another package whether it leads to the same store
    "cli/bench.py", "cli/bench_deaths.py", "cli/bench_idle.py", "cli/bench_rates.py", "cli/bench_store.py", "cli/bench_worker.py",
    "cli/demo.py",  # shows what lies in the store
    "cli/doctor.py", "cli/doctor_acl.py", "cli/doctor_checks.py", "cli/doctor_rights.py",  # looks at the server itself
}  # fmt: skip
PROGRAMS = ("daemon/", "worker/", "sidecar/", "supervisor/", "cli/")


def sent(nodes: Iterable[ast.AST]) -> list[int]:
    """Lines on which a command is sent: an executor's method is called with the command's name in capitals."""
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDS
        for words in [
            [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        ]
        if any(word.isupper() for word in words)
    ]


def test_no_command_is_sent() -> None:
    """What it wants to know or change has a function in the store."""
    assert sum(name.startswith(PROGRAMS) for name in package_files()) > 100
    looked_at = {name: nodes for name, nodes in package_nodes(SENDING).items() if name.startswith(PROGRAMS)}
    found = {name: sent(nodes) for name, nodes in looked_at.items() if name not in MAY}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_command_that_is_sent_is_seen() -> None:
    """The look finds one."""
    text = "async def f(run):\n    await run.command('HGET', key, 'state')\n"
    assert re.search(SENDING, text)
    assert sent(nodes_of(text)) == [2]


CONVERTS = {
    "clock.py",  # the one place that converts
    "sessions/state.py", "sessions/timestamp.py",  # nanoseconds and microseconds
    "settings/units.py", "settings/groups.py",  # as people write them, of any length
    "cli/bench_rates.py", "cli/bench_store.py", "cli/bench_idle.py", "cli/doctor_checks.py",  # measure below a millisecond
}  # fmt: skip


def converted(nodes: Iterable[ast.AST]) -> list[int]:
    """Lines on which something is multiplied or divided by a thousand."""
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv)
        and any(isinstance(side, ast.Constant) and side.value == 1000 for side in (node.left, node.right))
    ]


def test_seconds_outside_milliseconds_inside() -> None:
    """Lengths of time are in seconds outside of the store; a program that has milliseconds asks `coordinator.clock`."""
    outside = {name: nodes for name, nodes in package_nodes("1_?000").items() if not name.startswith("store/")}
    assert {name for name, nodes in outside.items() if converted(nodes)} == CONVERTS


def test_a_conversion_is_seen() -> None:
    """The look finds each form."""
    text = "a = b * 1000\nc = 1_000 * d\ne = f / 1000\ng = h // 1000\ni = j * 100\n"
    assert sorted(converted(nodes_of(text))) == [1, 2, 3, 4]
