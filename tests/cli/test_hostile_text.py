"""Hostile text in every stored field: no command, page or log prints a character that controls a terminal."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
import typer
from click.testing import Result
from typer.testing import CliRunner

from coordinator.cli.app import app, main
from coordinator.cli.tables import coloured, complain, console, table
from coordinator.store import reads
from coordinator.web.status import page
from tests.hostile import EVIL, hidden_in
from tests.sources import package_files, package_nodes
from tests.store.harness import Bench

RAW = EVIL.encode()
NUMBERS_OF_A_SESSION = {
    "epoch", "checkpoint", "opened_at", "updated_at", "orphaned_at", "offers", "recoveries", "lease_until", "served_until", "data_at",
    "dead_lettered_at", "anew", "orphanings", "apart", "probation_ms", "held_before_ms",
}  # fmt: skip
NUMBERS_OF_AN_INSTANCE = {
    "capacity", "owned", "loop_lag", "started_at", "ended_at", "dead_after_ms", "trust_ms", "asked", "roll", "drain_until",
}  # fmt: skip


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in this process on the server of the test."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def bench(redis_client: redis.Redis) -> Iterator[Bench]:
    """A live call, an offered one and a dead letter, whose texts, and those of their owners, are all hostile."""
    bench = Bench(redis_client)
    bench.init()
    for instance in ("living~1", "dead~1"):
        bench.join(instance)
    bench.open("live", "living~1")
    for session in ("offered", "given-up"):
        bench.open(session, "dead~1")
    bench.certify("dead~1")
    bench.claim("dead~1", ["offered"])
    bench.claim("dead~1", ["given-up"], max_recoveries=0)
    client: Any = redis_client
    for session in ("live", "offered", "given-up"):
        key = bench.keys.session(session)
        texts = {name.decode() for name in client.hkeys(key)} - NUMBERS_OF_A_SESSION - {"state"}
        client.hset(key, mapping=dict.fromkeys([*texts, "reason", "tenant", "cause", "last_decline", EVIL], RAW))
    for instance in ("living~1", "dead~1"):
        key = bench.keys.instance(instance)
        texts = {name.decode() for name in client.hkeys(key)} - NUMBERS_OF_AN_INSTANCE - {"state"}
        client.hset(key, mapping=dict.fromkeys(texts, RAW))
        client.hset(key, "labels", json.dumps({EVIL: EVIL}))
    client.hset(bench.keys.names, mapping={"living": "living~1", "gone": RAW})
    client.hset(bench.keys.meta, mapping=dict.fromkeys(("lineage", "server"), RAW))
    client.hset(bench.keys.detector, mapping={"hold_reason": RAW, "hold_until_ms": 10**14, "last_scan_ms": 1})
    client.zadd(bench.keys.instances, {RAW: 10**14})
    client.zadd(bench.keys.graves, {RAW + b"~2": 1})
    client.hset(
        bench.keys.instance(EVIL), mapping={"name": RAW, "state": RAW, "pool": RAW, "address": RAW, "cause": RAW}
    )
    client.hset(bench.keys.session(EVIL), mapping={"state": RAW, "owner": RAW, "epoch": 1, "reason": RAW})
    client.zadd(bench.keys.quarantine, {"session:kept": 1, RAW: 2})
    for member in ("session:kept", EVIL):
        kept = dict.fromkeys(("kind", "name", "fault", "type", f"raw:{EVIL}", "raw:owner", "raw:data"), RAW)
        client.hset(bench.keys.set_aside(member), mapping=kept)
    yield bench
    client.flushall()  # what was made here has no expiry, and stands for nothing


COMMANDS: dict[str, list[list[str]]] = {
    "status": [[]],
    "instances": [[]],
    "sessions": [[], ["--state", "dead_lettered"]],
    "session": [["live"], ["live", "--data"], ["offered"], ["nobody"]],
    "dead-letters list": [[]],
    "dead-letters show": [["given-up"], ["given-up", "--data"], ["live"]],
    "dead-letters replay": [["live"], ["given-up"], ["--all"]],
    "dead-letters purge": [["offered"], ["given-up"]],
    "quarantine list": [[]],
    "quarantine show": [["session:kept"], ["session:kept", "--data"], [EVIL]],
    "quarantine repair": [["session:nobody", "--set", f"pool={EVIL}"], [EVIL, "--set", EVIL]],
    "quarantine drop": [[EVIL], ["session:kept"]],
    "drain": [["living"], ["gone"], ["living~1", "--wait", "--drain-timeout", "200ms"]],
    "certify": [["dead~1"], ["gone"], ["living", "--reason", EVIL]],
    "doctor": [[]],
}
SHOW_NOTHING_STORED = {"run", "sidecar", "supervise", "demo", "bench"}
"""They log, or show what they made themselves."""


def all_commands(of: typer.Typer, before: str = "") -> set[str]:
    """Every command of the program, by its words."""
    found = {
        f"{before}{one.name or one.callback.__name__}" for one in of.registered_commands if one.callback is not None
    }
    for group in of.registered_groups:
        assert group.typer_instance is not None
        found |= all_commands(group.typer_instance, f"{group.name} ")
    return found


def test_every_command_is_looked_at() -> None:
    """A new one has its place here, or is one that shows nothing stored."""
    assert all_commands(app) == {*COMMANDS, *SHOW_NOTHING_STORED}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_a_character_that_controls_a_terminal(
    run: Callable[..., Result], bench: Bench, command: str, as_json: bool
) -> None:
    """In tables, lines, messages and JSON alike; a line end is only what ends a line of the program's own."""
    for arguments in COMMANDS[command]:
        result = run(*command.split(), *arguments, *(["--json"] if as_json else []))
        assert not hidden_in(result.output), arguments
        assert result.exit_code in (0, 1, 2), result.output
        assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit), arguments
        if as_json and result.stdout:
            json.loads(result.stdout)


