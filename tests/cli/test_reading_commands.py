"""`status`, `instances`, `sessions`, `session`: what they print, and how they exit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from coordinator.cli.app import app
from tests.store.harness import Bench

SECRET = "the caller's name"


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in this process on the empty server."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """A partition with a living owner of two calls, one of them on offer from a dead one."""
    bench = Bench(redis_client)
    bench.init()
    bench.join("living~1")
    bench.join("dead~1")
    bench.open("call-1", "living~1", SECRET.encode())
    bench.open("call-2", "dead~1", b"\xff\x00")
    bench.certify("dead~1")
    bench.claim("dead~1", ["call-2"])
    return bench


READING = [["status"], ["instances"], ["sessions"], ["session", "call-1"], ["dead-letters", "list"]]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_json_is_one_document_and_nothing_else(run: Any, bench: Bench, command: Any) -> None:
    """With --json standard output is one JSON document."""
    result = run(*command, "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) is not None


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_store_that_is_away_has_its_own_status(run: Any, tmp_path: Path, command: Any) -> None:
    """Exit status 3 and one line on standard error when there is no server."""
    result = run(*command, "--redis-url", f"unix://{tmp_path}/nobody.sock")

    assert result.exit_code == 3
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_wrong_settings_are_told_one_a_line(run: Any, command: Any) -> None:
    """Exit status 2, one readable line a fault, no traceback."""
    result = run(*command, "--lease", "soon", "--dead-after", "never")

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 2
    assert "'soon' is not a duration" in result.stderr


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_url_is_wrong_usage(run: Any, monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    """Without a Redis URL there is nothing to look at: exit status 2."""
    monkeypatch.delenv("COORDINATOR_REDIS_URL")
    result = run(*command)

    assert result.exit_code == 2
    assert "redis_url is not set" in result.stderr


def test_another_number_of_partitions_is_wrong_usage(run: Any, bench: Bench) -> None:
    """Looking with another number of partitions than stored would miss calls: refused, with the right number."""
    result = run("sessions", "--partitions", "3")

    assert result.exit_code == 2
    assert "--partitions 1" in result.stderr


def test_status_counts(run: Any, bench: Bench) -> None:
    """Status tells calls, orphans and instances of each partition."""
    [row] = json.loads(run("status", "--json").stdout)["partitions"]

    assert (row["active"], row["orphans"], row["instances"], row["dead_lettered"]) == (1, 1, 1, 0)
    assert row["oldest_orphan_seconds"] >= 0
    assert row["last_scan_seconds"] is None


def test_status_says_that_nobody_looks(run: Any, bench: Bench) -> None:
    """A partition that no coordinator scans is told in words."""
    assert "no coordinator is looking" in run("status").stdout


def test_status_of_a_deployment_that_never_started(run: Any) -> None:
    """Exit status 1 when no coordinator and no worker was ever here."""
    assert run("status").exit_code == 1


def test_instances_tells_who_owns_how_many(run: Any, bench: Bench) -> None:
    """Each living instance is listed with its calls."""
    rows = json.loads(run("instances", "--json").stdout)["instances"]

    assert {(row["id"], row["state"], row["owned"]) for row in rows} == {
        ("living~1", "alive", 1),
        ("dead~1", "dead", 0),
    }


@pytest.mark.parametrize(("state", "expected"), [("active", ["call-1"]), ("offered", ["call-2"]), ("closed", [])])
def test_sessions_by_state(run: Any, bench: Bench, state: Any, expected: Any) -> None:
    """--state picks the sessions in that state."""
    rows = json.loads(run("sessions", "--state", state, "--json").stdout)["sessions"]

    assert [row["id"] for row in rows] == expected


def test_sessions_limit_tells_how_many_there_are(run: Any, bench: Bench) -> None:
    """--limit cuts the list, and the number of all is told."""
    listed = json.loads(run("sessions", "--limit", "1", "--json").stdout)

    assert (listed["found"], len(listed["sessions"])) == (2, 1)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_recovery_data_is_shown_only_when_asked_for(run: Any, bench: Bench, form: Any) -> None:
    """`session` prints recovery data with --data and not without; `sessions` never."""
    assert SECRET not in run("session", "call-1", *form).stdout
    assert SECRET in run("session", "call-1", "--data", *form).stdout
    assert SECRET not in run("sessions", *form).stdout


def test_binary_recovery_data_is_shown_in_base64(run: Any, bench: Bench) -> None:
    """Data that is no text is printed in base64."""
    assert json.loads(run("session", "call-2", "--data", "--json").stdout)["data"] == {"base64": "/wA="}


def test_a_session_that_is_not_there(run: Any, bench: Bench) -> None:
    """Exit status 1, JSON null, one line for people."""
    result = run("session", "call-9")

    assert (result.exit_code, result.stderr) == (1, "coordinator: there is no session call-9\n")
    assert json.loads(run("session", "call-9", "--json").stdout) is None


def test_a_wrong_session_id_is_wrong_usage(run: Any) -> None:
    """An id outside its alphabet is refused with exit status 2."""
    result = run("session", "not an id")

    assert result.exit_code == 2
    assert "is not a session id" in result.stderr


def test_watch_goes_on_without_the_store_until_it_is_interrupted(tmp_path: Path) -> None:
    """--watch tells that the store is away and looks again; SIGINT ends it with exit status 0."""
    command = ["status", "--watch", "--every", "0.1", "--json", "--redis-url", f"unix://{tmp_path}/nobody.sock"]
    with subprocess.Popen([sys.executable, "-m", "coordinator", *command], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        looks = [json.loads(watch.stdout.readline()) for _ in range(2)]
        watch.send_signal(signal.SIGINT)

        assert watch.wait(10) == 0
    assert all(look["unavailable"].startswith("connection") for look in looks)
