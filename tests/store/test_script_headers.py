"""Header, Lua and Python wrapper of each script agree."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import resources

import pytest

from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.past import Past
from coordinator.store.scripts import RIGHTS, SCRIPTS, SERVER, Script, read_header
from tests.store import typed_calls

BODY = {name: (resources.files("coordinator.store") / "lua" / f"{name}.lua").read_text() for name in SCRIPTS}
LIBS = sorted(f.name.removesuffix(".lua") for f in (resources.files("coordinator.store") / "lua" / "lib").iterdir())


def _locals(body: str, table: str) -> dict[str, int]:
    """Names that the Lua gives to entries of KEYS or ARGV."""
    found: dict[str, int] = {}
    for names, values in re.findall(r"^local ([\w, ]+) = ([^\n]+(?:\n  [^\n]+)*)", body, re.MULTILINE):
        parts = [v.strip() for v in re.split(r",(?![^()]*\))", values)]
        for name, value in zip(names.split(", "), parts, strict=False):
            if match := re.match(rf"(?:tonumber\()?{table}\[(\d+)\]\)?(?: == '1')?$", value):
                found[name] = int(match[1])
    return found


def _example(function: Callable[..., object], keys: Keys) -> dict[str, object]:
    """Arguments for a call, made from its signature."""
    kinds: dict[str, object] = {
        "int": 7,
        "float": 7.0,
        "str": "x",
        "bytes": b"x",
        "bool": True,
        "Sequence[str]": ["s1", "s2"],
    }
    kinds |= {"Sequence[bytes]": [b"name", b"value"], "Mapping[str, bytes]": {"labels": b"x"}, "Past": Past("x", 7, 7)}
    given: dict[str, object] = {"index": keys.orphans, "records": [keys.session("s1"), keys.session("s2")]}
    given |= {"scratch": keys.scratch, "k": keys}
    return {
        name: given.get(name) or kinds[str(parameter.annotation).replace(" | None", "")]
        for name, parameter in inspect.signature(function).parameters.items()
    }


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_keys_have_the_names_and_positions_of_the_header(script: Script) -> None:
    """Each local of a script that is a key has the name and the position that the header lists."""
    expected = {name: i for i, name in enumerate(script.header.keys, 1)}
    assert _locals(BODY[script.name], "KEYS") == expected


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_arguments_have_the_names_and_positions_of_the_header(script: Script) -> None:
    """Each local of a script that is an argument has the name and the position that the header lists, and none is missing."""
    expected = {name: i for i, name in enumerate(script.header.args, 1)}
    found = _locals(BODY[script.name], "ARGV")
    assert found.items() <= expected.items()
    assert set(expected) - set(found) <= {"server"}, "an argument is declared and never read"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_every_reply_word_is_listed_and_used(script: Script) -> None:
    """The words that a script can answer are those of its header."""
    body = script.source.decode()
    words = set(re.findall(r"return \{ '([A-Z_]+)'", body)) | set(re.findall(r"return \{ held and '([A-Z]+)' or", body))
    words |= set(re.findall(r"return \{ held and '[A-Z]+' or '([A-Z]+)'", body))
    assert words == set(script.header.replies)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_wrapper_passes_what_the_header_lists(script: Script) -> None:
    """A wrapper's call has as many keys and arguments as the header says, all in the slot of its partition."""
    keys = Keys("recovery", 3)
    function = getattr(calls, script.name)
    call = function(**_example(function, keys))
    assert len(call.keys) == len(script.header.keys) + (2 if script.header.repeated_key else 0)
    assert len(call.args) == len(script.header.args) + (2 if script.header.repeated_arg else 0)
    assert call.args[0] is SERVER
    assert all(key.startswith("{recovery:3}:") for key in call.keys)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_no_key_is_built_inside_a_script(script: Script) -> None:
    """Scripts touch only declared keys: the first argument of every command is a name, never text put together."""
    first_arguments = re.findall(r"redis\.p?call\('[A-Z]+', (?:'NUMSUB', |'GROUPS', )?([^,)]+)", script.source.decode())
    assert all(re.fullmatch(r"\w+", argument.strip()) for argument in first_arguments)


def test_the_clock_is_read_once() -> None:
    """Time moves inside a script on older servers, so each reads it once."""
    for name, body in BODY.items():
        assert body.count("now_ms()") <= 1, name


def test_every_library_file_is_used() -> None:
    """No piece of Lua lies around unused."""
    used = {lib for script in SCRIPTS.values() for lib in script.header.uses}
    assert used | {RIGHTS} == set(LIBS)


@pytest.mark.parametrize("package", typed_calls.HEADINGS)
def test_the_typed_calls_are_those_of_the_headers(package: str) -> None:
    """What is generated from the headers stands in the package as it would be generated now."""
    there = (resources.files(f"coordinator.{package}") / "calls.py").read_text()
    assert there == typed_calls.module(package, typed_calls.HEADINGS[package]), (
        "python -m tests.store.typed_calls --write"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- other.lua: x\n", "must begin with"),
        ("-- name.lua: x\n-- KEYS a HASH\n", "needs REPLY lines"),
        ("-- name.lua: x\n-- KEYS *a HASH\n-- KEYS b HASH\n-- REPLY OK\n-- RETRY safe\n", "only the last"),
    ],
)
def test_a_wrong_header_says_what_is_wrong(text: str, message: str) -> None:
    """A header that cannot be read is an error when the package is loaded."""
    with pytest.raises(ValueError, match=message):
        read_header("name", text)
