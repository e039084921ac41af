"""The end of a session here: its call is over, or other workers get it. It is carried out, however long the store is away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.ids import new_request_id
from coordinator.policy import backoff
from coordinator.worker.awake import sleep_awake
from coordinator.worker.one_each import OneEach

__all__ = ["Ending", "Endings", "Ends", "is_of_the_store"]

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a session; from the moment it is set this process no longer believes that it holds the session.

    Attributes:
        kind: ``close`` (the call is over) or ``release`` (other workers are to have it).
        reason: for the events.
        cause: of a release: ``released``, ``left`` (its owner leaves), ``returned`` (as though it had not been adopted).
        counts: whether it counts as a recovery: the call may be to blame.
        request: the request id, the same at each trial, so that a lost answer does no harm.
    """

    kind: Literal["close", "release"]
    reason: str = ""
    cause: str = ""
    counts: bool = False
    request: str = field(default_factory=new_request_id)


class Ends(Protocol):
    """A session, as far as its end is concerned.

    Attributes:
        ending: its end, if one is set.
    """

    id: str
    ending: Ending | None

    @property
    def uses(self) -> int:
        """How often tasks have used it."""

    @property
    def is_over(self) -> bool:
        """Whether its end was carried out, or it is lost."""

    @property
    def has_user(self) -> bool:
        """Whether a task that uses it goes on."""

    async def carry_out(self, *, late: bool = False) -> None:
        """Does what `ending` says."""

    def nobody_serves(self) -> None:
        """No task serves it any more: it is given up."""


def is_of_the_store(error: BaseException | None) -> bool:
    """Whether an error says only that the store did not answer: the error itself, all of a group, or its cause or context."""
    try:
        return _is_of_the_store(error, set())
    except RecursionError:  # nested deeper than any error of a wait for the store
        return False


def _is_of_the_store(error: BaseException | None, seen: set[int]) -> bool:
    while error is not None and id(error) not in seen:  # the same error may be raised again after what it caused
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            return all(_is_of_the_store(one, {*seen}) for one in error.exceptions)
        if isinstance(error, StoreUnavailableError):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


class Endings:
    """One per membership: carries out ends that had no answer at first, and finds sessions that no task serves.

    Args:
        lease: seconds for which a session whose code failed may be unused.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._ends, self._unused = OneEach(self._carry_out), OneEach(self._wait_for_use)

    async def run(self) -> None:
        """Carries ends out until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ends.run)
            tasks.start_soon(self._unused.run)

    def carry_on(self, session: Ends) -> None:
        """The end had no answer, or the task that asked for it was cancelled. Safe to repeat."""
        self._ends.put(session)

    def give_up_unless_used(self, session: Ends) -> None:
        """A task that used it failed, and no other goes on: it is given up unless a task uses it within a lease. Safe to repeat."""
        self._unused.put(session)

    async def _wait_for_use(self, session: Ends) -> None:
        while not session.has_user and session.ending is None and not session.is_over:  # else its user's end asks again
            uses = session.uses
            await sleep_awake(self._lease)
            if session.uses == uses and not session.has_user:
                session.nobody_serves()
                return

    @staticmethod
    async def _carry_out(session: Ends) -> None:
        failures = 0
        try:
            while not session.is_over:
                try:
                    await session.carry_out(late=True)
                except StoreUnavailableError as error:
                    if not failures:
                        kind = session.ending.kind if session.ending else ""
                        log.warning("ending_waits", session=session.id, ending=kind, kind=error.kind)
                    await anyio.sleep(backoff(failures, 1.0, most=LONGEST_PAUSE_SECONDS))
                    failures += 1
        except FencedError:
            return  # another worker has it: `lost` says so
