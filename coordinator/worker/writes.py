"""The one rule of how a request runs until its answer counts, and how a session's owner writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NoReturn, Protocol, TypeVar

import anyio

from coordinator import clock
from coordinator.errors import ConfigurationError, FencedError, StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.fence import FenceRunner
from coordinator.store.replies import Reply, epoch_in
from coordinator.store.scripts import R, ScriptCall
from coordinator.worker import loss_reasons
from coordinator.worker.ledger import Ledger, OwnedSession
from coordinator.worker.reply_verdict import ReplyVerdict, verdict_on

__all__ = ["Doubts", "Writes", "WritingSession"]

RENEWAL_SECONDS = 2.0
"""Time for which a write waits for a renewal of our own."""
RETRY_SECONDS = 0.05
CHILDREN_SECONDS = 0.01
"""Pause between two looks at whether the children of a session have stopped."""


class Doubts(Protocol):
    """Is told when an answer means that this instance and the store do not agree."""

    def want(self, kind: str, reason: str) -> None:
        """See ``Resync.want``."""


class WritingSession(OwnedSession, Protocol):
    """A session, as far as its owner's writes are concerned."""

    instance: str
    lost_reason: str

    @property
    def is_over(self) -> bool:
        """Whether this worker has nothing more to do with the session."""

    def check(self) -> None:
        """Raises `FencedError` when the session was lost, closed or given up here."""

    def lose(self, reason: str) -> None:
        """The store said that this worker no longer has it; final."""


W = TypeVar("W", bound=WritingSession)


class Writes(Generic[W]):
    """One per membership.

    Args:
        part: the partition that gets the requests.
        ledger: the asking instance, and what it owns.
        settings: of the worker.
        doubts: is told of answers that contradict what this instance believes.

    Attributes:
        patience: seconds for which a store that does not answer is asked again, and for which a write of another package waits for
            what it cannot see.
    """

    def __init__(
        self, part: StorePartition, ledger: Ledger[W], settings: Settings, doubts: Doubts, patience: float
    ) -> None:
        self._part, self._ledger, self._settings, self._doubts = part, ledger, settings, doubts
        self.patience = patience

    async def request(self, make: Callable[[], ScriptCall[R]], session: W | None = None) -> R:
        """Runs a call that is safe to repeat until it has an answer that counts.

        Waits out holds, registers the instance again where the store forgot it, and tries again where the store did not answer.

        Raises:
            StoreUnavailableError: no answer within its patience, or within a hold and its aftermath.
        """
        began, failing_since = clock.now(), math.inf  # a slow answer is no failure
        while True:
            try:
                answer = await self._part.executor.run(make())
            except StoreUnavailableError:
                failing_since = min(failing_since, clock.now())
                if clock.now() - failing_since > self.patience:
                    raise
                await anyio.sleep(RETRY_SECONDS)
                continue
            failing_since = math.inf
            verdict = verdict_on(answer)
            if verdict not in (ReplyVerdict.HELD, ReplyVerdict.STATE_AGAIN, ReplyVerdict.JOIN_AGAIN):
                self._ledger.past.saw(epoch_in(answer))
                return answer
            self._doubt(verdict, answer)
            if clock.now() - began > self._longest:
                raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
            await anyio.sleep(RETRY_SECONDS)
            if session is not None and session.is_over:
                raise FencedError(session.id, session.epoch, session.lost_reason)

    @property
    def _longest(self) -> float:
        """Seconds until a hold and its aftermath should be over."""
        return self.patience + 2 * self._settings.dead_after

    def _doubt(self, verdict: ReplyVerdict, answer: Reply) -> None:
        if verdict is ReplyVerdict.JOIN_AGAIN:
            self._doubts.want("unknown", "a write was answered " + answer.word)
        elif verdict is ReplyVerdict.STATE_AGAIN:
            self._doubts.want("lost_writes", "a write was answered " + answer.word)

    def dead(self, instance: str, reason: str) -> None:
        """An answer said that ``instance`` is dead."""
        if self._ledger.is_dead(instance):
            self._doubts.want("fenced", reason)

    async def write(self, session: W, make: Callable[[int], ScriptCall[R]]) -> R:
        """Runs a write of a session's owner, under the epoch that it has at each attempt, until the answer counts.

        Raises:
            FencedError: this worker no longer owns the session; final, and the session is told.
            StoreUnavailableError: as `request`.
        """
        if session.is_over:
            raise FencedError(session.id, session.epoch, session.lost_reason or loss_reasons.CLOSED_OR_GIVEN_UP)
        answer = await self.request(lambda: make(session.epoch), session)
        began = clock.now()
        while isinstance(answer, calls.Children) or (
            self._is_renewed(session, answer) and clock.now() - began < RENEWAL_SECONDS
        ):
            await anyio.sleep(CHILDREN_SECONDS)
            answer = await self.request(lambda: make(session.epoch), session)
        if isinstance(answer, calls.FencedWrite):
            self._refused(session, answer)
        return answer

    def _is_renewed(self, session: W, answer: Reply) -> bool:
        """Whether a write was refused only because our own resync renewed the session while it was under way."""
        ours = (
            isinstance(answer, calls.FencedWrite) and answer.owner == session.instance and answer.epoch >= session.epoch
        )
        return ours and self._ledger.sessions.get(session.id) is session

    def _refused(self, session: W, answer: calls.FencedWrite) -> NoReturn:
        """The store refused a write for good."""
        if answer.scope == "instance":
            self.dead(session.instance, "a write was refused")
        reason = loss_reasons.refused(answer.state, answer.epoch)
        session.lose(reason)
        raise FencedError(session.id, session.epoch, reason if answer.state else "this instance was declared dead")

    async def guarded(self, session: W, make: Callable[[], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs a write of another package whose own script checks the ownership; see ``Session.fenced``."""
        if not self._settings.without_info:
            await _sees_lost_writes(runner)
        began = clock.now()
        while True:
            session.check()
            answer = await runner.run(make())
            waited, verdict = clock.now() - began, verdict_on(answer)
            if isinstance(answer, calls.FencedWrite):
                if not self._is_renewed(session, answer) or waited > self.patience:
                    self._refused(session, answer)
            elif verdict is ReplyVerdict.DEAD:
                raise FencedError(session.id, session.epoch, "this instance was declared dead")
            elif verdict not in (ReplyVerdict.STATE_AGAIN, ReplyVerdict.JOIN_AGAIN):
                return answer
            elif await self._is_same_store(runner):
                self._doubt(verdict, answer)
            elif waited > self.patience:
                raise ConfigurationError(
                    f"session {session.id!r} is not in the Redis of this store, or in another of its databases: "
                    "a fenced write must see both in one script"
                )
            if waited > self.patience + 2 * self._settings.dead_after:
                raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
            await anyio.sleep(RETRY_SECONDS)

    async def _is_same_store(self, runner: FenceRunner) -> bool:
        """Whether both connections see the same history of the partition."""
        ask = ("HGET", self._part.keys.meta, "lineage")
        ours, theirs = await self._part.executor.command(*ask), await runner.command(*ask)
        return bool(ours == theirs)


async def _sees_lost_writes(runner: FenceRunner) -> None:
    if not runner.server:
        await runner.command("PING")  # the runner may not have connected yet
    if not runner.server:
        raise ConfigurationError(
            "a store that is bound to a session does not learn the run id of its server, so it cannot see lost writes, and an older "
            "owner could write: permit its user INFO (ACL SETUSER <user> +info), or set WITHOUT_INFO=true for the worker"
        )
