"""Makes text fit to be shown: characters that act on a terminal, or change the reading order, become visible.

Stored texts come from other systems: a character that moves the cursor, sets a window's title, hides a line or turns the
reading direction is shown as its escape, ``\\x1b`` or ``\\u202e``. Every text that a person is to read goes through here:
`coordinator.cli.tables`, `coordinator.logs`, the status page, problem documents, and the messages of errors.
"""

from __future__ import annotations

import re
import traceback

__all__ = ["HIDDEN", "has_hidden", "named", "printable", "printable_json", "printable_lines", "told", "trace"]

HIDDEN = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"
"""C0 and DEL, C1, marks, embeddings, overrides and isolates of writing direction, separators of lines and paragraphs: as part of a
character class of a regular expression, for Python, Rust and ECMAScript."""
_SURROGATES = r"\ud800-\udfff"
_ALL = re.compile(f"[{HIDDEN}{_SURROGATES}]")
_BUT_LINES = re.compile(f"(?![\n\t])[{HIDDEN}{_SURROGATES}]")
_BUT_C0 = re.compile(f"(?![\\x00-\\x1f])[{HIDDEN}{_SURROGATES}]")
MOST_TOLD = 500
MOST_TRACE = 16 * 1024
MOST_NAMED = 78
"""Most characters that are shown; escapes count with all their letters."""


def has_hidden(text: str) -> bool:
    """Whether the text has an invisible character, or half of one."""
    return _ALL.search(text) is not None


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    """The text on one line."""
    return _ALL.sub(_escape, text)


def printable_lines(text: str) -> str:
    """The text with its line ends and tabs, for lines that this program itself put together."""
    return _BUT_LINES.sub(_escape, text)


def printable_json(text: str) -> str:
    """A JSON document that says the same, with escapes in its strings; C0 within strings is escaped in any JSON."""
    return _BUT_C0.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def named(value: object) -> str:
    """A refused value in bounded length; only its type where it is neither text nor a small number."""
    if isinstance(value, str):
        if len(value) < MOST_NAMED and len(repr(value)) < MOST_NAMED + 2:
            return repr(value)
        shown = value[:60]
        while len(repr(shown)) > 62:
            shown = shown[:-1]
        return f"{shown!r}... ({len(value)} characters)"
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**20):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def trace(error: BaseException) -> str:
    """The end of an error's traceback, in bounded length; only the kind of the error where no traceback can be made.

    It is for the field ``exception`` of a log. An error of a foreign class may fail while its traceback is made, and the caller
    has to go on after that.
    """
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as failure:  # noqa: BLE001 - whatever the class of the error does
        return f"{told(error)} (no traceback: {told(failure)})"
    return text if len(text) <= MOST_TRACE else f"...\n{text[-MOST_TRACE:]}"


def told(error: BaseException) -> str:
    """An error in one line of bounded length, even if its class fails to give a text."""
    try:
        said = repr(error)
    except Exception:  # noqa: BLE001 - a foreign class, or nested deeper than it can show
        said = type(error).__name__
    return printable(said[:MOST_TOLD])
