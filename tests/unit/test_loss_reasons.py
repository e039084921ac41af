"""Why a session is lost is said in one place."""

from __future__ import annotations

import ast

from coordinator.worker import loss_reasons
from tests.sources import nodes_of, package_nodes

TAKES = {"lose", "out_of_hand", "_over"}
"""Methods that are told why."""


def said_elsewhere(nodes: list[ast.AST]) -> list[int]:
    """Lines on which such a method is told a text that stands there."""
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TAKES
        if any(isinstance(argument, ast.Constant | ast.JoinedStr | ast.BoolOp) for argument in node.args)
    ]


def test_every_reason_stands_in_one_file() -> None:
    """No file of the worker tells a session that it is lost in words of its own."""
    looked_at = package_nodes(r"\.(lose|out_of_hand|_over)\(")
    assert {"worker/writes.py", "worker/resync.py", "worker/registration.py"} <= looked_at.keys()
    assert {name: lines for name, nodes in looked_at.items() if (lines := said_elsewhere(nodes))} == {}


def test_a_reason_that_stands_elsewhere_is_seen() -> None:
    """In each form."""
    text = "s.lose('so')\ns.lose(f'{a} so')\nself._over(b or 'so')\ns.lose(loss_reasons.GIVEN_UP)\n"
    assert said_elsewhere(nodes_of(text)) == [1, 2, 3]


def test_a_reason_says_who_and_why() -> None:
    """What stands in errors and in the log."""
    assert loss_reasons.handed_over("b~1") == "handed over to b~1"
    assert loss_reasons.instance_dead("a~1", "a write was refused") == "a~1 is dead: a write was refused"
    assert loss_reasons.instance_ends("a~1", "SIGTERM") == "a~1 ends: SIGTERM"
    assert loss_reasons.instance_ended("a~1") == "a~1 has ended"
    assert loss_reasons.refused("closed", 7) == "it is closed under epoch 7"
    assert loss_reasons.refused("", 0) == "its owner is dead"
    assert loss_reasons.taken_meanwhile("b~1") == "b~1 has it since writes were lost"
    assert loss_reasons.taken_meanwhile("") == "another worker has it since writes were lost"
    assert loss_reasons.stated_otherwise("closed", 7) == "it is closed under epoch 7 since writes were lost"
