"""Offers: read by workers without a stream, and answered."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus

from coordinator.ids import check_session_id
from coordinator.settings import parse_duration
from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.requests import Parameter
from coordinator.sidecar.routes.answers import ended, not_known, with_epoch
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, operation
from coordinator.store import lookups
from coordinator.store.executor import StorePartition
from coordinator.worker.offer import Offer

__all__ = ["OfferRoutes"]

OK, NO_CONTENT = HTTPStatus.OK, HTTPStatus.NO_CONTENT
NOT_FOUND, CONFLICT, GONE = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE
FENCED = HTTPStatus.PRECONDITION_FAILED
MOST_WAIT_SECONDS = 60.0


def _wait(text: str) -> float:
    return min(parse_duration(text), MOST_WAIT_SECONDS)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise ValueError(f"{text!r} is not a count from 1 to 100")
    return int(text)


WAIT = Parameter(
    "wait",
    "how long to wait, such as 25s or 250ms; at most 60s",
    {"type": "string", "pattern": r"^([0-9]{1,5}ms|[0-9]{1,2}(\.[0-9]{1,3})?s?)$"},
    _wait,
)
MAX = Parameter("max", "most offers", {"type": "integer", "minimum": 1, "maximum": 100}, _count)


class OfferRoutes:
    """Operations on offers.

    Args:
        part_of: returns the partition of a session.
    """

    def __init__(self, part_of: Callable[[str], StorePartition]) -> None:
        self._part_of = part_of

    @operation(
        "GET /v1/offers",
        callers=Caller.WORKER,
        query=(WAIT, MAX),
        answers={OK: Answer("new ones", schemas.Offers)},
    )
    async def offers(self, call: HttpCall) -> HttpReply:
        """Returns offers, for workers without the stream."""
        hosted = call.worker
        found = await hosted.poll(call.query.get(WAIT.name, 0.0), call.query.get(MAX.name, 10))
        offered = [schemas.Offered(session=offer.session_id, **hosted.handovers.describe(offer)) for offer in found]
        return HttpReply(OK, schemas.Offers(offers=offered))

    @operation(
        "POST /v1/sessions/{id}/adopt",
        callers=Caller.WORKER,
        body=schemas.Adopt,
        query=(WAIT,),
        answers={OK: Answer("adopted", schemas.Owned)},
        problems=(NOT_FOUND, GONE, CONFLICT, FENCED),
    )
    async def adopt(self, call: HttpCall) -> HttpReply:
        """Becomes the owner of an orphan, or takes over a call whose caller came here."""
        hosted, session_id = call.worker, check_session_id(call.path["id"])
        offer, wait = hosted.handovers.offer_of(session_id), call.query.get(WAIT.name)
        session = hosted.worker.owned(session_id)
        if session is None and offer is not None:
            session = await offer.adopt()
            hosted.handovers.answered(session_id)
        if session is None and (offer is None or wait is not None):
            session = await hosted.worker.adopt(session_id, wait or 0.0)
        if session is None:
            raise await self._not_to_be_had(session_id)
        return with_epoch(OK, session)

    async def _not_to_be_had(self, session_id: str) -> Problem:
        part = self._part_of(session_id)
        where = await lookups.owner_of(part, session_id)
        if not where.state:
            return not_known(session_id)
        if (over := ended(session_id, where.state)) is not None:
            return over
        whose = f"owned by {where.owner}" if where.owner else where.state
        return Problem(CONFLICT, f"session {session_id!r} is {whose}", state=where.state, owner=where.owner)

    @operation(
        "POST /v1/sessions/{id}/decline",
        callers=Caller.WORKER,
        body=schemas.Decline,
        answers={NO_CONTENT: Answer("the offer goes to other workers")},
        problems=(NOT_FOUND, FENCED),
    )
    async def decline(self, call: HttpCall) -> HttpReply:
        """Gives an offer back."""
        body = call.read(schemas.Decline)
        hosted, offer = self._offer(call)
        await offer.decline(body.reason, counts=body.counts)
        hosted.handovers.answered(offer.session_id)
        return HttpReply(NO_CONTENT)

    @operation(
        "POST /v1/sessions/{id}/delegate",
        callers=Caller.WORKER,
        answers={NO_CONTENT: Answer("left")},
        problems=(NOT_FOUND, FENCED),
    )
    async def delegate(self, call: HttpCall) -> HttpReply:
        """Leaves an offered session adoptable by its id for one lease."""
        hosted, offer = self._offer(call)
        await offer.delegate()
        hosted.handovers.answered(offer.session_id)
        return HttpReply(NO_CONTENT)

    @staticmethod
    def _offer(call: HttpCall) -> tuple[Hosted, Offer]:
        hosted, session_id = call.worker, check_session_id(call.path["id"])
        offer = hosted.handovers.offer_of(session_id)
        if offer is None:
            raise Problem(NOT_FOUND, f"{hosted.handle} has no offer of session {session_id!r}")
        return hosted, offer
