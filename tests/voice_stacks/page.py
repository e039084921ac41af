"""The page on what callers heard: each stack's table stands between two marks."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["write_table"]

PAGE = Path(__file__).parents[2] / "docs" / "voice-stacks.md"


def write_table(stack: str, text: str) -> None:
    """Replaces what stands between the marks of a stack.

    Raises:
        ValueError: the page has no such marks.
    """
    before = PAGE.read_text()
    after, count = re.subn(
        rf"(<!-- {stack} -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{text}\n{found[2]}",
        before,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"{PAGE.name} has no marks for {stack}")
    PAGE.write_text(after)
