"""Pending events for a worker, coalesced by subject, so that a worker that reads slowly costs bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["EventQueue"]

MOST = 4096
"""Most events that wait. Above it the oldest are dropped, and the worker is told to ask for its sessions."""


class EventQueue:
    """Events that wait for the worker's stream."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], dict[str, Any]] = {}
        self._overflowed = False
        self.wake: Callable[[], None] = lambda: None

    def put(self, event: str, about: str = "", **fields: Any) -> None:
        """Adds an event. It replaces an older one of the same kind about the same subject.

        Args:
            event: the kind of the event.
            about: the session, '' for the worker as a whole; part of the event as ``session``.
            fields: the other fields of the event.
        """
        key = (event, about)
        self._events.pop(key, None)
        self._events[key] = {"event": event, **({"session": about} if about else {}), **fields}
        if len(self._events) > MOST:
            del self._events[next(iter(self._events))]
            self._overflowed = True
        self.wake()

    def drop(self, event: str, about: str) -> None:
        """Drops an event that the worker need not get any more."""
        self._events.pop((event, about), None)

    def take(self, most: int = 100) -> list[dict[str, Any]]:
        """The next events, the oldest first."""
        taken = []
        if self._overflowed:
            self._overflowed = False
            taken.append({"event": "overflow"})
        while self._events and len(taken) < most:
            taken.append(self._events.pop(next(iter(self._events))))
        return taken

    def __len__(self) -> int:
        return len(self._events)
