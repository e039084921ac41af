"""Private attributes of the library are reached through `tests.inside` alone.

What is private in tests themselves is theirs: a name that a class of the file, or of a file of tests that it imports, gives its
own objects is no reach into the library, unless it is asked of something that was imported from there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.sources import nodes_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
INSIDE = TESTS / "inside"
PUBLIC = frozenset({"_asdict", "_fields", "_make", "_replace"})
"""Of named tuples, in spite of their names."""
NAMING = frozenset({"delattr", "getattr", "hasattr", "setattr"})
"""Functions and methods (pytest's monkeypatch) that take an attribute by its name."""
PRIVATE = re.compile(r"_[^\W_]\w*")
MAY_REACH = re.compile(
    r"(?<!\bself)(?<!\bcls)\._[^\W_]|[\"']_[^\W_]|^(from coordinator\b.*|    )\b_[^\W_]", re.MULTILINE
)
"""What a file has that reaches, and many files have not: those need no closer look."""


def is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None


def imported(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """What each imported name is, dotted."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.asname or one.name.partition(".")[0]: one.name for one in node.names}
    return found


def own_names(nodes: Sequence[ast.AST]) -> frozenset[str]:
    """Private names that the classes of a file give their objects: methods, fields, and what is assigned to ``self``."""
    found = set()
    for node in nodes:
        match node:
            case ast.ClassDef():
                for one in node.body:
                    match one:
                        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                            found.add(name)
                        case ast.AnnAssign(target=ast.Name(id=name)):
                            found.add(name)
                        case ast.Assign(targets=[ast.Name(id=name)]):
                            found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
    return frozenset(filter(is_private, found))


@cache
def own_names_of(path: Path) -> frozenset[str]:
    return own_names(nodes_of(path.read_text()))


def names_of_tests(nodes: Sequence[ast.AST]) -> frozenset[str]:
    """Those of the file, and of every file of tests that it imports."""
    found = own_names(nodes)
    for dotted in imported(nodes).values():
        parts = dotted.split(".")
        for path in (ROOT.joinpath(*parts), ROOT.joinpath(*parts[:-1])):
            file = path.with_suffix(".py")
            if parts[0] == "tests" and file.is_file():
                found |= own_names_of(file)
    return found


def base_of(node: ast.expr) -> str:
    """The name with which ``a.b(c).d`` begins; '' where it does not begin with one."""
    while not isinstance(node, ast.Name):
        match node:
            case ast.Attribute(value=inner) | ast.Call(func=inner) | ast.Subscript(value=inner):
                node = inner
            case ast.Await(value=inner):
                node = inner
            case _:
                return ""
    return node.id


def asked_for(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Private names that are taken here, and of what; None where they are of a class or module that a text names."""
    match node:
        case ast.Attribute(attr=name, value=of) if is_private(name):
            yield name, of
        case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function), args=args) if function in NAMING:
            for number, one in enumerate(args):
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    for part in filter(is_private, one.value.split(".")):
                        yield part, None if "." in one.value or not number else args[0]


def reaches(nodes: Sequence[ast.AST]) -> list[str]:
    """Where a file of tests reaches into what is private in the library, or in a package that it uses."""
    found = []
    meaning, own = imported(nodes), names_of_tests(nodes)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coordinator":
            parts = [part for one in node.names for part in (*(node.module or "").split("."), one.name)]
            found += [f"line {node.lineno}: imports {part}" for part in parts if is_private(part)]
        for name, of in asked_for(node):
            base = base_of(of) if of is not None else ""
            dotted = meaning.get(base, "")
            is_class = isinstance(of, ast.Name) and dotted.startswith("coordinator.")
            if name in PUBLIC or dotted == "os" or (base in ("self", "cls") and isinstance(of, ast.Name)):
                continue
            if name in own and of is not None and not is_class:
                continue
            found.append(f"line {getattr(node, 'lineno', 0)}: {name}")
    return found


def of_programs(nodes: Sequence[ast.AST]) -> list[str]:
    """The same in programs that stand in a file as text, and are run as processes."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nfrom coordinator" in node.value:
            try:
                found += [f"program at line {node.lineno}, {one}" for one in reaches(nodes_of(node.value))]
            except SyntaxError:
                continue  # a text that speaks of imports, or a template
    return found


def test_no_test_reaches_into_the_library_by_itself() -> None:
    """Else whoever changes the inside of the library has to find the tests that know it: `tests.inside` says how and why."""
    paths = [one for one in sorted(TESTS.rglob("*.py")) if INSIDE not in one.parents]
    assert len(paths) > 300
    texts = {path.relative_to(TESTS).as_posix(): path.read_text() for path in paths}
    nodes = {name: nodes_of(text) for name, text in texts.items() if MAY_REACH.search(text)}
    found = {name: reaches(those) + of_programs(those) for name, those in nodes.items()}
    assert {name: those for name, those in found.items() if those} == {}


def test_what_is_inside_does_reach() -> None:
    """Were none found there, none would be found anywhere."""
    assert sum(len(reaches(nodes_of(path.read_text()))) for path in INSIDE.glob("*.py")) > 40


@pytest.mark.parametrize(
    "planted",
    [
        "worker._instance",
        "worker.sessions[0]._owner.ledger",
        "(await worker.open('call'))._pulse",
        "worker._instance = None",
        "self.worker._instance",
        "Worker._here",  # a name that a class of the file has too
        "setattr(worker, '_instance', None)",
        "monkeypatch.setattr(member.resync, '_give_up', None)",
        "monkeypatch.setattr('coordinator.sessions.redis._Redis.get', None)",
        "from coordinator.worker.drain import _Progress",
        "from coordinator.sessions import redis\nredis._Redis",
        "PROGRAM = '''\nfrom coordinator import Worker\nWorker('redis://x')._instance\n'''",
    ],
)
def test_a_reach_is_found(planted: str) -> None:
    """Of each kind, in the midst of a file that has private names of its own."""
    lines = "\n".join(f"        {line}" for line in planted.split("\n"))
    source = planted if "'''" in planted else f"{OWN}{lines}\n"
    assert MAY_REACH.search(source)
    nodes = nodes_of(source)
    assert len(reaches(nodes) + of_programs(nodes)) == 1


OWN = """
import os
from coordinator import Worker
from tests.daemon.fake_api_server import FakeApiServer

class Host:
    _field: int = 0

    def __init__(self, worker, monkeypatch, member):
        self.worker = worker
        self._here = worker

    async def _method(self, worker, monkeypatch, member):
"""


@pytest.mark.parametrize(
    "fine",
    [
        "self._here",
        "other._here",
        "other._field",
        "other._method()",
        "getattr(other, '_here')",
        "fake._history",  # of a class of tests that is imported
        "pair._replace(a=1)",
        "os._exit(0)",
        "worker.__aenter__()",
        "monkeypatch.setenv('_ANY', 'x')",
        "[_ for _ in ()]",
        "'_sock'",
    ],
)
def test_what_is_the_tests_own_is_no_reach(fine: str) -> None:
    """Private names of their classes, public ones that look private, and texts that name no attribute."""
    assert reaches(nodes_of(f"{OWN}        {fine}\n")) == []
