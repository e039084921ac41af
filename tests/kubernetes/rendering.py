"""Charts as a cluster would get them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.chart_docs import CHART, ROOT

__all__ = [
    "EVERYTHING",
    "WORKER",
    "RefusedError",
    "containers",
    "helm",
    "helm_program",
    "of_kind",
    "template",
    "worker",
]

WORKER = ROOT / "examples/kubernetes"
TOKEN = "of-the-hook-and-nothing-else"

EVERYTHING: dict[str, Any] = {
    "imagePullSecrets": ["registry"],
    "commonLabels": {"team": "voice"},
    "redis": {"existingSecret": "recovery-redis", "tlsSecret": "recovery-tls"},
    "settings": {"dead_after": "3s", "max_offers": 7, "breaker_share": 0.5, "max_data_bytes": 131072, "log_level": "debug"},
    "priorityClassName": "high",
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d", "app.kubernetes.io/name": "not-mine"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "voice", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "service": {"annotations": {"e": "f"}},
    "serviceAccount": {"annotations": {"g": "h"}},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "redisTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True, "selector": {"app": "voice"}, "namespaces": ["voice"]},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "exporterScript": {"enabled": True},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Voice"}},
    "podEvents": {"enabled": True, "namespace": "voice", "selector": "app=voice", "deletionCost": True},
    "extraEnv": [{"name": "COORDINATOR_LOG_FORMAT", "value": "json"}],
    "extraEnvFrom": [{"configMapRef": {"name": "more", "optional": True}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-text\n",
    ],
}  # fmt: skip


class RefusedError(Exception):
    """What helm said."""


def helm_program() -> str:
    """Its path: that of the development requirements, else the machine's; without either the test skips."""
    program = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    if not program:
        pytest.skip("helm is not installed, and its package has wheels for Linux on x86-64 only")
    return program


def helm(*arguments: object, values: dict[str, Any] | None = None) -> str:
    """Its output.

    Raises:
        RefusedError: it failed.
    """
    command = [helm_program(), *map(str, arguments), *(["--values", "-"] if values is not None else [])]
    text = None if values is None else yaml.safe_dump(values)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RefusedError(done.stderr + done.stdout)
    return done.stdout


def template(
    values: dict[str, Any] | None = None, *, chart: Path = CHART, version: str = "1.34.0"
) -> list[dict[str, Any]]:
    """The objects of a release named ``r`` in namespace ``n``."""
    said = helm("template", "r", chart, "--namespace", "n", "--kube-version", version, values=values or {})
    return [one for one in yaml.safe_load_all(said) if one]


def worker(folder: Path, recovery: dict[str, Any] | None = None, **values: Any) -> list[dict[str, Any]]:
    """The objects of the example; ``folder`` gets a copy of it with its dependency."""
    chart = folder / "examples/kubernetes"
    if not chart.exists():
        shutil.copytree(WORKER, chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        shutil.copytree(CHART / "charts/recovery", folder / "helm/charts/recovery")
        helm("dependency", "build", chart)
    return template({"recovery": {"drainToken": TOKEN, **(recovery or {})}, **values}, chart=chart)


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [one for one in objects if one["kind"] == kind]


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of whatever runs."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one["spec"]
        elif "template" in one.get("spec", {}):
            yield one["spec"]["template"]["spec"]


def containers(objects: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container with its pod's specification."""
    return [(c, spec) for spec in pod_specs(objects) for c in [*spec.get("initContainers", []), *spec["containers"]]]
