"""Ends leases: an offer is extended, offered again or given up on; a handover goes back to its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from coordinator.daemon.claimer import expire_call
from coordinator.failpoints import reach
from coordinator.settings import Settings
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition

__all__ = ["LeaseExpirer"]

log = structlog.get_logger()


@dataclass(slots=True)
class LeaseExpirer:
    """Ends the leases that are due in one partition."""

    part: StorePartition
    settings: Settings
    by: str

    async def step(self, sessions: Sequence[str]) -> None:
        """Ends the leases of ``sessions``. Safe to repeat, and to run beside other coordinators.

        Raises:
            StoreUnavailableError: the store did not answer; the leases stay due.
        """
        if not sessions:
            return
        pools = await lookups.pools_of(self.part, sessions)
        reach("before_expire")
        answers = await self.part.executor.run_many(
            [
                expire_call(self.part, self.settings, session, pool, self.by)
                for session, pool in zip(sessions, pools, strict=True)
            ]
        )
        reach("after_expire")
        for session, answer in zip(sessions, answers, strict=True):
            if isinstance(answer, calls.DeadLettered):
                log.error("session_dead_lettered", session=session, reason=answer.reason)
            elif isinstance(answer, calls.Offered):
                log.info("session_offered_again", session=session, epoch=answer.epoch, attempt=answer.attempt)
