"""How the commands print: Rich tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["clock", "console", "print_json", "seconds", "table"]


def console() -> Console:
    """Standard output as it is now; wide when it is no terminal, so that nothing is cut off in a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: object) -> None:
    """Writes one JSON document and a line end to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table of plain values: None is shown as ``-``, and nothing in a value is taken for markup."""
    made = Table(*columns, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for row in rows:
        made.add_row(
            *(
                "-" if value is None or value == "" else value if isinstance(value, Text) else Text(str(value))
                for value in row
            )
        )
    return made


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def clock(at_ms: int | None) -> str:
    """A time of the Redis server for people, in UTC."""
    if not at_ms:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
