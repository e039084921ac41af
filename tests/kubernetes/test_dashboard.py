"""The Grafana dashboard: in step with its code, and every panel shows something that exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.conftest import Exported
from tests.kubernetes.dashboard import PATH, WIDTH, dashboard, text
from tests.kubernetes.monitoring import MISSING, PROMTOOL
from tests.kubernetes.rules import grouped_labels, records, selectors

VARIABLES = {"$__rate_interval": "1m", "$namespace": ".*", "$partition": ".*"}
TARGET_LABELS = {"namespace"}
UNITS = {"short", "s", "percentunit"}
REQUIRED = {
    "recovery_sessions", "recovery_oldest_orphan_timestamp_seconds", "recovery_detection_duration_seconds_bucket",
    "recovery_takeover_duration_seconds_bucket", "recovery_adoptions_total", "recovery_hold_active", "recovery_breaker_open",
    "recovery_free_slots", "recovery_drain_sessions_remaining", "recovery_store_request_duration_seconds_bucket",
    "namespace:recovery_error_budget:remaining_30d",
}  # fmt: skip
"""What an operator looks for."""


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    written: list[dict[str, Any]] = json.loads(PATH.read_text())["panels"]
    return [panel for panel in written if panel["type"] != "row"]


def expressions() -> list[Any]:
    """Each expression of each panel, with values for the variables."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append(pytest.param(expression, target["legendFormat"], id=f"{panel['title']}-{target['refId']}"))
    return found


def test_the_file_is_in_step_with_its_code() -> None:
    """helm/files/dashboard.json is what ``python -m tests.kubernetes.dashboard --write`` writes."""
    assert PATH.read_text() == text()


def test_every_panel_is_explained_and_has_its_place() -> None:
    """Titles, descriptions, units, the datasource variable; no two panels overlap or have one id."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    assert [v["name"] for v in dashboard()["templating"]["list"]] == ["datasource", "namespace", "partition"]


def test_the_panels_of_an_operator_are_there() -> None:
    """Sessions, orphans, detection and takeover, adoptions, holds and breaker, headroom, drain, Redis latency, budget."""
    shown = {name for case in expressions() for name, _ in selectors(str(case.values[0]))}
    assert REQUIRED - shown == set()


@pytest.mark.skipif(not PROMTOOL, reason=f"not installed: {', '.join(MISSING)}")
def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    """All of them as recording rules."""
    made = [{"record": f"panel:number:{n}", "expr": case.values[0]} for n, case in enumerate(expressions())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    run = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(made)} rules found" in run.stdout


@pytest.mark.parametrize(("expression", "legend"), expressions())
def test_no_panel_shows_what_nobody_exports(expression: str, legend: str, exported: Exported) -> None:
    """Each metric and label of a panel is one that a started program exports, or a recording rule."""
    found = selectors(expression)
    assert found
    labels = {"partition", "le", *TARGET_LABELS}
    for name, matchers in found:
        if name not in records():
            assert name in exported
            labels |= set(exported[name])
            for label, operator, value in matchers:
                assert label in TARGET_LABELS or any(
                    re.fullmatch(value, one) if operator == "=~" else value == one for one in exported[name][label]
                )
    assert grouped_labels(expression) | set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels
