"""A right that is taken away while programs run: no script stops half way, and none stops at a word that nobody hears."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import redis

from coordinator.errors import StoreUnavailableError
from coordinator.sessions.calls import SCRIPTS as OTHERS
from coordinator.store import calls
from coordinator.store.faults import store_error
from coordinator.store.scripts import CALLED_FIRST, NOT_NEEDED, SCRIPTS, commands_of
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.store.test_twice import CASES, _everything

TEXTS = {
    str(file.name): file.read_text()
    for package in ("coordinator.store", "coordinator.sessions")
    for folder in (resources.files(package) / "lua", resources.files(package) / "lua" / "lib")
    for file in folder.iterdir()
    if file.name.endswith(".lua")
}
NEEDED = [
    (name, command) for name in CASES for command in commands_of(SCRIPTS[name].source) if command not in NOT_NEEDED
]


@pytest.fixture
def restricted(redis_server: RedisServer, bench: Bench) -> Iterator[Bench]:
    """The same partition by a user from whom rights are taken."""
    bench.client.execute_command(
        "ACL", "SETUSER", "voice", "reset", "on", ">pw", "~{recovery:*", "resetchannels", "&{recovery:*", "+@all"
    )
    client = redis.Redis(unix_socket_path=redis_server.path, protocol=2, username="voice", password="pw")
    yield Bench(client)
    client.close()
    bench.client.execute_command("ACL", "DELUSER", "voice")


def _without(bench: Bench, *rules: str) -> None:
    bench.client.execute_command("ACL", "SETUSER", "voice", *rules)


def _run(bench: Bench, call: Any) -> str:
    """The word that it answers, or the kind of what went wrong."""
    try:
        return bench.run(call).word
    except redis.ResponseError as error:
        fault = store_error(error, call.script.name)
        assert isinstance(fault, StoreUnavailableError), fault
        return fault.kind


def _told(bench: Bench) -> bool:
    """Whether a script can ask this server for rights."""
    return int(bench.client.info("server")["redis_version"].split(".")[0]) >= 7


@pytest.mark.parametrize(("name", "command"), NEEDED, ids=[f"{name}-{'-'.join(command)}" for name, command in NEEDED])
def test_a_right_that_is_taken_away_stops_no_script_half_way(
    bench: Bench, restricted: Bench, name: str, command: tuple[str, ...]
) -> None:
    """It is refused as `permission` and nothing is written; Redis 6.2 may write, and what follows makes it good."""
    prepare, make = CASES[name]
    call = make(bench, prepare(bench))
    before = _everything(bench)
    _without(bench, f"-{command[0].lower()}")
    if _told(bench):
        told = _run(restricted, call)
        if told == "permission":
            assert _everything(bench) == before
        else:
            assert command in CALLED_FIRST, "it went on without"
            assert told in SCRIPTS[name].header.replies
    else:
        _run(restricted, call)
    _without(bench, f"+{command[0].lower()}")
    assert _run(restricted, call) in SCRIPTS[name].header.replies
    _repair(bench)
    assert _unknown(bench) == []
    if not _told(bench):
        bench.client.flushall()  # what was cut short there may lack its expiry


def _repair(bench: Bench) -> None:
    """What the walk over the records does."""
    for session in ("s", "new"):
        record = bench.record(session)
        if record:
            bench.run(calls.repair(bench.keys, session=session, owner=record["owner"], dead_after=60))


def _unknown(bench: Bench) -> list[str]:
    """Sessions that no index leads to."""
    k, lost = bench.keys, []
    for session in ("s", "new"):
        record = bench.record(session)
        owner = record.get("owner", "")
        dead = bench.client.hget(k.instance(owner), "state") == b"dead"
        found = {
            "active": session in bench.owned(owner) and owner in bench.members(k.graves if dead else k.instances),
            "handing_over": session in bench.owned(owner) and session in bench.members(k.leases),
            "offered": session in bench.members(k.leases) and session in bench.members(k.orphans),
            "dead_lettered": session in bench.members(k.dead_letters),
        }
        lost += [session] if not found.get(record.get("state", ""), True) else []
    return lost


@pytest.mark.parametrize("name", ["drain", "ask", "let_go"])
@pytest.mark.parametrize("rule", [("-publish",), ("resetchannels",)], ids=["command", "channel"])
def test_a_word_that_may_not_be_said_is_left_out(
    bench: Bench, restricted: Bench, name: str, rule: tuple[str, ...]
) -> None:
    """Without the right to publish all of the script is done, and answered as ever."""
    prepare, make = CASES[name]
    call = make(bench, prepare(bench))
    _without(bench, *rule)
    events = bench.client.xlen(bench.keys.events)
    assert _run(restricted, call) == "OK"
    assert name == "ask" or bench.client.xlen(bench.keys.events) == events + 1, "its last write is there"


def test_keys_that_are_taken_away_stop_it_before_it_begins(bench: Bench, restricted: Bench) -> None:
    """A script's keys are all declared, so Redis itself looks at each of them first."""
    prepare, make = CASES["let_go"]
    call = make(bench, prepare(bench))
    before = _everything(bench)
    _without(bench, "resetkeys", *(f"~{key}" for key in call.keys if key != call.keys[-1]))
    assert _run(restricted, call) == "permission"
    assert _everything(bench) == before


def test_only_one_piece_of_lua_publishes_and_it_goes_on_without() -> None:
    """PUBLISH stands in `tell.lua` alone, as a `pcall`."""
    found = {name: re.findall(r"redis\.(p?call)\('PUBLISH'", text) for name, text in TEXTS.items()}
    assert {name: how for name, how in found.items() if how} == {"tell.lua": ["pcall"]}


def test_every_command_is_named_where_it_is_called() -> None:
    """So nothing that a script calls is left out of the look that it takes at its rights first; `allowed` only tries."""
    for name, text in TEXTS.items():
        if name == "allowed.lua":
            continue
        code = "\n".join(line.split("--", 1)[0] for line in text.splitlines())
        called = len(re.findall(r"redis\.p?call\b", code))
        assert called == len(re.findall(r"redis\.p?call\('[A-Z]+'", code)), name


@pytest.mark.parametrize("script", [*SCRIPTS.values(), *OTHERS.values()], ids=lambda script: script.name)
def test_the_look_comes_before_all_else_and_names_all(script: Any) -> None:
    """Nothing but functions stands before it, and each command is in it that a script may first call after a write."""
    needed = [command for command in commands_of(script.source) if command not in (*NOT_NEEDED, *CALLED_FIRST)]
    head, _, rest = script.source.decode().partition("if may and not (")
    assert (
        not re.search(r"^(?!local function|local \w+ = |local may, a_key = |end$|--|  |$)", head, re.MULTILINE)
        or not needed
    )
    looks = rest.split("\n", 1)[0] if needed else ""
    assert [looks.count(f"may('{command[0]}'") for command in needed] == [1] * len(needed)
