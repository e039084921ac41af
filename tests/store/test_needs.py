"""The list of what each program needs of Redis is what its code sends."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from coordinator.sessions.rights import COMMANDS
from coordinator.store.commands import KEY, TRIES, Name, name_of
from coordinator.store.rights import NEEDS, Program
from coordinator.store.scripts import SCRIPTS, commands_of

PACKAGE = Path(__file__).parents[2] / "coordinator"
WRAPPED = ("coordinator.store.pruning", "coordinator.store.setting_aside")
"""Modules with calls of scripts, by the scripts' names."""
DOORS = (
    "consumers", "event_stream", "graves", "lookups", "offer_stream", "reads", "suspects", "tidying", "walk",
)  # fmt: skip
"""Modules of the store that send commands, and run scripts, for others."""
LOOKS = tuple(f"cli/{name}.py" for name in ("dead_letters", "quarantine", "status", "store", "doctor", "doctor_checks"))
FILES: dict[Program, tuple[str, ...]] = {
    "worker": ("worker/*.py", "sidecar/*.py", "supervisor/*.py"),
    "coordinator": ("daemon/*.py",),
    "reader": LOOKS,
    "operator": (*LOOKS, "cli/drain.py", "cli/certify.py"),
}
LISTENS: dict[Program, set[Name]] = {
    "worker": {("SUBSCRIBE",), ("UNSUBSCRIBE",), ("PUBLISH",), ("WAIT",)},
    "coordinator": {("PUBLISH",), ("WAIT",)},
    "operator": {("PUBLISH",), ("WAIT",)},
}
"""What redis-py's pub/sub sends, what scripts say on channels, and what follows a script that DURABILITY concerns."""
ASKED_WHERE_PERMITTED: set[Name] = {("CONFIG",), ("CLUSTER",), ("INFO",)}
"""What `doctor` goes on without, and INFO, which each connection asks for."""
HTTP: set[Name] = {("GET",)}
"""In these programs it is a method of HTTP."""


def _trees(program: Program) -> Iterator[ast.Module]:
    for pattern in FILES[program]:
        for path in PACKAGE.glob(pattern):
            if path.name != "pod_api.py":  # talks to Kubernetes
                yield ast.parse(path.read_text())


def _attributes(tree: ast.AST, module: str) -> set[str]:
    """Names that are taken from a module: ``calls.adopt`` is ``adopt``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }


def _imported(tree: ast.AST, modules: tuple[str, ...]) -> set[str]:
    """Names that are imported from modules."""
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in modules
        for alias in node.names
    }


def _sent(tree: ast.AST, known: set[str]) -> set[Name]:
    """Commands that begin a tuple or the arguments of a call."""
    found: set[Name] = set()
    for node in ast.walk(tree):
        parts = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        first = parts[0] if parts else None
        if (isinstance(first, ast.Constant) and first.value in known and len(parts) > 1) or words in (
            ["TIME"],
            ["PING"],
        ):
            found.add(name_of(words))
    return found


FUNCTIONS = ast.AsyncFunctionDef, ast.FunctionDef
Function = tuple[str, str]
"""A module of the store, and a name in it."""


def _doors() -> dict[Function, tuple[ast.stmt, set[Function]]]:
    """Each function of the doors, with those that it uses: its own module's, imported ones, and ``module.name``."""
    found: dict[Function, tuple[ast.stmt, set[Function]]] = {}
    for door in DOORS:
        tree = ast.parse((PACKAGE / "store" / f"{door}.py").read_text())
        names = _named(tree)
        own = {node.name: (door, node.name) for node in tree.body if isinstance(node, FUNCTIONS)}
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                found[door, node.name] = node, _used(node, names | own)
    return found


