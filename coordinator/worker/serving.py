"""Runs a handler as a task for each session: a lost session cancels it, and its end closes or releases the session."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from coordinator import clock
from coordinator.bounds import fitted
from coordinator.errors import CoordinatorError, DrainingError
from coordinator.policy import backoff
from coordinator.printable import told, trace
from coordinator.worker.cancellation import as_failure, is_cancelled
from coordinator.worker.data import Data
from coordinator.worker.ending import is_of_the_store
from coordinator.worker.offer import Offer
from coordinator.worker.offers_in_hand import OffersInHand
from coordinator.worker.pace import HandlerPace
from coordinator.worker.preparing import Prepare, preparation
from coordinator.worker.session import Session

__all__ = ["Handler", "Serving"]

log = structlog.get_logger()

Handler = Callable[[Session[Data]], Awaitable[object]]

TURN_SECONDS = 0.01
"""Time for which the event loop is watched after handlers were started, ..."""
WATCH_SECONDS = 0.002
"""... by a task that wants its turn once in this time."""
TURNS = 3
"""Turns of the loop between the starts of two handlers."""
ADOPTION_SECONDS = 0.25
"""Time for which the next adoptions wait for those under way; a busy owner lets go later."""
BURST_SECONDS = 0.25
"""Offers that come after a longer wait begin anew, with one at a time."""
STOP_SECONDS = 1.0
"""Time for giving back an offer when this worker stops serving."""
FAILED_SECONDS = 0.2
"""Shortest pause before an offer for which the preparation failed goes to other workers."""
STEADY_SECONDS = 10.0
"""A handler that ran for so long is started again after the shortest pause."""


class Serving:
    """What ``Worker.serve`` does with each session, in the task group that it was given.

    Args:
        prepare: runs before an offer is adopted, for at most ``prepare_timeout`` seconds.
    """

    def __init__(
        self,
        handler: Handler[Any],
        tasks: anyio.abc.TaskGroup,
        prepare: Prepare[Any] | None = None,
        prepare_timeout: float = 0.0,
    ) -> None:
        self._handler, self._tasks = handler, tasks
        self._prepare, self._prepare_timeout = prepare, prepare_timeout
        self._pace = HandlerPace()
        self._turn, self._begun = anyio.Lock(), 0
        self._served: set[Session] = set()
        self._coming: dict[str, Offer] = {}

    @property
    def coming(self) -> int:
        """How many offers are accepted whose handler has not begun: the program does not know of them yet."""
        return sum(not offer.in_hand for offer in self._coming.values())

    def start(self, session: Session) -> None:
        """Serves a session from now on, unless its end is being carried out. Safe to repeat: it gets one handler."""
        if session.ending is None and not session.is_over and session not in self._served:
            self._served.add(session)
            self._tasks.start_soon(self._serve_until_over, session)

    async def _serve_until_over(self, session: Session) -> None:
        try:
            await self._serve(session)
        except asyncio.CancelledError:
            if not self._was_cancelled_alone():
                raise
            log.warning("handler_cancelled", session=session.id)
            if session.ending is None and not session.is_over:
                await self._end(session, partial(session.release, "the handler was cancelled"))
        finally:
            self._served.discard(session)
            self._coming.pop(session.id, None)

    def _was_cancelled_alone(self) -> bool:
        """Whether the program cancelled the task of one handler, and neither its worker nor what that is part of.

        Then the worker goes on as though it had not been cancelled, so that the other handlers do.
        """
        task = asyncio.current_task()
        if task is None or anyio.current_effective_deadline() == float("-inf"):  # a scope around it is cancelled
            return False
        while task.cancelling():
            task.uncancel()
        return True

    async def run(self, sessions: Iterable[Session], offers_in_hand: OffersInHand[Offer]) -> None:
        """Serves these sessions, and adopts offers, at a pace at which the event loop turns over, until the worker ends."""
        first = deque(sessions)
        while first:
            now = [first.popleft() for _ in range(min(self._pace.together, len(first)))]
            await self._in_pace(partial(self._start_all, now))
        self._pace = HandlerPace()
        waits_since = clock.now()
        while offer := await offers_in_hand.next():
            if clock.now() - waits_since > BURST_SECONDS:  # the earlier offers say nothing about these
                self._pace = HandlerPace()
            await self._in_pace(partial(self._adopt_all, [offer, *offers_in_hand.ready(self._pace.together - 1)]))
            waits_since = clock.now()

    async def _start_all(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            await self._begin(session)

    async def _begin(self, session: Session) -> None:
        """Starts a handler, and no other before the event loop has turned over."""
        await self._in_turn(partial(self.start, session))

    async def _in_turn(self, begin: Callable[[], None]) -> None:
        async with self._turn:
            begin()
            self._begun += 1
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()

    async def _adopt_all(self, offers: Iterable[Offer]) -> None:
        with anyio.move_on_after(ADOPTION_SECONDS):
            async with anyio.create_task_group() as adoptions:
                for offer in offers:
                    adopted = anyio.Event()
                    self._coming[offer.session_id] = offer
                    run = self._adopt_and_serve if self._prepare is None else self._prepare_and_serve
                    self._tasks.start_soon(run, offer, adopted)
                    adoptions.start_soon(adopted.wait)

    async def _in_pace(self, start: Callable[[], Awaitable[None]]) -> None:
        """Starts handlers, watches how late the event loop turns over, and waits as long; without a start it measures nothing."""
        late, begun = 0.0, self._begun
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal late
                while True:
                    before = clock.now()
                    await anyio.sleep(WATCH_SECONDS)
                    late = max(late, clock.now() - before - WATCH_SECONDS)

            tasks.start_soon(watch)
            await start()
            await anyio.sleep(TURN_SECONDS)
            tasks.cancel_scope.cancel()
        if self._begun > begun:
            await anyio.sleep(self._pace.turned_over(late))

    async def _adopt_and_serve(self, offer: Offer, adopted: anyio.Event) -> None:
        session = None
        try:
            session = await offer.adopt()
            if session is not None:
                await self._begin(session)
        except DrainingError:
            await self._gives_back(offer)
        except CoordinatorError as error:
            log.warning("adoption_failed", session=offer.session_id, error=str(error))
        finally:
            adopted.set()
            if session is None:
                self._coming.pop(offer.session_id, None)

    async def _prepare_and_serve(self, offer: Offer, adopted: anyio.Event) -> None:
        """As `_adopt_and_serve`, in one task: what a preparation has entered is left by the task that entered it."""
        assert self._prepare is not None  # noqa: S101 - else the other one runs
        limit = self._prepare_timeout
        if offer.planned:  # later the owner offers the call again, and it would be prepared twice
            limit = min(limit, offer.lease)
        failure: Exception | None = None
        prepared = False
        try:
            deadline = anyio.current_time() + limit
            with offer.being_answered(), anyio.CancelScope(deadline=deadline) as scope:
                await offer.fetch_data()
                async with preparation(self._prepare, offer) as made:
                    if not scope.cancel_called:  # else it went on after it was told to stop
                        scope.deadline, prepared = float("inf"), True
                        await self._adopt_prepared(offer, made, adopted)
        except Exception as error:  # noqa: BLE001 - the program's own code
            failure = error
        except asyncio.CancelledError as error:
            if is_cancelled() and not prepared:
                await self._gives_back(offer)
            failure = as_failure(error)
        finally:
            adopted.set()
            self._coming.pop(offer.session_id, None)
        if prepared and failure is not None:
            log.error("preparation_not_undone", session=offer.session_id, error=told(failure), exception=trace(failure))
        elif not prepared:
            await self._not_prepared(offer, failure, limit)

    @staticmethod
    async def _gives_back(offer: Offer) -> None:
        """This worker stops serving: others get the offer at once, and no attempt is counted."""
        with anyio.move_on_after(STOP_SECONDS, shield=True), suppress(CoordinatorError):
            await offer.decline("its worker stopped serving", counts=False)

    async def _adopt_prepared(self, offer: Offer, made: object, adopted: anyio.Event) -> None:
        try:
            session = await offer.adopt()
        except DrainingError:
            await self._gives_back(offer)
            return
        except CoordinatorError as error:
            log.warning("adoption_failed", session=offer.session_id, error=str(error))
            return
        if session is None or session in self._served:
            return
        session.prepared = made
        self._served.add(session)
        await self._in_turn(adopted.set)
        await self._serve_until_over(session)

    async def _not_prepared(self, offer: Offer, failure: Exception | None, limit: float) -> None:
        """Other workers get the offer, after a pause that grows with each attempt: what is missing may be missing everywhere.

        It counts as an attempt: a call for which no worker can prepare is a dead letter in the end.
        """
        if failure is None:
            reason = f"its worker did not prepare within {limit:g} s"
            log.warning("preparation_took_too_long", session=offer.session_id, seconds=limit)
        else:
            reason = fitted(f"its worker's preparation raised {type(failure).__name__}")
            log.error("preparation_failed", session=offer.session_id, error=told(failure), exception=trace(failure))
        with suppress(CoordinatorError), offer.being_answered():  # then its lease ends
            if failure is not None and not offer.planned:
                await anyio.sleep(backoff(offer.attempt - 1, random.random(), least=FAILED_SECONDS))  # noqa: S311 - jitter
            await offer.decline(reason)

    async def _serve(self, session: Session) -> None:
        """Runs the handler, again and again while only the store fails; then ends the session."""
        session.served_by_handler = True
        failures = 0
        while session.ending is None and not session.is_over:
            began = clock.now()
            failure = await self._run_handler(session)
            if session.is_over or session.ending is not None:
                return
            if failure is None:
                await self._end(session, session.close)
                return
            paused = session.stood_still_lately and not failures
            if not (is_of_the_store(failure) or session.store_is_late or paused) and session.held:
                log.error("handler_failed", session=session.id, error=told(failure), exception=trace(failure))
                why = fitted(f"the handler raised {type(failure).__name__}")
                await self._end(session, partial(session.release, why))
                return
            if clock.now() - began > STEADY_SECONDS:
                failures = 0
            pause = backoff(failures, 1.0, least=0.1)
            failures += 1
            log.warning("handler_starts_again", session=session.id, error=told(failure), after_seconds=round(pause, 3))
            with anyio.move_on_after(pause):
                await session.lost.wait()

    async def _run_handler(self, session: Session) -> Exception | None:
        """Runs the handler once, and returns what it raised."""
        failure: Exception | None = None
        handler = asyncio.current_task()
        session.begins_to_be_served()
        try:
            async with anyio.create_task_group() as tasks:

                async def stop_at(end: anyio.Event) -> None:
                    await end.wait()
                    if session.ended_by is not handler:  # else it goes on after that
                        tasks.cancel_scope.cancel()

                tasks.start_soon(stop_at, session.lost)
                tasks.start_soon(stop_at, session.closed)
                self._coming.pop(session.id, None)
                try:
                    await self._handler(session)
                except Exception as error:  # noqa: BLE001 - the program's own code: its call goes to another worker
                    failure = error
                except asyncio.CancelledError as error:
                    if not (
                        session.lost.is_set() or session.ended.is_set()
                    ):  # else it was to stop, in whatever order the cancellations came
                        failure = as_failure(error)
                tasks.cancel_scope.cancel()
        finally:
            session.unserved_since = clock.now()
        return failure

    @staticmethod
    async def _end(session: Session, how: Callable[[], Awaitable[None]]) -> None:
        try:
            await how()
        except CoordinatorError as error:  # the store is away: the library carries it out later
            log.warning("session_not_ended", session=session.id, error=str(error))
