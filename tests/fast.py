"""Which tests are fast: those from which nothing is reached that starts a program or opens a connection.

That is read from the sources, without importing them: a test reaches the names that its body, its fixtures and the helpers of
`tests` use, and theirs. A test that is fast is held to it while it runs.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["STARTERS", "NothingStarts", "fast_tests"]

ROOT = Path(__file__).parents[1]

STARTERS = (
    "anyio.connect_tcp", "anyio.connect_unix", "anyio.create_tcp_listener", "anyio.create_unix_listener",
    "anyio.open_process", "anyio.run_process", "asyncio.open_connection", "asyncio.open_unix_connection",
    "asyncio.start_server", "asyncio.start_unix_server", "coordinator.cli.app.main", "coordinator.cli.child",
    "coordinator.cli.processes", "coordinator.embedded", "coordinator.supervisor", "coordinator.web.server", "http.client",
    "http.server", "multiprocessing", "os.fork", "os.posix_spawn", "redis.Redis", "redis.asyncio", "socket", "socketserver",
    "subprocess", "tests.model.explore", "typer.main.get_command", "typer.testing.CliRunner", "urllib.request",
    "uvicorn",
)  # fmt: skip
"""What starts programs, connects or listens, as it is imported; a module stands for all that is in it.

A command that is run in the test's process is among them, since most of them connect; and so is the exploration of the
protocol's model, which starts nothing and takes minutes.
"""

OF_EVERY_TEST = ("compiled_once", "nothing_starts")
"""Fixtures of this name start something for the slow ones of all tests, or look that nothing is started."""

STARTED = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "pty.spawn",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
)
"""Events of Python's audit that a fast test does not cause (https://docs.python.org/3/library/audit_events.html)."""


@dataclass
class Piece:
    """A function, a class or a constant of a module: the dotted names that it uses, and the fixtures that it asks for."""

    names: set[str] = field(default_factory=set)
    fixtures: set[str] = field(default_factory=set)
    is_fixture: bool = False
    autouse: bool = False

    def add(self, other: Piece) -> None:
        """A second statement under the same name, or a part of this one."""
        self.names |= other.names
        self.fixtures |= other.fixtures
        self.is_fixture |= other.is_fixture
        self.autouse |= other.autouse


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute; '' of what is computed."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


