"""Every error that the session store raises on purpose.

CoordinatorError
|- SessionNotFoundError    no session, or no session any more, under this id
|- StoreClosedError        the store was closed by this program
|- SessionExistsError      a new session was asked for under an id that is taken
|- SessionConflictError    the stored session changed since it was loaded
|- SessionEndedError       a heartbeat came for a session that has ended
|- SessionLimitError       as many sessions as allowed are under way
|- InvalidStateError       a state that cannot be written            (also a ValueError)
|- CorruptSessionError     what is stored is not a session
|  `- SealBrokenError      it was sealed for another place, or changed since
|- KeyUnknownError         it is sealed with a key that this program lacks: it cannot serve the session
|- PlaintextRefusedError   it is not sealed, and this store accepts sealed sessions only
`- TenantError             the state belongs to another tenant

A store that does not answer is a `coordinator.errors.StoreUnavailableError`; `CircuitOpenError` is one of these.
"""

from __future__ import annotations

from coordinator.errors import CoordinatorError, KeyUnknownError, StoreUnavailableError
from coordinator.errors import TenantError as _TenantError

__all__ = [
    "CircuitOpenError", "CorruptSessionError", "InvalidStateError", "KeyUnknownError", "PlaintextRefusedError",
    "SealBrokenError", "SessionConflictError", "SessionEndedError", "SessionExistsError", "SessionLimitError",
    "SessionNotFoundError", "StoreClosedError", "TenantError",
]  # fmt: skip


class SessionNotFoundError(CoordinatorError):
    """There is no session under this id: never saved, deleted, or past its expiry."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} was not found")


class StoreClosedError(CoordinatorError):
    """The store was closed; open another one."""

    def __init__(self) -> None:
        super().__init__("the session store is closed")


class SessionExistsError(CoordinatorError):
    """A session was to be created under an id that is taken."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} exists already")


class SessionConflictError(CoordinatorError):
    """The stored session is not the one that was loaded: load it again, or save with ``force=True``.

    Attributes:
        gone: it was deleted or expired meanwhile; False when another program wrote something else.
    """

    def __init__(self, session_id: str, *, gone: bool) -> None:
        self.session_id, self.gone = session_id, gone
        what = "was deleted or expired" if gone else "was changed by another writer"
        super().__init__(f"session {session_id!r} {what} since it was loaded, so it was not saved")


class SessionEndedError(CoordinatorError):
    """A heartbeat came for a session that has ended; nothing was changed."""

    def __init__(self, session_id: str, status: str) -> None:
        self.session_id, self.status = session_id, status
        super().__init__(f"session {session_id!r} has ended (its status is {status!r}): a heartbeat does not revive it")


class SessionLimitError(CoordinatorError):
    """As many sessions as ``limit`` allows are under way."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} sessions are under way, which is the limit (max_sessions)")


class InvalidStateError(CoordinatorError, ValueError):
    """A state, id or alias that cannot be written so that every reader understands it."""


class CorruptSessionError(CoordinatorError):
    """The value under the session's key is not a session. Nothing was changed."""

    def __init__(self, session_id: str, detail: str) -> None:
        self.session_id, self.detail = session_id, detail
        super().__init__(f"session {session_id!r} cannot be read: {detail}")


class SealBrokenError(CorruptSessionError):
    """The sealed part was not sealed for this tenant, session, sequence and status, or was changed since."""


class PlaintextRefusedError(CoordinatorError):
    """The stored session is not sealed, while this store has keys and was not told to accept plain text."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(
            f"session {session_id!r} is stored in plain text, and this store accepts sealed sessions only "
            "(accept_plaintext=True reads it, and seals it at its next save)"
        )


class TenantError(_TenantError):
    """A state that was loaded from one tenant's store was to be saved to another's."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        CoordinatorError.__init__(self, f"session {session_id!r} belongs to another tenant, so it was not saved")


class CircuitOpenError(StoreUnavailableError):
    """The store failed so often in a row that it is not asked for a while; kind ``other``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__("other", f"the circuit is open, the next attempt is in {seconds:.1f} s")
