"""How the commands print, and the one way to standard output and error: Rich tables for people, one JSON document for programs.

Stored texts come from other systems, and a person sees them at a terminal. Nothing that these functions write controls it
but their own colours, and no value is taken for markup. No other module of this package prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from coordinator.clock import in_ms, in_seconds
from coordinator.printable import printable, printable_json, printable_lines

__all__ = [
    "Rows", "Writer", "clock", "coloured", "complain", "console", "print_json", "print_lines", "print_some", "progress_console",
    "seconds", "table", "writer",
]  # fmt: skip

MOST_UNFOLDED = 32
"""Most characters of a text that stays in one line."""
MOST_WORD = 64
"""Most characters of a word that is never folded; session ids have at most 256."""
MOST_WIDTH = 10_000
FIELD = ("name", "value")
"""A table with no more columns is one of fields: row by row it would be no narrower."""
NOTHING = "-"
SLACK = 1
"""Of the least width of a table: Rich measures the padding that it leaves out at the edge (15.0)."""


class Writer(Console):
    """A console whose texts are one line each; everything that it renders is printable, also when it was put together elsewhere."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich does; in a text there are no line ends, no markup and no emoji codes. No table is cut, see `fitted`."""
        super().print(*(printable(one) if isinstance(one, str) else self.fitted(one) for one in objects), **options)

    def fitted(self, shown: RenderableType) -> RenderableType:
        """The same so that nothing is cut: a terminal shows a table that is too wide for it row by row; another console gets wider."""
        if isinstance(shown, Group):
            return Group(*map(self.fitted, shown.renderables))
        if not isinstance(shown, Rows):
            return shown
        least = Measurement.get(self, self.options.update(max_width=MOST_WIDTH), shown).minimum + SLACK
        if least > self.width and self.is_terminal and len(shown.columns) > len(FIELD):
            return shown.row_by_row()
        self.width = max(self.width, least)
        return shown

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich does, segment by segment; those that move the cursor of a progress bar are Rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)


class Rows(Table):
    """A table of plain values, which can be shown row by row as well.

    Args:
        names: of the columns.
        rows: each with a value for each column.
    """

    def __init__(self, names: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
        self._names, self._rows = list(map(printable, names)), [list(map(_cell, row)) for row in rows]
        super().__init__(*self._names, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for row in self._rows:
            self.add_row(*row)
        for column in self.columns:  # ids, names and numbers are copied, so sentences may be folded, and words may not
            texts = [str(cell) for cell in (column.header, *column.cells)]
            longest = max(map(cell_len, texts))
            column.no_wrap, column.overflow = longest <= MOST_UNFOLDED, "fold"
            word = max((cell_len(word) for text in texts for word in text.split()), default=1)
            column.min_width = longest if column.no_wrap else min(MOST_WORD, max(word, MOST_UNFOLDED))

    def row_by_row(self) -> Group:
        """Each row as lines of a name and a value, with an empty line between rows; what has no value is left out."""
        width = max(map(cell_len, self._names), default=0)
        shown: list[RenderableType] = [] if self.title is None else [Text(str(self.title), "italic")]
        for number, row in enumerate(self._rows):
            lines = Table.grid(padding=(0, 2), pad_edge=False)
            lines.add_column(style="bold", min_width=width, no_wrap=True)
            lines.add_column(overflow="fold")
            for name, value in zip(self._names, row, strict=True):
                if str(value) != NOTHING:
                    lines.add_row(name, value)
            shown += [Text(), lines] if number else [lines]
        return Group(*shown)


def writer(**options: Any) -> Writer:
    """What writes texts as they are, as wide as its options or its tables say."""
    return Writer(highlight=False, markup=False, emoji=False, **options)


def console(*, soft_wrap: bool = False) -> Writer:
    """Standard output as it is now; wide when it is not a terminal, so that nothing is cut off in a pipe."""
    return writer(width=None if soft_wrap or sys.stdout.isatty() else 200, soft_wrap=soft_wrap)


def progress_console(*, quiet: bool = False) -> Writer:
    """Standard error, for output that does not stay."""
    return writer(stderr=True, quiet=quiet)


def complain(text: str) -> None:
    """Writes one line to standard error."""
    sys.stderr.write(f"coordinator: {printable(text)}\n")
    sys.stderr.flush()


def print_some(columns: Sequence[str], rows: Sequence[Sequence[object]], found: int) -> None:
    """A table of these rows, and how many they are of all that were found."""
    console().print(table(columns, rows))
    console().print(f"{len(rows)} of {found}")


def print_lines(text: str) -> None:
    """Writes lines that another module put together (a usage error, a traceback) to standard error."""
    sys.stderr.write(printable_lines(text))
    sys.stderr.flush()


def print_json(value: object, *, lines: bool = False) -> None:
    """Writes one JSON document and a line end to standard output.

    Args:
        lines: one line a document.
    """
    text = json.dumps(value, indent=None if lines else 2, ensure_ascii=False)
    sys.stdout.write(printable_json(text) + "\n")
    sys.stdout.flush()


def coloured(text: str, style: str = "") -> Text:
    """One line of text in a colour."""
    return Text(printable(text), style)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Rows:
    """A table of plain values: None is shown as ``-``, and nothing in a value is taken for markup."""
    return Rows(columns, rows, title)


def _cell(value: object) -> str | Text:
    if value is None or value == "":
        return NOTHING
    return value if isinstance(value, Text) else coloured(str(value))


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "-"
    if value < 1:
        return f"{in_ms(value)} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def clock(at_ms: int | None) -> str:
    """A time of the Redis server for people, in UTC."""
    if not at_ms:
        return "-"
    return datetime.fromtimestamp(in_seconds(at_ms), UTC).strftime("%Y-%m-%d %H:%M:%S")
