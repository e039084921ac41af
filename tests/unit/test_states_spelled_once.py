"""A state is spelled once in Python: in `coordinator.states`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.states import InstanceState, SessionState

PACKAGE = Path(__file__).parents[2] / "coordinator"
STATES = {*SessionState, *InstanceState}
OTHER_MEANINGS = {
    "daemon/pods.py",  # kinds of errors of an API server
    "sessions/breaker.py",  # states of a circuit
    "sessions/guard.py",
    "sessions/keys.py",  # the key of the set of active conversations
    "sidecar/server.py",  # paths of the interface
}
"""Files in which one of these words stands for something else."""


def spelled(tree: ast.AST) -> Iterator[int]:
    """Lines on which a state is compared with, or looked for, by its word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for part in ast.walk(node):
                value = part.value if isinstance(part, ast.Constant) else None
                if (value.decode() if isinstance(value, bytes) else value) in STATES:
                    yield node.lineno


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if str(path.relative_to(PACKAGE)) not in OTHER_MEANINGS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_comparison_spells_a_state(path: Path) -> None:
    """Whoever compares a state compares it with the enumeration's, so that a state which goes is missed by the type check."""
    assert list(spelled(ast.parse(path.read_text()))) == []
