"""Header, Lua and Python of the session store's scripts agree."""

from __future__ import annotations

import inspect
import re
from importlib import resources

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.sessions import calls
from coordinator.sessions.header import read_header, version_of
from coordinator.sessions.keys import SessionKeys
from coordinator.sessions.wire import encode
from coordinator.store.fence import NO_FENCE, Fence
from coordinator.store.keys import Keys
from coordinator.store.scripts import Script
from tests.sessions.golden_files import golden, names
from tests.sessions.test_wire import STATES
from tests.store.test_script_headers import _locals

LUA = resources.files("coordinator.sessions") / "lua"
BODY = {name: (LUA / f"{name}.lua").read_text() for name in calls.SCRIPTS}
SHOW = (LUA / "lib" / "header.lua").read_text() + "\nreturn { version_of(ARGV[1]), header_of(ARGV[1]) }"
FIELD = st.sampled_from([b"status", b"updated_at", b"id", b"st\\atus", b'a\\"b', b"x\\\\"])
NOISE = st.lists(st.sampled_from([*b'{}[]",:\\ns0', 0, 255]), max_size=12).map(bytes)


@pytest.mark.parametrize("script", calls.SCRIPTS.values(), ids=calls.SCRIPTS)
def test_names_have_the_positions_of_the_header(script: Script) -> None:
    """Keys and arguments have the names and the positions that the header lists, and none is missing."""
    for table, listed in (("KEYS", script.header.keys), ("ARGV", script.header.args)):
        expected = {name: i for i, name in enumerate(listed, 1)}
        assert _locals(BODY[script.name], table) == expected


@pytest.mark.parametrize("script", calls.SCRIPTS.values(), ids=calls.SCRIPTS)
def test_every_reply_word_is_listed_and_used(script: Script) -> None:
    """The words that a script can answer are those of its header."""
    assert set(re.findall(r"return \{ '([A-Z_]+)'", script.source.decode())) == set(script.header.replies)


@pytest.mark.parametrize("script", calls.SCRIPTS.values(), ids=calls.SCRIPTS)
def test_no_key_is_built_inside_a_script(script: Script) -> None:
    """Scripts touch only declared keys: the first argument of every command is a name."""
    first = re.findall(r"redis\.p?call\((?:'[A-Z]+'|[a-z]+ and '[A-Z]+' or '[A-Z]+'), ([^,)]+)", script.source.decode())
    assert first
    assert all(re.fullmatch(r"\w+", argument.strip()) for argument in first)


@pytest.mark.parametrize("script", calls.SCRIPTS.values(), ids=calls.SCRIPTS)
def test_the_wrapper_passes_what_the_header_lists(script: Script) -> None:
    """A wrapper's call has the keys and arguments of the header, all under the prefix, and those of the fence when there is one."""
    examples = {
        "int": 7,
        "float": 7.0,
        "str": "x",
        "bytes": b"x",
        "bool": True,
        "Sequence[str]": ["s1", "s2"],
        "Fence": NO_FENCE,
    }
    wrapper = getattr(calls, script.name)
    arguments = {n: examples[p.annotation] for n, p in inspect.signature(wrapper).parameters.items() if n != "k"}
    keys, fence = SessionKeys("{v}:", "acme"), Fence(Keys("recovery", 3), "s1", "a~1", 7)
    call = wrapper(keys, **arguments)
    repeats = 2 if script.header.repeated_key == "session" else 0
    assert len(call.keys) == len(script.header.keys) + repeats
    assert len(call.args) == len(script.header.args) + repeats
    assert all(key.startswith("tenant:acme:{v}:") for key in call.keys)
    if "fence" in arguments:
        bound = wrapper(keys, **{**arguments, "fence": fence})
        assert bound.keys == (*call.keys, *fence.declared)
        assert bound.args == (*call.args, *fence.arguments)
        assert all(key.startswith("{recovery:3}:") for key in fence.declared)


def test_every_library_file_is_used() -> None:
    """No piece of Lua lies around unused."""
    used = {lib for script in calls.SCRIPTS.values() for lib in script.header.uses}
    assert {f.name.removesuffix(".lua") for f in (LUA / "lib").iterdir()} <= used


def test_only_what_changes_nothing_of_a_session_has_no_fence() -> None:
    """Every script can ask for the owner's right, but for the one that only tidies up the active set."""
    assert {name for name, script in calls.SCRIPTS.items() if script.header.repeated_key != "fence"} == {"living"}


def _agree(db: redis.Redis, value: bytes) -> None:
    version, *found = db.eval(SHOW, 0, value)
    header = read_header(value)
    assert version.decode() == version_of(value)
    expected = [header.status, header.updated_at[0] + 1, header.updated_at[1]] if header else []
    assert found == expected


@pytest.mark.parametrize(("program", "name"), [(p, n) for p in ("go", "python") for n in names(p)])
def test_lua_and_python_find_the_same_header(db: redis.Redis, program: str, name: str) -> None:
    """Both find status and updated_at of golden sessions, and the same version."""
    assert read_header(golden(program, name)) is not None
    _agree(db, golden(program, name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(FIELD, NOISE), max_size=5), NOISE, NOISE)
def test_lua_and_python_agree_on_noise(
    db: redis.Redis, fields: list[tuple[bytes, bytes]], tail: bytes, cut: bytes
) -> None:
    """Both read the same from anything that looks a little like a session."""
    text = b"{" + b",".join(b'"' + key + b'":"' + value + b'"' for key, value in fields)
    for value in (text + tail, text + b"," + tail, text + b"}", text[: len(text) - len(cut)]):
        _agree(db, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(STATES)
def test_lua_and_python_agree_on_sessions(db: redis.Redis, state: object) -> None:
    """Both read the same from every session that this package can write."""
    _agree(db, encode(state))  # type: ignore[arg-type]
