"""The header Idempotency-Key: a request that is sent again gets the answer of the first.

The rules are those of the IETF draft "The Idempotency-Key HTTP Header Field": another request under the same key is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import anyio

from coordinator import clock
from coordinator.sidecar.operations import Reply
from coordinator.sidecar.problems import Problem

__all__ = ["Answered"]

KEEP_SECONDS = 600.0
MOST = 2048


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    at: float
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Reply | Problem | None = None


class Answered:
    """Answers of the last ten minutes by key; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    async def once(self, who: str, key: str, fingerprint: bytes, run: Callable[[], Awaitable[Reply]]) -> Reply:
        """Runs it, or gives the answer that it got before; a second one that comes meanwhile waits for the first.

        Raises:
            Problem: as it was answered; or the key belongs to another request.
        """
        now = clock.now()
        while self._entries and next(iter(self._entries.values())).at < now - KEEP_SECONDS:
            self._entries.popitem(last=False)
        name = (who, key)
        while (entry := self._entries.get(name)) is not None:
            if entry.fingerprint != fingerprint:
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY, f"the Idempotency-Key {key!r} was used for another request before"
                )
            await entry.done.wait()
            if isinstance(entry.answer, Problem):
                raise entry.answer
            if entry.answer is not None:
                return entry.answer
        entry = self._entries[name] = _Entry(fingerprint, now)
        if len(self._entries) > MOST:
            self._entries.popitem(last=False)
        try:
            entry.answer = await run()
        except Problem as problem:
            if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                entry.answer = problem
            raise
        finally:
            if entry.answer is None and self._entries.get(name) is entry:
                del self._entries[name]  # nothing is known of it: the next one tries again
            entry.done.set()
        return entry.answer
