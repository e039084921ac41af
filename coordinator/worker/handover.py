"""The owner's side of a handover: an heir asks, and a session is let go at a moment that suits its program."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.store import lookups
from coordinator.store.executor import StorePartition
from coordinator.worker.last_words import last_words
from coordinator.worker.ledger import Ledger
from coordinator.worker.observer import WorkerObserver
from coordinator.worker.session import Session

__all__ = ["Handovers"]

log = structlog.get_logger()


class Handovers:
    """One per membership.

    Args:
        start: runs a function as a task of the worker.
        observer: is asked first, where the program is another process.

    Attributes:
        lets_go_by: the time until which a busy session is not let go, in seconds of `coordinator.clock`: the end of a drain.
    """

    def __init__(
        self,
        part: StorePartition,
        ledger: Ledger[Session],
        observer: WorkerObserver | None,
        start: Callable[[Callable[..., Coroutine[Any, Any, object]], str, str], None],
    ) -> None:
        self._part, self._ledger, self._observer, self._start = part, ledger, observer, start
        self._heirs: dict[str, str] = {}
        self._letting_go: set[str] = set()
        self._heard = 0
        self.lets_go_by = math.inf

    def heir_asks(self, session_id: str, heir: str) -> None:
        """An heir waits, as it said itself."""
        self._heard += 1
        self._asked(session_id, heir)

    def look_for_heirs(self, asked: int) -> None:
        """A beat said how often heirs asked since the last one. If we heard fewer, a message was lost, or not permitted."""
        heard, self._heard = self._heard, 0
        if not 0 <= asked <= heard:
            for session_id in self._ledger.sessions:
                self._asked(session_id, "")

    def _asked(self, session_id: str, heir: str) -> None:
        """Starts one task per session that lets go, however often heirs ask."""
        session = self._ledger.sessions.get(session_id)
        if session is None or session.ending is not None:
            return
        self._heirs[session_id] = heir
        if heir:
            session.asked_at = clock.now()
        if session_id not in self._letting_go:
            self._start(self._let_go, session_id, heir)
            self._letting_go.add(session_id)

    async def _let_go(self, session_id: str, heir: str) -> None:
        try:
            while (session := self._ledger.sessions.get(session_id)) is not None and session.ending is None:
                self._heirs.pop(session_id, None)
                if not heir:
                    heir = await lookups.heir_of(self._part, session_id)
                await session.quiet(lambda: self.lets_go_by)
                heir = self._heirs.pop(session_id, "") or heir
                if session.is_over or session.ending is not None or not heir:
                    return
                if self._observer is not None:
                    await self._observer.before_letting_go(session, heir)
                await last_words(session)
                if await session.let_go(heir):
                    log.info("session_handed_over", session=session_id, heir=heir)
                if session_id not in self._heirs:
                    return
                heir = self._heirs[session_id]  # another heir asked meanwhile
        except FencedError:
            return  # the session is lost, and was told so
        except StoreUnavailableError as error:
            log.warning("handover_failed", session=session_id, kind=error.kind)
        finally:
            self._letting_go.discard(session_id)
            self._heirs.pop(session_id, None)
