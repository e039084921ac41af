"""Structured logs: a console's lines on a terminal, else JSON; never recovery data, tokens or passwords.

Values come from Redis, from other systems and from errors: none of them controls the reader's terminal.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from coordinator.masking import masked
from coordinator.printable import printable, printable_lines, told
from coordinator.settings import SECRETS, Settings

__all__ = ["configure_logging", "configure_structlog", "make_printable", "redact"]

_SECRET_FIELDS = frozenset({"data", "recovery_data", "token", "password", *SECRETS})


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drops fields that hold secrets, and the credentials of URLs in the others."""
    for name, value in list(event.items()):
        if name in _SECRET_FIELDS:
            event[name] = "[left out]"
        elif name != "exc_info" and not name.startswith("_"):
            event[name] = _masked(value)
    return event


def _masked(value: Any) -> Any:
    match value:
        case str():
            return masked(value)
        case dict():
            return {name: _masked(inner) for name, inner in value.items()}
        case list():
            return [_masked(inner) for inner in value]
        case tuple():
            return tuple(_masked(inner) for inner in value)
        case _:
            return value


def make_printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Makes names and values printable, each on one line; a traceback keeps its lines."""
    for name, value in list(event.items()):
        del event[name]
        event[printable(name)] = value if name.startswith("_") else _shown(name, value)
    return event


def _shown(name: str, value: object) -> object:
    match value:
        case str():
            return _indented(value) if name == "exception" else printable(value)
        case None | bool() | int() | float() | dict():
            return value  # a mapping shows its texts as `repr` or JSON does
        case list() | tuple() | set() | frozenset():
            return [printable(one) if isinstance(one, str) else one for one in value]
        case BaseException():
            return told(value)
        case _:
            return printable(repr(value))


def _indented(traceback: str) -> str:
    """A traceback as lines that cannot be taken for log events, whatever text the error holds."""
    return "\n".join(f"    {line}" for line in printable_lines(traceback).split("\n"))


def _rendering(settings: Settings) -> tuple[list[Any], list[Any]]:
    """The processors that add to each event, and the one that writes it. Tracebacks show no values: those may be recovery data."""
    style = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
        make_printable,
    ]
    if style == "console":
        return shared, [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    return shared, [structlog.processors.JSONRenderer()]


class _Unbreakable:
    """A stream whose reader may go away (a log shipper that crashes, a pipe to `head`): only what cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text if a reader is there."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """The same."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_structlog(settings: Settings) -> None:
    """Sets structlog up to write to standard error, and leaves the standard library's logging alone. Safe to repeat."""
    shared, renderer = _rendering(settings)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unbreakable(sys.stderr))),
        cache_logger_on_first_use=False,
    )


def configure_logging(settings: Settings) -> None:
    """Sets structlog and the standard library's logging up for this process; safe to repeat."""
    configure_structlog(settings)
    shared, renderer = _rendering(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(max(level, logging.WARNING))  # other packages log only what matters
