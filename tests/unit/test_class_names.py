"""No class name stands for two things."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "coordinator"
NAMED_WITH_THEIR_MODULE = {"store/calls.py", "sidecar/schemas.py"}
"""Replies of scripts and bodies of requests: nobody imports them by themselves (``calls.Held``, ``schemas.Owner``)."""
PUBLIC = {
    "SealBrokenError": "the conversations' is the store's, as an error of the conversations",
    "TenantError": "likewise",
    "SessionState": "the conversations' has been called so in every release",
}
"""Names of the conversations' interface, and why they stay."""


def test_no_two_classes_have_one_name() -> None:
    """Whoever searches for a class finds the one that is meant."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name not in NAMED_WITH_THEIR_MODULE:
            for one in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
                found[one].append(name)
    assert {one: where for one, where in found.items() if len(where) > 1 and one not in PUBLIC} == {}


def _classes(path: Path) -> set[str]:
    return set(re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE))


def test_a_name_that_a_reply_or_body_shares_is_named_with_its_module() -> None:
    """No file imports such a class by itself, but for the conversations' replies, which are made from scripts too."""
    all_of = {str(path.relative_to(PACKAGE)): _classes(path) for path in PACKAGE.rglob("*.py")}
    shared = {
        module: all_of[module] & {one for other, found in all_of.items() if other != module for one in found}
        for module in NAMED_WITH_THEIR_MODULE
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for module, names in shared.items():
            dotted = "coordinator." + module.removesuffix(".py").replace("/", ".")
            taken = re.search(rf"^from {re.escape(dotted)} import (\([^)]*\)|.*)$", text, re.MULTILINE)
            if taken and str(path.relative_to(PACKAGE)) != "sessions/calls.py":
                assert not names.intersection(re.findall(r"\w+", taken[1])), path
