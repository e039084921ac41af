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
    """One per membership.

    Args:
        changing: is entered while sessions change hands.
        doubts: is told when the outcome of a request is unknown.
        patience: seconds for which a request waits for an end of the session here.
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
        """The turn of one request that opens or adopts a session; a second request for the same id waits for its outcome.

        An end of the session here that has no answer yet is waited for, as the request is about another call of that id. When the
        request has no answer, or is cancelled, the store is asked for its outcome.

        Raises:
            StoreUnavailableError: the end has no answer in time.
        """
        with self._ledger.takes(session_id):
            async with self._turns.of(session_id):
                if (before := self._ledger.sessions.get(session_id)) is not None:
                    await before.settled(self._patience)
                with self._changing():
                    try:
                        yield
                    except (StoreUnavailableError, asyncio.CancelledError):
                        self._doubts.want("outcome_unknown", "it is unknown whether a session was opened or adopted")
                        raise
