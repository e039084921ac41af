"""The alert rules themselves: they parse, are unit-tested, explained, and read only what is really exported."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from coordinator.cli.app import app
from tests.kubernetes.conftest import Exported
from tests.kubernetes.monitoring import FACTOR, MISSING, PROMTOOL
from tests.kubernetes.rules import (
    ROOT,
    RULES,
    RUNBOOK,
    RUNBOOK_URL,
    SCRIPT,
    alerts,
    faster,
    grouped_labels,
    records,
    rules,
    selectors,
)
from tests.store.harness import DEAD_AFTER_MS, Bench

UNITS = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
TARGET_LABELS = {"namespace"}
"""Labels of targets on which rules may group; `job` and `instance` are the user's."""
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason=f"not installed: {', '.join(MISSING)}")


def expressions() -> list[Any]:
    return [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in rules()]


@needs_promtool
@pytest.mark.parametrize("factor", [1, FACTOR])
def test_promtool_accepts_the_rules(factor: int, tmp_path: Path) -> None:
    """The file parses without a complaint of any linter, and so does the faster copy that the live test uses."""
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.read_text() if factor == 1 else faster(RULES.read_text(), factor))
    run = subprocess.run(
        [PROMTOOL, "check", "rules", "--lint=all", "--lint-fatal", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(rules())} rules found" in run.stdout


@needs_promtool
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_promtool_runs_the_unit_tests(path: Path) -> None:
    """Alerts fire when they should, with the words that they should say, and not otherwise."""
    run = subprocess.run([PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_unit_tests_of_both_kinds() -> None:
    """For each alert there is a case in which it fires and one in which it does not; only the watchdog always does."""
    expected: dict[str, set[bool]] = defaultdict(set)
    windows = set()
    for path in UNITS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                expected[case["alertname"]].add(bool(case["exp_alerts"]))
                windows |= {alert["exp_labels"].get("window") for alert in case["exp_alerts"]}
    assert {name for name, kinds in expected.items() if kinds == {True, False}} == set(alerts()) - {"Watchdog"}
    assert expected["Watchdog"] == {True}
    assert windows >= {rule["labels"].get("window") for rule in alerts()["ErrorBudgetBurn"]}


def test_every_alert_says_what_it_is_and_where_to_read_on() -> None:
    """Severity, summary, description, and a runbook section of the alert's name, all under one address."""
    headings = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    for name, variants in alerts().items():
        for rule in variants:
            assert rule["labels"]["severity"] in ("critical", "warning", "none")
            assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
            assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{name.lower()}"
    assert headings == set(alerts())


@pytest.mark.parametrize("expression", expressions())
def test_rules_read_only_what_is_exported(expression: str, exported: Exported) -> None:
    """Each metric, label and label value of a rule is one that a started program or the exporter exports, or a record."""
    found = selectors(expression)
    assert found or expression == "vector(1)"
    for name, matchers in found:
        if name in records():
            assert matchers == []
            continue
        assert name in exported
        for label, operator, value in matchers:
            assert operator in ("=", "=~")
            seen = exported[name][label]
            wanted = value.split("|") if re.fullmatch(r"[\w|]+", value) else [value]
            for each in wanted:
                assert any(re.fullmatch(each, one) if operator == "=~" else each == one for one in seen), (
                    name,
                    label,
                    each,
                )
    labels = {label for name, _ in found if name in exported for label in exported[name]} | {"partition", "le"}
    assert grouped_labels(expression) <= labels | TARGET_LABELS


def test_the_reading_of_expressions() -> None:
    """Metrics and matchers are found, and functions, keywords, groupings, strings and numbers are not taken for them."""
    text = (
        'sum by (a) (rate(x_total{b="y{z}",c!~"d|e"}[5m] offset 1h)) / (n:m:r > 1.5e3)'
        ' unless on (f) label_replace(u, "g", "$1", "h", "i")'
    )
    assert selectors(text) == [("x_total", [("b", "=", "y{z}"), ("c", "!~", "d|e")]), ("n:m:r", []), ("u", [])]
    assert grouped_labels(text) == {"a", "f"}
    assert faster("for: 1m\n x[5m] offset 2h > 60", 30) == "for: 2000ms\n x[10000ms] offset 240000ms > 60"


SPAN = re.compile(r"`([^`\n]+)`")


def spans() -> set[str]:
    return set(SPAN.findall(RUNBOOK.read_text()))


@needs_promtool
def test_the_queries_of_the_runbook(tmp_path: Path, exported: Exported) -> None:
    """Each query that the runbook gives parses, and reads what is exported."""
    keys = {key.rsplit(":", 1)[0] for key in exported["redis_script_values"]["key"]}
    queries = sorted(s for s in spans() - keys if re.search(r"recovery_|redis_script", s))
    assert len(queries) > 20
    path = tmp_path / "queries.yaml"
    made = [{"record": f"query:number:{n}", "expr": query} for n, query in enumerate(queries)]
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    run = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {name for query in queries for name, _ in selectors(query)} - set(exported) - records() == set()


def test_the_commands_of_the_runbook() -> None:
    """Each command that the runbook gives exists, with its options."""
    commands = sorted(s for s in spans() if s.startswith("coordinator "))
    assert len(commands) > 8
    for command in commands:
        words = [word for word in command.split()[1:] if word == word.lower() and not word.startswith(("-", '"'))]
        named = [word for word in words[:2] if word not in ("offered", "handing_over")]
        run = CliRunner().invoke(app, [*named, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert run.exit_code == 0, command
        for option in re.findall(r"--[a-z]+", command):
            assert option in run.output, (command, option)


def test_no_rule_relies_on_what_the_user_chooses() -> None:
    """Neither `job` nor `instance` occurs in an expression: ServiceMonitors and plain scrape configs name them as they like."""
    words = {word for rule in rules() for word in re.findall(r"\w+", rule["expr"])}
    assert not words & {"job", "instance", "pod", "service", "up"}


def script_values(client: redis.Redis, script: str) -> dict[str, float]:
    """What the exporter would make of the script's answer."""
    answer: Any = client.eval(script, 0)
    return {name.decode(): float(value) for name, value in zip(answer[::2], answer[1::2], strict=True)}


@pytest.mark.parametrize("prefix", ["recovery", "other"])
def test_the_script_tells_what_redis_knows(redis_client: redis.Redis, prefix: str) -> None:
    """Orphans with their age, graves' sessions among them; expired heartbeats with what they own; nothing is written."""
    script = SCRIPT.read_text()
    assert script.count("local PREFIX = 'recovery'\n") == 1, "the chart replaces this line"
    script = script.replace("local PREFIX = 'recovery'", f"local PREFIX = '{prefix}'")
    assert script_values(redis_client, script) == {}, "a Redis that no coordinator has seen"
    bench = Bench(redis_client, prefix)
    bench.init()
    for number, instance in enumerate(("dead~1", "silent~1", "alive~1")):
        bench.join(instance)
        for call in range(number + 2):
            bench.open(f"{instance}-{call}", instance)
    names = [f"recovery_{n}:0" for n in ("orphans", "oldest_orphan_age", "expired_heartbeats", "expired_sessions")]
    assert script_values(redis_client, script) == dict.fromkeys(names, 0)
    seconds = bench.client.time()[0]
    bench.client.zadd(bench.keys.instances, {"silent~1": (seconds - 5) * 1000})
    bench.certify("dead~1")
    bench.claim("dead~1", ["dead~1-0"])
    bench.client.zadd(bench.keys.orphans, {"dead~1-0": (seconds - 90) * 1000})
    before = redis_client.info("persistence")["rdb_changes_since_last_save"]
    told = script_values(redis_client, script)
    assert redis_client.info("persistence")["rdb_changes_since_last_save"] == before
    assert (told[names[0]], told[names[2]], told[names[3]]) == (2, 1, 3)
    assert 89 <= told[names[1]] < 100
    assert DEAD_AFTER_MS > 10_000, "the others' heartbeats have not expired"


def test_the_script_looks_at_every_partition(redis_client: redis.Redis) -> None:
    """As many as the store was made with."""
    redis_client.hset("{recovery:0}:meta", "partitions", 3)
    redis_client.zadd("{recovery:2}:orphans", {"call-1": 1})
    told = script_values(redis_client, SCRIPT.read_text())
    assert [told[f"recovery_orphans:{p}"] for p in range(3)] == [0, 0, 1]
    redis_client.flushall()


@pytest.mark.skipif(not shutil.which("luacheck"), reason="not installed: luacheck")
def test_the_script_passes_the_linter() -> None:
    """As the scripts of the store do."""
    run = subprocess.run(["luacheck", "--quiet", str(SCRIPT)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