class _Reading(ast.NodeVisitor):
    """Reads a statement into a piece, without its annotations: they start nothing."""

    def __init__(self, imports: dict[str, str]) -> None:
        self.piece = Piece()
        self._imports = imports

    def visit_Name(self, node: ast.Name) -> None:
        self.piece.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if dotted := _dotted(node):
            self.piece.names.add(dotted)
        else:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = _dotted(node.func)
        if called.endswith(("usefixtures", "getfixturevalue")):
            self.piece.fixtures |= {
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            }
        if called == "pytest.fixture":
            self.piece.autouse |= any(word.arg == "autouse" for word in node.keywords)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            self._imports[each.asname or each.name.split(".")[0]] = (
                each.name if each.asname else each.name.split(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for each in node.names:
            self._imports[each.asname or each.name] = f"{node.module}.{each.name}"

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
            self.piece.is_fixture |= (
                _dotted(decorator.func if isinstance(decorator, ast.Call) else decorator) == "pytest.fixture"
            )
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.piece.fixtures |= {argument.arg for argument in every}
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    visit_FunctionDef = visit_AsyncFunctionDef = _function  # noqa: N815 - the visitor's names


@dataclass(eq=False)
class Module:
    """A file of tests: its pieces by name, what its imports mean, and names of what every test of it uses unasked."""

    pieces: dict[str, Piece]
    imports: dict[str, str]

    def __post_init__(self) -> None:
        self.autouse = [name for name, piece in self.pieces.items() if piece.autouse or name == "pytestmark"]


@cache
def _module(path: Path) -> Module:
    imports: dict[str, str] = {}
    pieces: dict[str, Piece] = {}
    for statement in ast.parse(path.read_text()).body:
        reading = _Reading(imports)
        reading.visit(statement)
        for name in _named(statement):
            pieces.setdefault(name, Piece()).add(reading.piece)
    return Module(pieces, imports)


def _named(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign():
            return [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


@cache
def _file_of(dotted: str) -> tuple[Module, str] | None:
    """The file of tests and the name in it that a dotted name means; None for what is not of tests."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return _module(file), parts[count] if count < len(parts) else ""
    return None


@cache
def _starts(dotted: str) -> bool:
    parts = dotted.split(".")
    return any(".".join(parts[:count]) in STARTERS for count in range(1, len(parts) + 1))


def _meaning(module: Module, name: str) -> str:
    first, _, rest = name.partition(".")
    found = module.imports.get(first, "")
    return f"{found}.{rest}" if found and rest else found


_known: dict[tuple[Module, str], str] = {}
"""What pieces that start something reach, of all walks."""


@cache
def _with_fixtures(path: Path) -> list[Module]:
    """A file of tests, and those whose fixtures its tests may ask for, nearest first."""
    tests = ROOT / "tests"
    folders = [folder for folder in path.parents if tests in folder.parents]
    conftests = (folder / "conftest.py" for folder in (*folders, tests))
    return [_module(file) for file in (path, *conftests) if file.is_file()]


class _Walk:
    """All that one test reaches; ``found`` is the first that starts something."""

    def __init__(self, path: Path) -> None:
        self._fixtures = _with_fixtures(path)
        self._seen: set[tuple[Module, str]] = set()
        self.found = ""

    def take(self, module: Module, name: str, *, fixtures: bool = False) -> None:
        """A name of a file; ``fixtures``: its arguments are fixtures."""
        here = module, name.partition(".")[0]
        if (piece := module.pieces.get(here[1])) is None:
            self._mean(_meaning(module, name))
        elif self.found or here in self._seen:
            return
        elif here in _known:
            self.found = _known[here]
        else:
            self._seen.add(here)
            for used in piece.names:
                self.take(module, used)
            if self.found:
                _known[here] = self.found
            if fixtures or piece.is_fixture:
                for asked in piece.fixtures:
                    self.fixture(asked)

    def _mean(self, dotted: str) -> None:
        if dotted and _starts(dotted):
            self.found = self.found or dotted
        elif dotted.startswith("tests.") and (there := _file_of(dotted)):
            self.take(*there)

    def fixture(self, name: str) -> None:
        """The nearest fixture of this name."""
        if name in OF_EVERY_TEST:
            return
        for module in self._fixtures:
            if (piece := module.pieces.get(name)) and piece.is_fixture:
                self.take(module, name, fixtures=True)
                return
            if name in module.imports:
                self._mean(module.imports[name])
                return

    def autouse(self) -> None:
        """What is used without being asked for."""
        for module in self._fixtures:
            for name in module.autouse:
                self.fixture(name) if module.pieces[name].is_fixture else self.take(module, name, fixtures=True)


@cache
def why_slow(path: Path, test: str) -> str:
    """What of `STARTERS` a test (a function or class of that file) reaches first; '' when it is fast."""
    walk = _Walk(path)
    walk.autouse()
    walk.take(_module(path), test, fixtures=True)
    return walk.found


@cache
def fast_tests(path: Path) -> frozenset[str]:
    """Names of the fast tests of a file."""
    names = [name for name in _module(path).pieces if name.startswith(("test_", "Test"))]
    return frozenset(name for name in names if not why_slow(path, name))


class NothingStarts:
    """Refuses, while it is `watching`, what a fast test does not do; a hook of Python's audit, of which there is no taking away.

    Only in the test's own thread: threads of slow tests before it may not have ended yet.
    """

    def __init__(self) -> None:
        self._watching = 0
        self._caused: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: object) -> None:
        if event in STARTED and self._watching == threading.get_ident():
            self._caused.append(event)
            raise AssertionError(f"a fast test caused {event}")

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Gives the events that were caused, and refused."""
        self._caused = []
        self._watching = threading.get_ident()
        try:
            yield self._caused
        finally:
            self._watching = 0
