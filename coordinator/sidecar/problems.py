"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from coordinator.errors import (
    ConfigurationError,
    CoordinatorError,
    DataTooLargeError,
    DrainingError,
    FencedError,
    InvalidDataError,
    InvalidIdError,
    InvalidValueError,
    KeyUnknownError,
    NameInUseError,
    SealBrokenError,
    SessionGoneError,
    SessionHeldError,
    StoreUnavailableError,
    TenantError,
)
from coordinator.printable import printable
from coordinator.states import SessionState
from coordinator.web.gate import PROBLEM

__all__ = ["MEDIA_TYPE", "Problem", "SetUpWronglyError", "problem_of"]

MEDIA_TYPE = PROBLEM
RETRY_AFTER_SECONDS = 1


class SetUpWronglyError(ConfigurationError):
    """Settings or Redis do not fit the sidecar itself; its caller cannot correct that."""


class Problem(Exception):  # noqa: N818 - the name of the thing in its RFC
    """An answer that is not what was asked for.

    Args:
        status: the HTTP status.
        detail: one sentence for a person, with the value and the rule.
        headers: headers that are sent along.
        more: further members of the document.
    """

    def __init__(self, status: HTTPStatus, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers or {}, more

    def document(self) -> dict[str, Any]:
        """The body; its texts may be shown to a person."""
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        } | (self.more)
        return {name: printable(value) if isinstance(value, str) else value for name, value in document.items()}


_STATUSES: dict[type[CoordinatorError], HTTPStatus] = {
    FencedError: HTTPStatus.PRECONDITION_FAILED,
    SessionHeldError: HTTPStatus.CONFLICT,
    SessionGoneError: HTTPStatus.GONE,
    DataTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    SealBrokenError: HTTPStatus.GONE,
    KeyUnknownError: HTTPStatus.CONFLICT,
    TenantError: HTTPStatus.FORBIDDEN,
    InvalidDataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidIdError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidValueError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ConfigurationError: HTTPStatus.UNPROCESSABLE_ENTITY,
    SetUpWronglyError: HTTPStatus.SERVICE_UNAVAILABLE,
    DrainingError: HTTPStatus.CONFLICT,
    NameInUseError: HTTPStatus.CONFLICT,
}


def problem_of(error: CoordinatorError) -> Problem:
    """The answer to an error that the library raised on purpose."""
    if isinstance(error, StoreUnavailableError):
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            str(error),
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            kind=error.kind,
        )
    more: dict[str, Any] = {}
    if isinstance(error, SessionHeldError):
        more = {"owner": error.owner, "state": error.state or SessionState.ACTIVE}
    status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), None)
    return Problem(status or HTTPStatus.INTERNAL_SERVER_ERROR, str(error), **more)
