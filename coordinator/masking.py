"""How a text that may hold a secret is shown: the one rule for messages, logs, tracebacks and the command line.

A text that is known to be a secret (a URL, a token, a key) is not shown at all, and never cut to what looks harmless: in a
malformed one no program can tell which part is which. This module is for texts of other programs that may quote a secret.
"""

from __future__ import annotations

import re

__all__ = ["MASK", "mask_error", "masked", "without_arguments"]

MASK = "***"
_CREDENTIALS = re.compile(r"(?<=://)(?:[^\n]*(?=@)|[^\s/:\[]*:(?!port\b|\d{1,5}(?!\w))[^\s'\"]*)")
"""Up to the last ``@`` of a line, since a password without encoding may hold anything; without an ``@`` all but a port number."""
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")
_REFUSED_COMMAND = re.compile(r"(with args beginning with:).*", re.DOTALL)
"""Redis repeats the arguments of a command that it does not know: a password, where AUTH was renamed, or recovery data."""
_PLAIN = re.compile(r"[A-Za-z0-9._~-]*")


def masked(text: str) -> str:
    """The text without the credentials and options of URLs in it, and without what a server repeats of a command."""
    if "://" in text:
        text = _QUERY.sub(rf"\1{MASK}", _CREDENTIALS.sub(MASK, text))
    return _REFUSED_COMMAND.sub(rf"\1 {MASK}", text)


def mask_error(error: BaseException) -> None:
    """Masks the text of an error in place, and those of its causes: a traceback shows them all."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.args = tuple(masked(part) if isinstance(part, str) else part for part in one.args)
        left += [further for further in (one.__cause__, one.__context__) if further is not None]


def without_arguments(text: str, arguments: list[str]) -> str:
    """The text without the arguments of a command line that are more than plain words: one may be a part of a URL."""
    for argument in sorted(arguments, key=len, reverse=True):
        if not _PLAIN.fullmatch(argument):
            name, equals, _ = argument.partition("=")
            shown = f"{name}={MASK}" if equals and name.startswith("--") and _PLAIN.fullmatch(name) else MASK
            text = text.replace(argument, shown)
    return masked(text)
