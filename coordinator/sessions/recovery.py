"""A call comes to a worker together with its conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from coordinator.errors import ConfigurationError, CoordinatorError, StoreUnavailableError
from coordinator.policy import LACKS_KEY
from coordinator.sessions.errors import (
    CorruptSessionError,
    InvalidStateError,
    KeyUnknownError,
    PlaintextRefusedError,
    SessionNotFoundError,
    TenantError,
)
from coordinator.sessions.holder import Holder
from coordinator.sessions.manager import SessionManager
from coordinator.sessions.state import SessionState

__all__ = ["Recovered", "recover", "restore"]

log = structlog.get_logger()

_UNREADABLE = (CorruptSessionError, InvalidStateError, PlaintextRefusedError, StoreUnavailableError)


class Returnable(Holder, Protocol):
    """A session that can be given back: `coordinator.Session`."""

    async def cannot_serve(self, reason: str = "") -> None:
        """See ``Session.cannot_serve``."""


S = TypeVar("S", bound=Returnable)
Adopted = TypeVar("Adopted", bound=Returnable, covariant=True)


class OfferedCall(Protocol[Adopted]):
    """An offered call: `coordinator.Offer`."""

    session_id: str

    async def adopt(self) -> Adopted | None:
        """See ``Offer.adopt``."""

    async def cannot_serve(self, reason: str = "") -> None:
        """See ``Offer.cannot_serve``."""


@dataclass(frozen=True, slots=True)
class Recovered(Generic[S]):
    """A call in the hands of its new owner.

    Attributes:
        session: the worker's own.
        manager: saves its state; bound to the session, so that it is refused once the session is lost.
        state: the conversation, None when there is none: the call goes on with ``session.recovery_data`` only. It may say that the
            call has ended (its owner died between its last save and ``session.close``): then close the session. Its ``progress``
            is ``reconnecting``, and ``progress.interrupted`` what its owner was doing when it last saved.
        fault: why there is no state though there is something stored, or might be. Store a new state with
            ``manager.create``, which overwrites nothing.
    """

    session: S
    manager: SessionManager
    state: SessionState | None
    fault: CoordinatorError | None = None


async def recover(offer: OfferedCall[S], manager: SessionManager) -> Recovered[S] | None:
    """Adopts an offered call, together with its conversation.

    A conversation that is sealed with a key that this worker lacks cannot be served here: the offer is given back before anything is
    adopted, no attempt is counted, and this worker leaves it to others for half a minute. Nothing else that is wrong with
    the conversation keeps the call waiting: it is adopted, and `Recovered.fault` says what.

    Args:
        offer: of ``Worker.offers``.
        manager: of a store that is in the same Redis as the session.

    Returns:
        The call, or None: another won, or it cannot be served here (logged as ``session_cannot_be_served``).

    Raises:
        FencedError, DrainingError, StoreUnavailableError: as ``Offer.adopt``; safe to call again.
        ConfigurationError, TenantError: as `SessionStore.fenced`; the session was given back.
    """
    try:
        await manager.store.load(offer.session_id)  # once: the caller waits
    except KeyUnknownError as error:
        log.warning("session_cannot_be_served", session=error.session_id, key=error.key_id)
        await offer.cannot_serve(LACKS_KEY)
        return None
    except (SessionNotFoundError, *_UNREADABLE):
        pass  # it is read again when it is ours: until then its owner may still write
    session = await offer.adopt()
    if session is None:
        return None
    try:
        return await restore(session, manager)
    except KeyUnknownError:
        return None
    except (ConfigurationError, TenantError):
        await session.cannot_serve("it does not fit the session store of this worker")
        raise


async def restore(session: S, manager: SessionManager) -> Recovered[S]:
    """The conversation of a session that this worker owns already: of ``Worker.adopt``, or in a handler of ``Worker.serve``.

    Raises:
        KeyUnknownError: it is sealed with a key that this worker lacks. The session was given back, and neither an attempt nor
            a recovery was counted.
        ConfigurationError, TenantError: as `SessionStore.fenced`; the session is still this worker's.
        FencedError, StoreUnavailableError: it could not be given back.
    """
    bound = manager.fenced(session)
    try:
        state = await bound.load(session.id)
        state.progress = state.progress.recovered()
        return Recovered(session, bound, state)
    except SessionNotFoundError:
        return Recovered(session, bound, None)
    except _UNREADABLE as error:
        log.warning("state_not_restored", session=session.id, reason=type(error).__name__)
        return Recovered(session, bound, None, error)
    except KeyUnknownError as error:
        log.warning("session_cannot_be_served", session=session.id, key=error.key_id)
        await session.cannot_serve(LACKS_KEY)
        raise