def test_a_field_cannot_make_lines_of_its_own(run: Callable[..., Result], bench: Bench) -> None:
    """Line ends within a field are visible: a row is a line, and nothing that a field says looks like another."""
    bench.client.hset(bench.keys.session("live"), "reason", "x\nforged  active  nobody")
    for command in (["sessions"], ["session", "live"]):
        lines = run(*command).stdout.splitlines()
        assert not [line for line in lines if line.lstrip().startswith("forged")]
        assert [line for line in lines if r"x\x0aforged" in line]


def test_json_says_what_is_stored(run: Callable[..., Result], bench: Bench) -> None:
    """A program that reads it gets the stored text, character by character."""
    assert json.loads(run("session", "live", "--json").stdout)["reason"] == EVIL


def test_nothing_stored_is_taken_for_markup(
    run: Callable[..., Result], redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id may hold brackets and colons: it is printed as it is, in a cell, a line and a message."""
    odd, bench = "[red]call:phone:[/]", Bench(redis_client)
    bench.init()
    bench.join("living~1")
    bench.open(odd, "living~1")
    assert odd in run("sessions").stdout
    assert odd in run("session", odd).stdout
    assert odd in run("dead-letters", "show", odd).stderr
    console().print(f"{odd}: active")
    assert odd in capsys.readouterr().out


# -- wrong usage, and what nobody meant ------------------------------------------------------------------------------------


WRONG = [
    ["nonsense\x1b[2J\u202e"], ["--nonsense\x1b[2J"], ["sessions", "--state", "\x1b[2J"], ["sessions", "--limit", "\x1b\x9b"],
    ["session", "\x1b[2J\n"], ["session", "a\udcff"], ["certify", "a~\x1b[2J"], ["certify", "\u202e"],
    ["certify", "a", "--reason", "x" * 1025],
    ["drain", "a~\x9b"], ["drain", "a", "--reason", "a\udcff"], ["dead-letters", "show", "\x9b"], ["status", "--lease", "\x1b"],
    ["status", "--redis-url", "red\x1b[2Jis://x"], ["status", "--name", "a\u2028b"], ["dead-letters", "replay", "x\x1b"],
    ["bench", "--idle", "\x1b"], ["supervise", "--session", "\x1b", "--", "true"],
]  # fmt: skip
NO_TEXT = [arguments for arguments in WRONG if "\udcff" in arguments[-1]]
"""Of these, those with a byte that is no text: what a terminal gets depends on the encoding of the process's own streams."""


@pytest.mark.parametrize("arguments", WRONG, ids=ascii)
def test_what_is_said_of_wrong_arguments_is_printable(
    arguments: list[str], url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and a message that shows what was given without acting on the terminal."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    monkeypatch.setattr(sys, "argv", ["coordinator", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capfd.readouterr())
    assert ended.value.code == 2, said
    assert said
    assert not hidden_in(said)
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [WRONG[0], *NO_TEXT], ids=ascii)
def test_what_a_process_says_of_wrong_arguments_is_printable(arguments: list[str], url: str) -> None:
    """The same of a process without a locale, byte for byte."""
    environment = {"COORDINATOR_REDIS_URL": url, "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "coordinator", *arguments], capture_output=True, check=False, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert not hidden_in((done.stdout + done.stderr).decode())
    assert b"Traceback" not in done.stderr


def test_a_crash_is_told_printably(url: str) -> None:
    """A defect's traceback says what the error says, which may be anything, and the exit status is 1."""
    code = (
        "import sys; sys.argv[1:] = ['status']; from coordinator.cli import app, status; from coordinator.store import reads\n"
        "async def broken(part): raise KeyError('x', type('E', (), {'__repr__': lambda s: 'a\\x1b[2J\\u202e'})())\n"
        "reads.overview = broken; app.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env={"COORDINATOR_REDIS_URL": url}
    )
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert rb"a\x1b[2J\u202e" in done.stderr
    assert not hidden_in(done.stderr.decode())


# -- the places where text leaves --------------------------------------------------------------------------------------------


def test_what_rich_renders_is_printable_whoever_made_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts, tables, titles, heads and cells of every type."""
    out = console()
    out.print(EVIL, coloured(EVIL, "red"), table([EVIL], [[EVIL], [[EVIL]], [None], [5]], title=EVIL))
    assert not hidden_in(written := capsys.readouterr().out)
    assert r"\x1b]0;title\x07" in written
    out.print("a\nb")
    complain(EVIL)
    assert (got := capsys.readouterr()).out == "a\\x0ab\n"
    assert not hidden_in(got.err)
    assert len(got.err.splitlines()) == 1


SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(
    "command", [["session", "live"], ["sessions"], ["instances"], ["status"], ["dead-letters", "list"]], ids=" ".join
)
def test_a_terminal_gets_the_program_s_own_colours_and_nothing_else(bench: Bench, url: str, command: list[str]) -> None:
    """On a terminal, where the same text would do harm."""
    ours, theirs = os.openpty()
    try:
        done = subprocess.Popen(
            [sys.executable, "-m", "coordinator", *command], stdin=theirs, stdout=theirs, stderr=theirs,
            env={"COORDINATOR_REDIS_URL": url, "TERM": "xterm-256color", "COLUMNS": "200"},
        )  # fmt: skip
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                written += part
        done.wait()
    finally:
        os.close(ours)
    text = written.decode().replace("\r\n", "\n")
    assert SGR.search(text)
    assert not hidden_in(SGR.sub("", text))


WRITERS = {"cli/tables.py", "logs.py"}
"""The only modules through which text leaves; the worker of the demo is there to be copied, and prints its own."""
FORBIDDEN = {"print", "echo", "secho", "Console", "Text", "excepthook"}


def forbidden(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """What writes to a terminal without the writer."""
    for node in nodes:
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name in FORBIDDEN and not (name == "print" and of is not None):  # `out.print` is the writer's
                yield f"{name} in line {node.lineno}"
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("stdout", "stderr")
            and getattr(node.value, "id", "") == "sys"
        ):
            yield f"sys.{node.attr} in line {node.lineno}"


def test_text_leaves_in_few_places() -> None:
    """No module writes to standard output or error but those that make all of it printable."""
    wrong = {}
    for name, nodes in package_nodes("|".join((*FORBIDDEN, "stdout", "stderr"))).items():
        source, found = package_files()[name], list(forbidden(nodes))
        allowed = source.count("sys.stderr.isatty()") + source.count("sys.stdout.isatty()")
        if name not in {*WRITERS, "cli/demo_worker.py"} and len(found) != allowed:
            wrong[name] = found
    assert wrong == {}


async def test_the_status_page_shows_everything_and_acts_on_nothing(bench: Bench, url: str) -> None:
    """Hostile text in every field of an overview: no element of its own, no hidden character."""
    from coordinator.store.connect import Connector
    from coordinator.store.executor import StorePartition

    connector = Connector(url, store_timeout=5.0)
    view = await reads.overview(StorePartition(bench.keys, connector.executor(bench.keys.tag)))
    await connector.aclose()
    shown = page([EVIL], [view, None])
    assert "title\\x07 room" in shown
    assert "<b>" not in shown
    assert not hidden_in(shown, lines="")
