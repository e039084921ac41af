"""ServiceMonitor, PodMonitor and PrometheusRule, against the definitions of the Prometheus operator."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.chart_docs import ROOT
from tests.kubernetes.rendering import EVERYTHING, template
from tests.kubernetes.test_chart import CUSTOM

PACKAGE = "@kubernetes-models/prometheus-operator@6.0.0"
SCRIPT = """
import * as models from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
const said = [];
for (const one of JSON.parse(process.argv[1])) {
  try { new models[one.kind](one).validate(); said.push(""); } catch (error) { said.push(String(error.message)); }
}
console.log(JSON.stringify(said));
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the definitions are."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm and node hold the operator's definitions, and are not here")
    where = ROOT / "build/npm"
    if not (where / "node_modules/@kubernetes-models/prometheus-operator").exists():
        where.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(where), PACKAGE]
        subprocess.run(install, check=True, capture_output=True, timeout=200)
    return where


def faults(folder: Path, objects: list[dict[str, Any]]) -> list[str]:
    """A message an object; '' for a valid one."""
    command = ["node", "--input-type=module", "--eval", SCRIPT, json.dumps(objects)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_they_are_valid(folder: Path) -> None:
    """All three kinds, with all features on."""
    objects = [one for one in template(EVERYTHING) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in objects} == CUSTOM
    assert faults(folder, objects) == [""] * len(objects)


def test_a_fault_is_seen(folder: Path) -> None:
    """The check above would notice a wrong interval, a rule without an expression, and a field of wrong type."""
    objects = [one for one in template(EVERYTHING) if one["kind"] in CUSTOM]
    for one in objects:
        if one["kind"] == "PrometheusRule":
            rule = next(rule for group in one["spec"]["groups"] for rule in group["rules"])
            del rule["expr"]
        else:
            endpoints = one["spec"].get("endpoints") or one["spec"]["podMetricsEndpoints"]
            endpoints[0]["interval"] = "often"
    assert all(faults(folder, objects))
