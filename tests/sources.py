"""Sources of the package, for tests that look through all of them: a file is parsed where a word in it says that it may matter."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

__all__ = ["PACKAGE", "nodes_of", "package_files", "package_nodes"]

PACKAGE = Path(__file__).parents[1] / "coordinator"


def nodes_of(text: str) -> list[ast.AST]:
    """Every node of a source. No tree is kept: collecting garbage would take longer among them than to parse a few again."""
    return [*ast.walk(ast.parse(text))]


@cache
def package_files() -> dict[str, str]:
    """Texts of the package's files, by name below it, in the order of their names."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def package_nodes(pattern: str) -> dict[str, list[ast.AST]]:
    """Every node of those files in which the pattern is found: what is looked for cannot be written without it."""
    may_matter = re.compile(pattern)
    return {name: nodes_of(text) for name, text in package_files().items() if may_matter.search(text)}