def _named(tree: ast.AST) -> dict[str, Function]:
    """Names under which functions of the doors were imported."""
    return {
        alias.asname or alias.name: (door, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coordinator.store.")
        for door in [str(node.module).rpartition(".")[2]]
        if door in DOORS
        for alias in node.names
    }


def _used(tree: ast.AST, names: dict[str, Function]) -> set[Function]:
    """Functions of the doors that are named in a piece of code."""
    used = {names[node.id] for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names}
    return used | {(door, name) for door in DOORS for name in _attributes(tree, door)}


def _through(first: set[Function], doors: dict[Function, tuple[ast.stmt, set[Function]]]) -> list[ast.AST]:
    """These functions and all that they use."""
    todo, done = [one for one in first if one in doors], dict[Function, ast.AST]()
    while todo:
        name = todo.pop()
        if name not in done:
            done[name], used = doors[name]
            todo += [one for one in used if one in doors]
    return list(done.values())


@pytest.mark.parametrize("program", FILES)
def test_a_program_needs_what_its_code_sends(program: Program, redis_client: redis.Redis) -> None:
    """Scripts and commands of its source, and of the store's doors that it uses, are those of the list: no more and no less."""
    known = {str(name).upper() for name in redis_client.command()}
    scripts: set[str] = set()
    commands: set[Name] = set(LISTENS.get(program, ()))
    doors = _doors()
    for tree in _trees(program):
        names = _imported(tree, WRAPPED)
        for piece in (tree, *_through(_used(tree, _named(tree)), doors)):
            scripts |= (_attributes(piece, "calls") | names) & SCRIPTS.keys()
            scripts |= {node.id for node in ast.walk(piece) if isinstance(node, ast.Name)} & {"set_aside_member"}
            commands |= _sent(piece, known)
    need = NEEDS[program]
    scripts |= {"init"} & set(need.scripts)  # run by `prepare`
    if program == "reader":
        scripts = set()  # those of commands that change something, in the same files
    assert set(need.scripts) == scripts
    assert set(need.commands) == commands - {("PUBSUB", "NUMSUB")} - ASKED_WHERE_PERMITTED - HTTP


def test_the_exporter_needs_what_its_script_calls() -> None:
    """The script of the chart, which is sent as EVAL, and INFO, which each connection asks for."""
    script = (PACKAGE.parent / "helm/files/orphans.lua").read_bytes()
    assert {("EVAL",), *commands_of(script)} == set(NEEDS["exporter"].commands)


def test_the_session_store_needs_what_its_code_sends(redis_client: redis.Redis) -> None:
    """The same for its own commands."""
    known = {str(name).upper() for name in redis_client.command()}
    assert set(COMMANDS) == _sent(ast.parse((PACKAGE / "sessions" / "redis.py").read_text()), known)


def test_every_need_can_be_tried() -> None:
    """No command is needed that has no try."""
    tries = {name_of(one) for listed in TRIES.values() for one in listed}
    needed = {name for need in NEEDS.values() for name in need.commands}
    assert needed - tries == set()
    called = {name for script in SCRIPTS.values() for name in re.findall(rb"redis\.p?call\('([A-Z]+)'", script.source)}
    assert {name.decode() for name in called} - {name[0] for name in tries} == set()


def test_a_command_is_asked_for_with_as_many_words_as_it_takes(redis_client: redis.Redis) -> None:
    """A form has the number of words that the server wants: from Redis 8 on, a script that asks with fewer ends with an error."""
    takes = {str(name).upper(): details["arity"] for name, details in redis_client.command().items()}
    for listed in TRIES.values():
        for one in listed:
            arity = takes[one[0]]
            assert len(one) == arity if arity > 0 else len(one) >= -arity, one


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_asks_with_the_same_words(name: str) -> None:
    """What a script looks at before its first write is written as in the list of forms."""
    forms = {
        tuple("a_key" if word == KEY else f"'{word}'" for word in one) for listed in TRIES.values() for one in listed
    }
    asked = re.findall(rb"may\(('[^)]*)\)", SCRIPTS[name].source)
    assert {tuple(words.decode().split(", ")) for words in asked} <= forms
