"""`coordinator run`, as a process."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import redis
import typer.main
from typer.testing import CliRunner

from coordinator.cli.app import app
from coordinator.settings import Settings
from coordinator.settings.groups import Program, grouped, is_used, shown
from coordinator.store.keys import Keys
from tests.waiting import wait_until

RUN = [sys.executable, "-m", "coordinator", "run", "--http-port", "0", "--log-format", "json"]


@contextmanager
def running(*args: Any) -> Iterator[Any]:
    """The daemon, ended when the block is left; yields it and the fields of its start."""
    with subprocess.Popen([*RUN, *args], stderr=subprocess.PIPE, text=True) as process:
        try:
            said: list[str] = []
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if "coordinator_started" in line:
                    yield process, json.loads(line), said
                    break
            else:
                pytest.fail("".join(said))
        finally:
            if process.poll() is None:
                process.kill()


def test_without_a_url_it_says_that_redis_is_embedded() -> None:
    """Whoever starts it without a Redis URL is told that nothing is kept, and where it is."""
    with running() as (_, _, said):
        assert "none of its data is kept" in "".join(said)
        assert "unix://" in said[0]


def test_it_serves_health(url: str) -> None:
    """/healthz answers once it has started."""
    with (
        running("--redis-url", url) as (_, started, _),
        urllib.request.urlopen(f"http://{started['http']}/healthz") as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_as_asked(url: str, number: Any) -> None:
    """SIGTERM and SIGINT end it with exit status 0."""
    with running("--redis-url", url) as (process, started, _):
        urllib.request.urlopen(f"http://{started['http']}/healthz").close()
        process.send_signal(number)

        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--dead-after", "1s", "--heartbeat-interval", "1s"],
            "dead_after (1s) must be at least 4 x heartbeat_interval (1s)",
        ),
        (["--lease", "soon"], "lease: 'soon' is not a duration"),
        (["--redis-url", "http://localhost"], "http"),
    ],
)
def test_wrong_settings_stop_the_start(arguments: Any, line: Any) -> None:
    """Exit status 2 and readable lines that name the value; no traceback."""
    run = subprocess.run([*RUN, *arguments], capture_output=True, text=True, timeout=120)

    assert run.returncode == 2
    assert line in run.stderr
    assert "Traceback" not in run.stderr


def test_a_taken_port_stops_the_start(url: str) -> None:
    """Exit status 2 when the HTTP port is taken, and the line names it."""
    with running("--redis-url", url) as (_, started, _):
        port = started["http"].split(":")[1]
        run = subprocess.run(
            [*RUN, "--redis-url", url, "--http-port", port], capture_output=True, text=True, timeout=120
        )

    assert run.returncode == 2
    assert port in run.stderr
    assert "Traceback" not in run.stderr


def test_another_number_of_partitions_stops_the_start(url: str, redis_client: redis.Redis) -> None:
    """The stored number of partitions counts: another is exit status 2, with both numbers."""
    with running("--redis-url", url, "--partitions", "2"):
        run = subprocess.run(
            [*RUN, "--redis-url", url, "--partitions", "3"], capture_output=True, text=True, timeout=120
        )
    made = list(redis_client.scan_iter("{recovery:*}:meta"))
    redis_client.flushall()

    assert sorted(made) == [b"{recovery:0}:meta", b"{recovery:1}:meta"]  # the wrong number left nothing behind
    assert run.returncode == 2
    assert "3 is set" in run.stderr
    assert "made with 2" in run.stderr


@functools.cache
def help_of(command: str) -> str:
    """What its `--help` says in 80 columns."""
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"}, terminal_width=80).stdout


def flag_of(name: str) -> str:
    """As a line of the help begins."""
    return f"\n  --{name.replace('_', '-')} VALUE"


PROGRAMS = [("run", Program.DAEMON), ("sidecar", Program.SIDECAR)]


@pytest.mark.parametrize("name", Settings.model_fields)
@pytest.mark.parametrize(("command", "program"), PROGRAMS)
def test_the_help_lists_what_its_program_uses(command: str, program: Program, name: str) -> None:
    """Each setting that the program uses has a flag of its name in the command's help, and no other one has."""
    assert (flag_of(name) in help_of(command)) == is_used(Settings.model_fields[name], program)


@pytest.mark.parametrize(("command", "program"), PROGRAMS)
def test_the_help_is_in_groups(command: str, program: Program) -> None:
    """Under the title of each group stand its settings, with their defaults; no line is longer than 80 columns."""
    said = help_of(command)
    for group, fields in grouped(Settings.model_fields, program):
        section = said.split(f"\n{group}:", 1)[1].split("\n\n", 1)[0]
        for name, field in fields.items():
            assert flag_of(name) in section
            entry = " ".join(section.split(flag_of(name), 1)[1].split("\n  --", 1)[0].split())
            assert entry == " ".join(
                [*str(field.description).split(), *([f"[default: {shown(field)}]"] * bool(shown(field)))]
            )
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("command", [command for command, _ in PROGRAMS])
def test_every_setting_is_a_flag(command: str) -> None:
    """A command takes a flag of each setting, listed in its help or not: a deployment gives the same ones to all its programs."""
    commands: Any = typer.main.get_command(app)
    flags = {flag for parameter in commands.commands[command].params for flag in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= flags


def entry_number(entry: Any) -> tuple[int, ...]:
    """An entry's id as it is ordered."""
    return tuple(map(int, entry.split(b"-")))


def test_whoever_reads_the_log_may_go_away(url: str) -> None:
    """A coordinator whose standard error nobody reads any more logs on into nothing, and works."""
    reads, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator", "run", "--redis-url", url, "--http-port", "0"], stderr=writes
    )
    os.close(writes)
    try:
        assert os.read(reads, 20)
        os.close(reads)
        with closing(redis.Redis.from_url(url)) as client:
            events = Keys("recovery", 0).events
            wait_until(lambda: client.exists(Keys("recovery", 0).meta), description="the partition is made")
            for n in range(3):
                last = client.xadd(events, {"type": "joined", "instance": f"a~{n}"})
            wait_until(
                lambda: any(
                    entry_number(group["last-delivered-id"]) >= entry_number(last)
                    for group in client.xinfo_groups(events)
                ),
                description="it has read and logged them",
            )
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--encryption-keys", "k1:hush!"], "encryption_keys: key 1 is not base64"),
        (["--sealed-only", "true"], "sealed_only needs encryption_keys"),
    ],
)
def test_wrong_keys_stop_the_start(url: str, flags: list[str], said: str) -> None:
    """With exit status 2 and one sentence that repeats no key, although a coordinator opens no data itself."""
    ended = subprocess.run([*RUN, "--redis-url", url, *flags], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "hush" not in ended.stderr
