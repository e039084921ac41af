"""The offers that a worker has in hand: few, so that offers which wait behind a slow program go to other workers instead."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

import anyio

from coordinator import clock

__all__ = ["OffersInHand", "Window"]

FIRST = 4
MOST = 16
QUICK_SECONDS = 0.1
SLOW_SECONDS = 0.5


class Window:
    """How many offers may be in hand: grows while they are answered quickly, shrinks when they wait. Pure.

    Args:
        most: its upper bound.
    """

    def __init__(self, most: float = MOST) -> None:
        self.most = most
        self._size = FIRST

    @property
    def size(self) -> int:
        """So many."""
        return int(min(self._size, self.most))

    def answered_after(self, seconds: float) -> None:
        """An offer was answered so many seconds after it was read."""
        if seconds <= QUICK_SECONDS:
            self._size = min(MOST, self._size + 1)
        elif seconds > SLOW_SECONDS:
            self._size = max(1, self._size // 2)

    def stalled(self) -> None:
        """The program did not get to its offers."""
        self._size = 1


class InHand(Protocol):
    """An offer, as far as its place in the queue is concerned.

    Attributes:
        answering: the program is answering it now.
        read_at: when it was read, in seconds of `coordinator.clock`.
    """

    answering: bool
    read_at: float

    @property
    def in_hand(self) -> bool:
        """Whether its lease goes on, and it has no answer."""

    def given(self) -> None:
        """The program has it from now on."""


H = TypeVar("H", bound=InHand)


class OffersInHand(Generic[H]):
    """One per worker, over all partitions.

    Attributes:
        window: how many offers may be in hand.
        progress: when the program last answered an offer, in seconds of `coordinator.clock`.
    """

    def __init__(self) -> None:
        self.window = Window()
        self.progress = clock.now()
        self._queue: deque[H] = deque()
        self._arrived = anyio.Event()
        self._wanting = 0
        self._stalled = self._closed = False

    def take(self, offer: H) -> None:
        """An offer was read for the program."""
        self._queue.append(offer)
        self._wake()

    async def next(self) -> H | None:
        """The next offer for the program; None once this worker ends."""
        self.asked()
        while not self._closed:
            for offer in self.ready(1):
                return offer
            self._wanting += 1
            try:
                await self._arrived.wait()
            finally:
                self._wanting -= 1
        return None

    def asked(self) -> None:
        """The program takes offers again."""
        self._stalled = False

    def ready(self, most: int) -> list[H]:
        """Offers that wait, for a program that can begin with so many more now."""
        found: list[H] = []
        while self._queue and len(found) < most:
            offer = self._queue.popleft()
            if offer.in_hand and not offer.answering:  # else it is going back now
                offer.given()
                found.append(offer)
        return found

    def answered(self, offer: H) -> None:
        """The program adopted it, or gave it back."""
        self.progress = clock.now()
        self.window.answered_after(self.progress - offer.read_at)

    def not_reached(self) -> None:
        """Offers went to other workers because the program did not get to them. It is given none until it asks again."""
        self.window.stalled()
        self._stalled = not self._wanting

    def others_wait(self) -> bool:
        """Whether other offers wait behind the one that the program works on now."""
        return not self._wanting and any(offer.in_hand for offer in self._queue)

    def room(self, in_hand: int) -> int:
        """How many more offers may be read, with so many in hand."""
        return 0 if self._stalled or self._closed else self.window.size - in_hand

    def close(self) -> None:
        """Gives out no offers any more."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()
