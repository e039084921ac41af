"""A state is spelled once in Python: in `coordinator.states`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from coordinator.states import InstanceState, SessionState
from tests.sources import nodes_of, package_files, package_nodes

STATES = {*SessionState, *InstanceState}
OTHER_MEANINGS = {
    "daemon/pods.py",  # kinds of errors of an API server
    "sessions/breaker.py",  # states of a circuit
    "sessions/guard.py",
    "sessions/keys.py",  # the key of the set of active conversations
    "sidecar/server.py",  # paths of the interface
}
"""Files in which one of these words stands for something else."""
SPELLED = "[\"'](" + "|".join(map(re.escape, STATES)) + ")[\"']"
FOUND = "def f(it):\n    return it.state in (b'active', 'x')\n"


def spelled(nodes: Iterable[ast.AST]) -> list[int]:
    """Lines on which a state is compared with, or looked for, by its word."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Compare):
            for part in ast.walk(node):
                value = part.value if isinstance(part, ast.Constant) else None
                if (value.decode() if isinstance(value, bytes) else value) in STATES:
                    found.append(node.lineno)
    return found


def test_no_comparison_spells_a_state() -> None:
    """Whoever compares a state compares it with the enumeration's, so that a state which goes is missed by the type check."""
    assert len(package_files()) > 200
    found = {name: spelled(nodes) for name, nodes in package_nodes(SPELLED).items() if name not in OTHER_MEANINGS}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_state_that_is_spelled_is_seen() -> None:
    """The look finds one."""
    assert re.search(SPELLED, FOUND)
    assert spelled(nodes_of(FOUND)) == [2]
