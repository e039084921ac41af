"""One request at a time opens or adopts a session of an id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from coordinator.errors import StoreUnavailableError
from coordinator.worker.ledger import Ledger
from coordinator.worker.session import Session
from coordinator.worker.turns import Turns
from coordinator.worker.writes import Doubts

__all__ = ["Acquisition"]


class Acquisition:
    """One a membership.

    Args:
        changing: is entered while sessions change hands.
        doubts: is told when nobody knows what became of the request.
        patience: seconds for which an end of the session here is waited for.
    """

    def __init__(
        self,
        ledger: Ledger[Session],
        turns: Turns,
        doubts: Doubts,
        changing: Callable[[], contextlib.AbstractContextManager[None]],
        patience: float,
    ) -> None:
        self._ledger, self._turns, self._doubts, self._changing = ledger, turns, doubts, changing
        self._patience = patience

    @contextlib.asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """While one request opens or adopts a session: a second one of the same id waits for its outcome.

        An end of the session here that has no answer yet is waited for: what comes now is another call of that id. When the
        request has no answer, or whoever made it was cancelled, the store is asked what became of it.

        Raises:
            StoreUnavailableError: that end has no answer in time.
        """
        with self._ledger.takes(session_id):
            async with self._turns.of(session_id):
                if (before := self._ledger.sessions.get(session_id)) is not None:
                    await before.settled(self._patience)
                with self._changing():
                    try:
                        yield
                    except (StoreUnavailableError, asyncio.CancelledError):
                        self._doubts.want("outcome_unknown", "nobody knows whether a session was opened or adopted")
                        raise
