"""Answers about a session that operations of several files share."""

from __future__ import annotations

from http import HTTPStatus

from coordinator.clock import in_ms
from coordinator.sidecar import schemas
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.routing import HttpReply
from coordinator.states import ENDED
from coordinator.worker.session import Session

__all__ = ["ended", "not_known", "owned", "with_epoch"]


def owned(session: Session) -> schemas.Owned:
    """A session, for the worker that owns it."""
    return schemas.Owned(
        session=session.id, epoch=session.epoch, held=session.held, may_speak=session.may_speak,
        recovered=session.recovered, planned=session.planned, checkpoint=session.sequence, pool=session.pool,
        tenant=session.tenant, gap_ms=in_ms(session.gap), data_age_ms=in_ms(session.data_age),
        previous_owner=session.previous_owner, cause=session.cause, attempt=session.attempt,
        **schemas.shown(session.raw_data, session.encoding),
    )  # fmt: skip


def with_epoch(status: HTTPStatus, session: Session) -> HttpReply:
    """An owned session as a whole answer, with the epoch as its ETag."""
    return HttpReply(status, owned(session), {"ETag": f'"{session.epoch}"'})


def not_known(session_id: str) -> Problem:
    """404 for a session without a record."""
    return Problem(HTTPStatus.NOT_FOUND, f"session {session_id!r} is not known")


def ended(session_id: str, state: str) -> Problem | None:
    """410 for a session in a final state, None for any other."""
    if state not in ENDED:
        return None
    return Problem(HTTPStatus.GONE, f"session {session_id!r} is {state}", state=state)
