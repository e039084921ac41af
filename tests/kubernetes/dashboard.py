"""The Grafana dashboard, made from the list below; ``python -m tests.kubernetes.dashboard --write`` writes it anew."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.rules import ROOT

PATH = ROOT / "helm/files/dashboard.json"
SCHEMA = 41
"""Of Grafana 12; older ones read it too."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
N = 'namespace=~"$namespace"'
AGE = "time() - max by (namespace, partition)"
P = f'{N}, partition=~"$partition"'
RATE = "$__rate_interval"
WIDTH = 24


@dataclass(frozen=True)
class Panel:
    """One panel: expressions with their legends; its place follows from the order."""

    title: str
    text: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    stacked: bool = False
    red_from: float | None = None
    red_below: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def quantile(metric: str, by: str = "") -> str:
    """The 99th percentile of a histogram."""
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile(0.99, sum by ({grouped}) (rate({metric}_bucket{{{N}}}[{RATE}])))"


def heatmap(title: str, text: str, metric: str) -> Panel:
    """A histogram over time."""
    query = f"sum by (le) (increase({metric}_bucket{{{N}}}[{RATE}]))"
    return Panel(title, text, {query: "{{le}}"}, "s", "heatmap", height=8)


def increase(metric: str, by: str) -> dict[str, str]:
    """What a counter counted, by a label."""
    return {f"sum by ({by}) (increase({metric}{{{N}}}[{RATE}])) > 0": f"{{{{{by}}}}}"}


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel(
            "Live calls",
            "Sessions that have an owner.",
            {
                f'sum(max by (namespace, partition, state) (recovery_sessions{{{P}, state=~"active|handing_over"}}))': "calls"
            },
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Orphans",
            "Calls whose owner is dead and that nobody has adopted yet: their callers hear silence.",
            {f"sum(max by (namespace, partition) (recovery_orphaned_sessions{{{P}}}))": "orphans"},
            kind="stat",
            width=4,
            height=4,
            red_from=1,
        ),
        Panel(
            "Oldest orphan",
            "For how long the oldest orphan has had no owner; nothing when there is none.",
            {f"max(time() - max by (namespace, partition) (recovery_oldest_orphan_timestamp_seconds{{{P}}}))": "age"},
            "s",
            "stat",
            4,
            4,
            red_from=60,
        ),
        Panel(
            "Budget left",
            "What is left of the error budget of 30 days, at a goal of 99.95 % of session time with an owner.",
            {f"min(namespace:recovery_error_budget:remaining_30d{{{N}}})": "left"},
            "percentunit",
            "stat",
            4,
            4,
            red_below=0,
        ),
        Panel(
            "Coordinators that see Redis",
            "Of all that are scraped; a partition that does not answer counts against all.",
            {f"sum(recovery_store_up{{{N}}})": "see Redis", f"count(recovery_store_up{{{N}}})": "are scraped"},
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Versions",
            "Coordinators by version: more than one while a rollout goes on.",
            {f"count by (version) (recovery_build_info{{{N}}})": "{{version}}"},
            kind="stat",
            width=4,
            height=4,
        ),
    ],
    "Calls": [
        Panel(
            "Sessions by state",
            "active: served; handing_over: served, and on offer to an heir; offered: nobody serves it.",
            {f"sum by (state) (max by (namespace, partition, state) (recovery_sessions{{{P}}}))": "{{state}}"},
            width=12,
            stacked=True,
        ),
        Panel(
            "Orphans by partition",
            "Coordinators' count, sessions of graves included; and what Redis itself shows, by its exporter's script.",
            {
                f"max by (namespace, partition) (recovery_orphaned_sessions{{{P}}})": "{{namespace}} {{partition}}",
                'partition:recovery_redis_unowned_sessions:max{partition=~"$partition"}': "Redis, {{partition}}",
            },
            width=12,
        ),
        Panel(
            "Oldest orphan",
            "Age of the oldest orphan. After GIVE_UP_AFTER it becomes a dead letter.",
            {f"{AGE} (recovery_oldest_orphan_timestamp_seconds{{{P}}})": "{{namespace}} {{partition}}"},
            "s",
        ),
        Panel(
            "Adoptions by cause",
            "Calls that went on elsewhere, by why they had lost their owner.",
            increase("recovery_adoptions_total", "cause"),
            stacked=True,
        ),
        Panel(
            "Dead letters by reason",
            "Calls that were given up on.",
            increase("recovery_dead_letters_total", "reason"),
            stacked=True,
        ),
        Panel(
            "Set aside by kind",
            "Records, members and entries that did not parse.",
            increase("recovery_quarantined_total", "kind"),
            stacked=True,
        ),
        Panel(
            "Loop errors",
            "Errors that a loop of a coordinator did not expect; it goes on after each.",
            increase("recovery_loop_errors_total", "loop"),
            stacked=True,
        ),
        Panel(
            "Time without an owner",
            "Share of all session time; the line to stay below is 0.05 %.",
            {f"namespace:recovery_orphaned:ratio_{w}{{{N}}}": f"{{{{namespace}}}} {w}" for w in ("5m", "1h", "6h")},
            "percentunit",
        ),
        Panel(
            "Dead instances by cause",
            "Deaths, by the evidence for them.",
            increase("recovery_instance_deaths_total", "cause"),
            stacked=True,
        ),
        Panel(
            "Sessions in doubt",
            "Of instances whose last heartbeat is older than their trust window: Redis does not answer, or they stand still.",
            {f"max by (namespace) (recovery_in_doubt_sessions{{{N}}})": "{{namespace}}"},
        ),
    ],
    "How fast": [
        heatmap("Detection", "From the evidence of death to the declaration.", "recovery_detection_duration_seconds"),
        heatmap("Takeover", "From the evidence of death to the adoption.", "recovery_takeover_duration_seconds"),
        heatmap(
            "Resume",
            "From the evidence of death until media is up again, where workers say so.",
            "recovery_resume_duration_seconds",
        ),
        Panel(
            "99th percentiles",
            "Of the three, and of the age of the data that adopters got.",
            {
                quantile("recovery_detection_duration_seconds"): "detection",
                quantile("recovery_takeover_duration_seconds"): "takeover",
                quantile("recovery_resume_duration_seconds"): "resume",
                quantile("recovery_data_age_seconds"): "age of data",
            },
            "s",
            width=12,
        ),
        Panel(
            "Takeover by cause",
            "99th percentile from evidence to adoption.",
            {quantile("recovery_takeover_duration_seconds", "cause"): "{{cause}}"},
            "s",
            width=12,
        ),
    ],
    "Holds and coordinators": [
        Panel(
            "Holds and breaker",
            "1 while nobody is declared dead, by reason; and while the mass breaker is open.",
            {
                f"max by (namespace, partition, reason) (recovery_hold_active{{{P}}})": "{{partition}} hold: {{reason}}",
                f"max by (namespace, partition) (recovery_breaker_open{{{P}}})": "{{partition}} breaker",
            },
        ),
        Panel(
            "Holds begun",
            "How often nobody was declared dead for a while, by reason.",
            increase("recovery_holds_total", "reason"),
            stacked=True,
        ),
        Panel(
            "Last scan",
            "How old the newest look at a partition is; several a second are normal.",
            {f"{AGE} (recovery_last_scan_timestamp_seconds{{{P}}})": "{{namespace}} {{partition}}"},
            "s",
        ),
    ],
    "Workers": [
        Panel(
            "Headroom",
            "Free slots by pool, and the calls that are lost at once when the fullest instance dies.",
            {
                f"max by (namespace, pool) (recovery_free_slots{{{N}}})": "free, {{pool}}",
                f"max by (namespace) (recovery_fullest_instance_sessions{{{N}}})": "fullest instance",
            },
        ),
        Panel(
            "Instances by state",
            "Dead ones are counted until their sessions are claimed.",
            {f"sum by (state) (max by (namespace, state) (recovery_instances{{{N}}}))": "{{state}}"},
            stacked=True,
        ),
        Panel(
            "Refused writes",
            "By instances that do not own the call any more, by operation.",
            increase("recovery_fenced_writes_total", "operation"),
            stacked=True,
        ),
        Panel(
            "Drain",
            "Sessions that draining instances still own.",
            {f"max by (namespace) (recovery_drain_sessions_remaining{{{N}}})": "{{namespace}}"},
        ),
        Panel(
            "Drain, time left",
            "Until the first of the drains under way is over; what is left then has no owner.",
            {f"max by (namespace) (recovery_drain_deadline_timestamp_seconds{{{N}}} > 0) - time()": "{{namespace}}"},
            "s",
        ),
        Panel(
            "Handovers by outcome",
            "Planned moves: completed, not taken in time, or cut short by the owner's death.",
            increase("recovery_handovers_total", "outcome"),
            stacked=True,
        ),
    ],
    "Redis": [
        Panel(
            "Latency by operation",
            "99th percentile of one exchange, scripts by their name.",
            {quantile("recovery_store_request_duration_seconds", "operation"): "{{operation}}"},
            "s",
        ),
        Panel(
            "Scan",
            "99th percentile of one look at a partition.",
            {quantile("recovery_scan_duration_seconds"): "scan"},
            "s",
        ),
        Panel(
            "Errors by kind",
            "Exchanges that failed: nothing is known then, and nobody is declared dead.",
            increase("recovery_store_errors_total", "kind"),
            stacked=True,
        ),
    ],
}


