"""What a worker tells the process that stands for it, where another process serves the calls."""

from __future__ import annotations

from typing import Protocol

from coordinator.worker.offer import Offer
from coordinator.worker.session import Session

__all__ = ["WorkerObserver"]


class WorkerObserver(Protocol):
    """Its methods are called from the event loop, and must not block."""

    def offered(self, offer: Offer) -> None:
        """An offer was read for this worker."""

    def session_lost(self, session: Session) -> None:
        """A session is no longer this worker's."""

    def session_renewed(self, session: Session) -> None:
        """A session has a new epoch after lost writes."""

    def joined_again(self, instance: str) -> None:
        """The worker was fenced, and is another instance now."""

    def draining(self, timeout: float) -> None:
        """The worker hands over what it owns, within so many seconds."""

    async def before_letting_go(self, session: Session, heir: str) -> None:
        """An heir waits; returns when the program has stopped speaking."""
