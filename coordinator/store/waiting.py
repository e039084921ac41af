"""Requests that wait to be sent, and which is the next: in order, but a small one need not wait behind large ones.

Only a request for one session may pass, and only requests for other sessions: the requests of one caller stay in their order. All
others (plain commands, scripts about a whole instance or a partition) keep their places: they pass none, and none passes them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from coordinator.store.pace import LARGE, RESERVE

__all__ = ["Request", "Waiting"]


class Request(Protocol):
    """A request that can wait.

    Attributes:
        size: bytes.
        session: the session that it is for; '' keeps its place.
        number: set by `Waiting.put`: in which order they came.
    """

    size: int
    session: str
    number: int

    @property
    def over(self) -> bool:
        """Whether its answer is no longer awaited: then it is not sent."""


R = TypeVar("R", bound=Request)


class Waiting(Generic[R]):
    """Two lanes: the slow one has the large requests, and those that may not pass a request in it."""

    def __init__(self) -> None:
        self._first: deque[R] = deque()
        self._quick: deque[R] = deque()
        self._slow: deque[R] = deque()
        self._sessions: Counter[str] = Counter()
        self._number = 0
        self._passed = 0

    def __len__(self) -> int:
        return len(self._first) + len(self._quick) + len(self._slow)

    def put(self, requests: Sequence[R]) -> None:
        """Adds requests of one caller, which stay in this order."""
        quick = all(self._may_pass(r) for r in requests)
        lane = self._quick if quick else self._slow
        for request in requests:
            self._number += 1
            request.number = self._number
            lane.append(request)
            if not quick:
                self._sessions[request.session] += 1

    def _may_pass(self, request: R) -> bool:
        if request.size > LARGE:
            return False
        if not self._slow:
            return True
        return bool(request.session) and "" not in self._sessions and request.session not in self._sessions

    def put_first(self, requests: Sequence[R]) -> None:
        """Adds requests that had their turn and have it again, before all others, in this order."""
        self._first.extend(requests)

    def take(self, room: int, *, only: bool) -> R | None:
        """The request that may be sent now, if one may.

        Args:
            room: bytes that may still be sent; may be negative.
            only: no large request is on its way: then a large one may be sent whatever its size.
        """
        for lane in (self._first, self._quick, self._slow):
            while lane and lane[0].over:
                self._pop(lane)
        if self._first:
            return self._pop(self._first) if self._fits(self._first[0], room, only=only) else None
        lanes = (self._slow, self._quick) if self._slow_has_its_turn() else (self._quick,)
        for lane in lanes:
            if lane and self._fits(lane[0], room, only=only):
                return self._pop(lane)
        return None

    def _slow_has_its_turn(self) -> bool:
        """Whether all that came before its first request is gone and as many bytes passed it as it has: none waits for ever."""
        if not self._slow or not self._quick:
            return bool(self._slow)
        first = self._slow[0]
        return self._quick[0].number > first.number and self._passed >= first.size

    @staticmethod
    def _fits(request: R, room: int, *, only: bool) -> bool:
        if request.size > LARGE:
            return only or request.size <= room
        return request.size <= room + RESERVE

    def _pop(self, lane: deque[R]) -> R:
        request = lane.popleft()
        if lane is self._slow:
            self._passed = 0
            self._sessions[request.session] -= 1
            if not self._sessions[request.session]:
                del self._sessions[request.session]
        elif self._slow:
            self._passed += request.size
        return request

    def take_all(self) -> list[R]:
        """Takes out all requests, in the order in which they came."""
        found = [*self._first, *sorted((*self._quick, *self._slow), key=lambda r: r.number)]
        for lane in (self._first, self._quick, self._slow):
            lane.clear()
        self._sessions.clear()
        self._passed = 0
        return found
