"""What of the charts is made from something else: the tables of values, and what their schemas know of settings.

``python -m tests.kubernetes.chart_docs`` writes them; a test says when they are out of step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import yaml

from coordinator.settings import Settings, parse_duration, parse_labels, parse_size

__all__ = ["CHART", "LIBRARY", "ROOT", "rendered"]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
LIBRARY = CHART / "charts/recovery"

OWN = {
    "redis_url",
    "name",
    "http_host",
    "http_port",
    "http_tcp",
    "http_socket",
    "http_socket_shared",
    "drain_port",
    "api_token",
    "drain_token",
    "encryption_keys",
    "watcher_socket",
    "watch_exit",
}
"""Settings that the charts set themselves, or that are secrets."""
OF_WORKERS = {"pool", "capacity", "labels", "address", "worker_token_optional"}
OF_DRAINS = {"drain_timeout", "termination_grace_period", "drain_concurrency"}
OF_PODS = {"pod_events", "pod_namespace", "pod_selector", "pod_deletion_cost", "pod_api", "pod_credentials"}


def values_table(chart: Path) -> str:
    """A line a value: name, default, and the comment that begins with ``# --`` above it."""
    text = (chart / "values.yaml").read_text()
    lines = text.splitlines()
    rows = ["| value | default | what it is |", "|---|---|---|"]
    root = yaml.compose(text)
    assert root is not None
    for path, node, line in _leaves(root, ()):
        comment = lines[line - 1].strip()
        if not comment.startswith("# -- "):
            continue
        default = json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)
        rows.append(f"| `{'.'.join(path)}` | `{default}` | {comment.removeprefix('# -- ')} |")
    return "\n".join(rows)


def _leaves(node: yaml.Node, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], yaml.Node, int]]:
    """Every key with its value and line; a mapping whose keys are documented by themselves is given too."""
    found = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            found.append((here, value, key.start_mark.line))
            found += _leaves(value, here)
    return found


def settings_schema(without: set[str]) -> dict[str, Any]:
    """A property a setting."""
    properties: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name in without:
            continue
        kind, text = field.annotation, {"description": str(field.description)}
        parsers = {getattr(one, "func", None) for one in field.metadata}
        if parse_duration in parsers:
            properties[name] = {
                "type": ["string", "number"],
                "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|min|m|h|d)?$",
                **text,
            }
        elif parse_size in parsers:
            properties[name] = {"type": ["string", "integer"], "pattern": r"^[0-9]+([KkMm][Ii]?[Bb])?$", **text}
        elif parse_labels in parsers:
            properties[name] = {"type": "object", "additionalProperties": {"type": "string"}, **text}
        elif kind is bool:
            properties[name] = {"type": "boolean", **text}
        elif kind is int:
            properties[name] = {"type": "integer", **text}
        elif kind is float:
            properties[name] = {"type": "number", **text}
        elif choices := [one for one in _choices(kind) if one is not None]:
            properties[name] = {"enum": choices, **text}
        else:
            properties[name] = {"type": "string", **text}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _choices(kind: Any) -> list[Any]:
    if "Literal" not in str(kind):
        return []
    found: list[Any] = []
    for one in get_args(kind):
        found += _choices(one) if get_args(one) else [one] if not isinstance(one, type) else []
    return found


def rendered() -> dict[Path, str]:
    """What the files should hold."""
    found = {}
    kept_out = {
        CHART: OWN | OF_WORKERS | OF_DRAINS | OF_PODS,
        LIBRARY: OWN | OF_PODS | {"drain_timeout", "termination_grace_period"},
    }
    for chart, without in kept_out.items():
        schema = json.loads((chart / "values.schema.json").read_text())
        schema["definitions"]["settings"] = settings_schema(without)
        found[chart / "values.schema.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        before, _, rest = (chart / "README.md").read_text().partition("<!-- values -->")
        after = rest.partition("<!-- end -->")[2]
        found[chart / "README.md"] = f"{before}<!-- values -->\n{values_table(chart)}\n<!-- end -->{after}"
    return found


if __name__ == "__main__":
    for path, text in rendered().items():
        path.write_text(text)
