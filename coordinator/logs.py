"""Structured logs: a console's lines on a terminal, else JSON; never recovery data, tokens or passwords."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from coordinator.settings import Settings

__all__ = ["configure_logging", "redact"]

_SECRET_FIELDS = frozenset(
    {"data", "recovery_data", "token", "api_token", "drain_token", "password", "encryption_keys"}
)
_CREDENTIALS = re.compile(r"(?<=://)[^@/\s]+@")


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drops fields that hold secrets, and the credentials of URLs in the others."""
    for name, value in list(event.items()):
        if name in _SECRET_FIELDS:
            event[name] = "[left out]"
        elif isinstance(value, str) and "://" in value:
            event[name] = _CREDENTIALS.sub("***@", value)
    return event


def configure_logging(settings: Settings) -> None:
    """Sets structlog and the standard library's logging up for this process; safe to repeat."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    style = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if style == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))  # of other packages only what matters
