"""Runs of a state machine that look for a bug which was planted in the scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from coordinator.store import calls
from coordinator.store.scripts import SCRIPTS, Script

__all__ = ["EXAMPLES", "SEEDS", "mutant", "plant", "run"]

EXAMPLES = 10
"""Of one seed. Many seeds with few examples each find a bug far sooner than many examples of one."""
SEEDS = 150
"""What a bug may take: a thousand and a half of examples in all."""


def mutant(script: Script, old: str, new: str) -> Script:
    """The script with another text in place of the old one, which must be there."""
    text = script.source.decode()
    assert old in text, f"{script.name}.lua has no {old!r}"
    source = text.replace(old, new).encode()
    return replace(script, source=source, sha=hashlib.sha1(source, usedforsecurity=False).hexdigest())


def plant(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, tuple[str, str]]) -> None:
    """Changes scripts for this test: name -> old text, which must be there, and new text."""
    mutants = dict(SCRIPTS)
    for name, (old, new) in changes.items():
        mutants[name] = mutant(SCRIPTS[name], old, new)
    monkeypatch.setattr(calls, "SCRIPTS", MappingProxyType(mutants))


def run(machine: type[RuleBasedStateMachine], steps: int, seeds: list[int]) -> None:
    """Runs the machine with each seed, and raises what it finds; always alike, as far as the server's clock allows."""
    for one in seeds:

        class Machine(machine):  # type: ignore[misc, valid-type]
            pass

        seed(one)(Machine)
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
