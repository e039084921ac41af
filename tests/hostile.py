"""Text that other systems may put into a field, and what nobody's terminal may be sent."""

from __future__ import annotations

import re

__all__ = ["EVIL", "HIDDEN_CHARACTERS", "hidden_in"]

EVIL = (
    "no\x1b]0;title\x07 room\x1b[2J\r\n\x9b31m\x7f\x85\u202egnp.exe\u202c\u2066\u2069\u200e\u200f\u061c\u2028\u2029\x00 "
    "<b>&[red]:phone:"
)
"""Moves the cursor, sets the title, ends the line, turns the writing direction; and what HTML and Rich would take for markup."""

HIDDEN_CHARACTERS = [
    *map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))
]
"""Written out, so that the rule is not tested by itself."""

_HIDDEN = re.compile("[" + "".join(map(re.escape, HIDDEN_CHARACTERS)) + "\ud800-\udfff]")


def hidden_in(text: str, *, lines: str = "\n") -> set[str]:
    """The hidden characters of an output, but for its own line ends."""
    return set(_HIDDEN.findall(text)) - set(lines)