def _thresholds(panel: Panel) -> dict[str, Any]:
    if panel.red_from is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.red_from}]
    elif panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    else:
        steps = [{"color": "text" if panel.kind == "stat" else "green", "value": None}]
    return {"mode": "absolute", "steps": steps}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduce, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
            "filterValues": {"le": 1e-9},
            "tooltip": {"mode": "single"},
            "yAxis": {"unit": panel.unit},
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        mode = "normal" if panel.stacked else "none"
        custom = {"fillOpacity": 20 if panel.stacked else 0, "lineWidth": 1, "stacking": {"mode": mode, "group": "A"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": _thresholds(panel), "custom": custom},
            "overrides": [],
        },
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
                "instant": False,
                "range": True,
            }
            for n, (expression, legend) in enumerate(panel.queries.items())
        ],
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
    }


def dashboard() -> dict[str, Any]:
    """The whole document."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
             "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}}
        )  # fmt: skip
        y, x, height = y + 1, 0, 0
        for panel in members:
            if x + panel.width > WIDTH:
                y, x, height = y + height, 0, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return {
        "uid": "recovery-coordinator",
        "title": "Recovery coordinator",
        "description": "Live calls, those without an owner, and how fast they find one.",
        "tags": ["recovery-coordinator"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "regex": "",
                    "refresh": 1, "hide": 0, "multi": False, "includeAll": False, "options": [], "current": {},
                },
                _variable("namespace", "Namespace", "label_values(recovery_store_up, namespace)"),
                _variable("partition", "Partition", f"label_values(recovery_orphaned_sessions{{{N}}}, partition)"),
            ]
        },
        "panels": panels,
    }  # fmt: skip


def text() -> str:
    """The file as it should be."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PATH.write_text(text())
    else:
        sys.stdout.write(text())
