"""Each rule of a script holds, and would be missed: its scene goes well with the script as it is, and wrong without that rule."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import MappingProxyType

import pytest

from coordinator.store import calls
from coordinator.store.scripts import SCRIPTS
from tests.store import rules
from tests.store.harness import Bench
from tests.store.rules import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_holds(bench: Bench, rule: Rule) -> None:
    """With the script as it is."""
    rule.scene(bench)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_a_rule_its_scene_goes_wrong(bench: Bench, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that makes the rule is taken out of the script: its scene notices, and not because the script is broken."""
    script = SCRIPTS[rule.script]
    text = script.source.decode()
    assert text.count(rule.text) == 1, "the rule names one place of the script"
    source = text.replace(rule.text, rule.instead).encode()
    mutant = replace(script, source=source, sha=hashlib.sha1(source, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(calls, "SCRIPTS", MappingProxyType({**SCRIPTS, rule.script: mutant}))
    with pytest.raises(AssertionError):
        rule.scene(bench)
    bench.client.flushall()  # what a broken rule leaves behind is nobody's


def test_every_scene_is_played() -> None:
    """No scene of `rules` is left out of the table."""
    scenes = {n for n, f in vars(rules).items() if getattr(f, "__module__", "") == rules.__name__ and n.islower()}
    assert {name for name in scenes if not name.startswith("_")} == {rule.scene.__name__ for rule in RULES}
