"""Logs once what clients cause, and then counts it: clients must not decide how long the log is."""

from __future__ import annotations

import logging

from coordinator import clock

__all__ = ["Seldom", "quieten"]

EVERY_SECONDS = 60.0
MOST_KINDS = 64


class Seldom:
    """Lets the first event of each kind through, and then one a minute.

    Args:
        every: seconds between two of a kind.
    """

    def __init__(self, every: float = EVERY_SECONDS) -> None:
        self._every = every
        self._said: dict[str, tuple[float, int]] = {}

    def count(self, kind: str) -> int:
        """The number of events since one was let through, this one included; 0 when this one is not to be logged."""
        now = clock.now()
        if kind not in self._said and len(self._said) >= MOST_KINDS:
            kind = "others"
        at, left_out = self._said.get(kind, (now - self._every, 0))
        if now - at < self._every:
            self._said[kind] = (at, left_out + 1)
            return 0
        self._said[kind] = (now, 0)
        return left_out + 1


class _Filter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = f"{record.levelname} {str(record.msg).partition(chr(10))[0][:80]}"
        count = self._seldom.count(kind)
        if count > 1:
            record.msg = f"{record.msg} ({count} times since this was logged last)"
        return bool(count)


def quieten(*names: str) -> None:
    """Does the same for loggers of the standard library. Safe to repeat."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Filter) for one in logger.filters):
            logger.addFilter(_Filter())
