"""The chart's alert rules as data: their expressions, the metrics in these, and a faster copy of them for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm/files/alerts.yaml"
SCRIPT = ROOT / "helm/files/orphans.lua"
RUNBOOK = ROOT / "docs/runbook.md"
RUNBOOK_URL = "https://github.com/recovery-coordinator/recovery-coordinator/blob/main/docs/runbook.md"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<before>\[|\bfor: |\boffset )(?P<number>\d+)(?P<unit>[smhd])\b")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:.\"«])(?P<name>[a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()\s*(?:\{(?P<matchers>[^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


def rules() -> list[dict[str, Any]]:
    """Every rule of the file, in its order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, list[dict[str, Any]]]:
    """Alerting rules by their name; one name may have several."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append(rule)
    return found


def records() -> set[str]:
    """Names of the recording rules."""
    return {rule["record"] for rule in rules() if "record" in rule}


def faster(text: str, factor: int) -> str:
    """The same rules with every ``for``, range and offset divided; thresholds stay."""

    def divided(match: re.Match[str]) -> str:
        milliseconds = int(match["number"]) * _SECONDS[match["unit"]] * 1000 // factor
        return f"{match['before']}{milliseconds}ms"

    return _DURATION.sub(divided, text)


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Each metric that an expression reads, with its matchers: (label, operator, value)."""
    matchers = {f"«{n}»": text for n, text in enumerate(_STRING.findall(expression))}
    bare = expression
    for mark, text in matchers.items():
        bare = bare.replace(text, f'"{mark}"', 1)
    bare = re.sub(r"\[[^\]]*\]", " ", _LABELS.sub(" ", bare))
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    found = []
    for match in _SELECTOR.finditer(bare):
        if match["name"].lower() in _WORDS:
            continue
        parts = [
            (label, operator, matchers.get(value, value).strip('"'))
            for label, operator, value in _MATCHER.findall(match["matchers"] or "")
        ]
        found.append((match["name"], parts))
    return found


def grouped_labels(expression: str) -> set[str]:
    """Labels by which an expression groups or matches."""
    return {label.strip() for labels in _LABELS.findall(expression) for label in labels.split(",") if label.strip()}
