"""Offers to a worker and handovers from it: the library reports them, the worker's stream passes them on, the worker answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import anyio

from coordinator.clock import in_ms
from coordinator.sidecar.event_queue import EventQueue
from coordinator.sidecar.schemas import shown
from coordinator.worker.awake import move_on_after_awake
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session

__all__ = ["HostedHandovers"]

LETTING_GO_SECONDS = 1.0
"""Time for a worker to let go itself; after it the sidecar lets go."""


class HostedHandovers:
    """Offers to one registered worker, and what happens to its sessions; the library's `WorkerObserver`.

    Args:
        queue: holds the events for the worker.
        ended: tells whether the worker's life is over.
        has_stream: tells whether the events are read now.
        lets_go: whether the worker answers when it is to let go of a session.
    """

    def __init__(
        self, queue: EventQueue, *, ended: Callable[[], bool], has_stream: Callable[[], bool], lets_go: bool
    ) -> None:
        self._queue, self._ended, self._has_stream, self._lets_go = queue, ended, has_stream, lets_go
        self._offers: OrderedDict[str, Offer] = OrderedDict()
        self._undelivered: set[str] = set()
        self._arrived: anyio.Event | None = None
        self._letting_go: dict[str, anyio.Event] = {}

    # -- offers --------------------------------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """The library read an offer."""
        self._offers = OrderedDict((s, o) for s, o in self._offers.items() if o.in_hand)
        self._offers[offer.session_id] = offer
        if self._has_stream():
            self._tell_offer(offer)
        else:
            self._undelivered.add(offer.session_id)
        if self._arrived is not None:
            arrived, self._arrived = self._arrived, None
            arrived.set()

    def tell_again(self) -> None:
        """Tells a newer stream what was not answered."""
        for session_id, offer in list(self._offers.items()):
            if offer.in_hand:
                self._undelivered.discard(session_id)
                self._tell_offer(offer)

    def _tell_offer(self, offer: Offer) -> None:
        offer.given()
        self._queue.put("offer", offer.session_id, **self.describe(offer))

    @staticmethod
    def describe(offer: Offer) -> dict[str, Any]:
        """An offer as a document, without its session's id."""
        return {
            "epoch": offer.epoch,
            "attempt": offer.attempt,
            "cause": offer.cause,
            "planned": offer.planned,
            "previous_owner": offer.previous_owner,
            "requires": list(offer.requires),
            **(shown(offer.raw_data, offer.encoding) if offer.raw_data else {}),
        }

    async def next_offers(self, most: int) -> list[Offer]:
        """Returns offers that were not delivered yet, and waits for the first. Returns none when the worker has ended."""
        while not self._ended():
            arrived = self._arrived = self._arrived or anyio.Event()
            ready = [o for s, o in self._offers.items() if s in self._undelivered and o.in_hand][:most]
            if ready:
                self._undelivered.difference_update(o.session_id for o in ready)
                for offer in ready:
                    offer.given()
                return ready
            await arrived.wait()
        return []

    def close(self) -> None:
        """The worker has ended: all waiting for offers ends. Safe to repeat."""
        if self._arrived is not None:
            self._arrived.set()

    def offer_of(self, session_id: str) -> Offer | None:
        """The offer of a session that the worker was given, if it still stands."""
        offer = self._offers.get(session_id)
        return offer if offer is not None and offer.in_hand else None

    def answered(self, session_id: str) -> None:
        """The worker adopted or declined the session."""
        self._offers.pop(session_id, None)
        self._undelivered.discard(session_id)
        self._queue.drop("offer", session_id)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def session_lost(self, session: Session) -> None:
        """A session is no longer the worker's."""
        self._queue.drop("letting_go", session.id)
        heir = {"heir": session.heir} if session.heir else {}
        self._queue.put("lost", session.id, epoch=session.epoch, reason=session.lost_reason, **heir)

    def session_renewed(self, session: Session) -> None:
        """A session has a new epoch after lost writes."""
        self._queue.put("renewed", session.id, epoch=session.epoch)

    def joined_again(self, instance: str) -> None:
        """The worker was fenced, and is another instance now."""
        self._queue.put("joined", instance=instance)

    def draining(self, timeout: float) -> None:
        """The worker is to hand over what it owns."""
        self._queue.put("drain", timeout_ms=in_ms(timeout))

    async def before_letting_go(self, session: Session, heir: str) -> None:
        """An heir waits: the worker lets go first if it declared that it does."""
        if not self._lets_go or not self._has_stream():
            return
        if session.id in self._letting_go:  # the heir asks until it has the session; the worker is asked once
            await self._letting_go[session.id].wait()
            return
        self._letting_go[session.id] = gone = anyio.Event()
        self._queue.put("letting_go", session.id, epoch=session.epoch, heir=heir)
        try:
            async with move_on_after_awake(LETTING_GO_SECONDS):
                await gone.wait()
        finally:
            del self._letting_go[session.id]
            gone.set()

    def let_go(self, session_id: str) -> bool:
        """The worker stopped speaking for the session; False when it was not asked to."""
        gone = self._letting_go.get(session_id)
        if gone is None:
            return False
        gone.set()
        return True
