"""The header Idempotency-Key: a request that is sent again gets the answer of the first.

The rules are those of the IETF draft "The Idempotency-Key HTTP Header Field": another request under the same key is refused.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus

import anyio

from coordinator import clock
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.routing import HttpReply

__all__ = ["Answered"]

KEEP_SECONDS = 600.0
MOST = 2048
MOST_BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 1024
"""Bytes that an answer takes beside its document."""
NOT_KEPT = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
"""Most callers that are not known here: they take no room from the others, and may become known."""


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    at: float
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: HttpReply | Problem | None = None
    size: int = 0


class Answered:
    """Answers of the last ten minutes by key, as long as they are few and small enough.

    When there are too many, the oldest one of the worker with most of them goes, so that no worker takes another's room.

    Args:
        most: answers.
        most_bytes: of all of them.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._running: dict[tuple[str, str], _Entry] = {}
        self._kept: dict[str, OrderedDict[str, _Entry]] = {}
        self._sizes: dict[str, int] = {}
        self._count = self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._bytes

    def __len__(self) -> int:
        return self._count

    async def once(self, who: str, key: str, fingerprint: bytes, run: Callable[[], Awaitable[HttpReply]]) -> HttpReply:
        """Runs a request, or returns the answer that it got before. A second one that comes meanwhile waits for the first.

        Raises:
            Problem: the problem that was answered before; or the key belongs to another request.
        """
        while (entry := self._find(who, key)) is not None:
            if entry.fingerprint != fingerprint:
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY, f"the Idempotency-Key {key!r} was used for another request before"
                )
            await entry.done.wait()
            if isinstance(entry.answer, Problem):
                raise entry.answer
            if entry.answer is not None:
                return entry.answer
        entry = self._running[who, key] = _Entry(fingerprint, clock.now())
        try:
            reply = await run()
            entry.answer = replace(reply, body=reply.document)  # it takes less room than its values
        except Problem as problem:
            if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                entry.answer = problem
            raise
        finally:
            del self._running[who, key]
            self._keep(who, key, entry)  # without a known answer the next request tries again
            entry.done.set()
        return entry.answer

    def _find(self, who: str, key: str) -> _Entry | None:
        running = self._running.get((who, key))
        if running is not None:
            return running
        old = clock.now() - KEEP_SECONDS
        while (kept := self._kept.get(who)) and next(iter(kept.values())).at < old:
            self._forget(who)
        return kept.get(key) if kept else None

    def _keep(self, who: str, key: str, entry: _Entry) -> None:
        answer = entry.answer
        if answer is None or (isinstance(answer, Problem) and answer.status in NOT_KEPT):
            return
        entry.size = ENTRY_BYTES + len(
            answer.document if isinstance(answer, HttpReply) else json.dumps(answer.document())
        )
        self._kept.setdefault(who, OrderedDict())[key] = entry
        self._sizes[who] = self._sizes.get(who, 0) + entry.size
        self._bytes += entry.size
        self._count += 1
        while self._bytes > self._most_bytes or self._count > self._most:
            self._forget(max(self._sizes, key=self._sizes.__getitem__))

    def _forget(self, who: str) -> None:
        kept = self._kept[who]
        _, entry = kept.popitem(last=False)
        self._count -= 1
        self._bytes -= entry.size
        self._sizes[who] -= entry.size
        if not kept:
            del self._kept[who], self._sizes[who]
