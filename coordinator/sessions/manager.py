"""Sessions from their first call to their end: restored or created, kept alive, found by other names, cleaned up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from coordinator.bounds import check_seconds, check_word
from coordinator.clock import in_seconds
from coordinator.errors import InvalidValueError
from coordinator.ids import ulid
from coordinator.sessions.aliases import Alias
from coordinator.sessions.breaker import CircuitBreaker
from coordinator.sessions.errors import (
    CorruptSessionError,
    KeyUnknownError,
    PlaintextRefusedError,
    SessionConflictError,
    SessionExistsError,
    SessionNotFoundError,
)
from coordinator.sessions.guard import Guard, RetryRule
from coordinator.sessions.holder import Holder
from coordinator.sessions.metrics import StoreMetrics
from coordinator.sessions.state import SessionState, SessionStatus, Turn
from coordinator.sessions.store import Replaced, SessionStore
from coordinator.sessions.timestamp import Timestamp
from coordinator.voice import CallState, TurnLatencies
from coordinator.voice.meter import TurnMeter

__all__ = ["Restored", "SessionManager"]

log = structlog.get_logger()

RACES = 5
_UNREADABLE = (CorruptSessionError, KeyUnknownError, PlaintextRefusedError)


@dataclass(frozen=True, slots=True)
class Restored:
    """What `SessionManager.restore_or_create` found or made.

    Attributes:
        state: the session.
        restored: whether it was there; False when it is new.
        age: seconds since its last save or heartbeat when it was there, be it too old; else 0.
        stale: whether it was older than ``max_age``: then it was started anew or, with ``warn``, restored nevertheless.
    """

    state: SessionState
    restored: bool
    age: float = 0.0
    stale: bool = False


class SessionManager:
    """Works with one store, for one program; it does not close the store.

    Args:
        store: where the sessions lie.
        max_sessions: most sessions under way in the store, of all programs together; 0 for any number.
        max_age: seconds since the last sign of life after which a session is stale; None for never.
        stale: ``new`` starts a stale session anew, its history is gone then; ``warn`` restores it and logs a warning.
        retention: seconds that a finished session stays; None for the store's expiry, 0 deletes it at once.
        retry: how a store that does not answer is asked again.
        breaker: the circuit breaker that stops asking it; None for none.
        metrics: where operations and turns are counted.
        now: the clock for ages.

    Raises:
        InvalidValueError: a number or a word that breaks its rule.

    Its methods raise `StoreUnavailableError` when the store has not answered after all retries; each is safe to repeat.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        max_sessions: int = 0,
        max_age: float | None = None,
        stale: Literal["new", "warn"] = "new",
        retention: float | None = None,
        retry: RetryRule | None = None,
        breaker: CircuitBreaker | None = None,
        metrics: StoreMetrics | None = None,
        now: Callable[[], Timestamp] = Timestamp.now,
    ) -> None:
        for name, seconds in (("max_age", max_age), ("retention", retention)):
            if seconds is not None:
                check_seconds(name, seconds)
        check_word("stale", stale, ("new", "warn"))
        if not isinstance(max_sessions, int) or max_sessions < 0:
            raise InvalidValueError("max_sessions", max_sessions, "a whole number from 0")
        self.store = store
        self._max_sessions, self._max_age, self._stale, self._retention = max_sessions, max_age, stale, retention
        self._metrics, self._now = metrics, now
        self._guard = Guard(retry or RetryRule(), breaker, metrics)
        self._meter = TurnMeter(None if metrics is None else metrics.voice)

    def fenced(self, session: Holder) -> SessionManager:
        """This manager over its store as the owner of a session may use it; raises what `SessionStore.fenced` does.

        Circuit, metrics and rules are shared.
        """
        bound = copy.copy(self)
        bound.store = self.store.fenced(session)
        return bound

    async def create(self, state: SessionState) -> None:
        """Stores a new session.

        Raises:
            SessionExistsError: its id is taken.
            SessionLimitError: ``max_sessions`` are under way.
        """
        await self._guard.run("create", lambda: self.store.create(state, limit=self._max_sessions))

    async def load(self, session_id: str) -> SessionState:
        """Reads a session; raises what `SessionStore.load` does."""
        return await self._guard.run("load", lambda: self.store.load(session_id))

    async def save(self, state: SessionState, *, force: bool = False) -> None:
        """Writes a session; raises what `SessionStore.save` does."""
        await self._guard.run("save", lambda: self.store.save(state, force=force))

    async def heartbeat(self, session_id: str) -> None:
        """Says that a session is under way; raises what `SessionStore.update_heartbeat` does."""
        await self._guard.run("heartbeat", lambda: self.store.update_heartbeat(session_id))

    def record_turn(
        self,
        state: SessionState,
        role: str,
        content: str,
        duration_ms: int,
        latencies: TurnLatencies | None = None,
        *,
        attributes: Mapping[str, str | int] | None = None,
    ) -> Turn:
        """Appends what was just spoken (see `SessionState.add_turn`), and records how long it took to come.

        Latencies go into a span ``voice.turn``, the histogram ``recovery_voice_turn_latency_seconds`` and the totals of the
        state. Nothing is saved: `save` does that.

        Args:
            latencies: as far as they are known.
            attributes: of the span besides. The session's id is not among them by itself: it may be a telephone number.
        """
        turn = state.add_turn(role, content, duration_ms, latencies)
        if latencies is not None:
            self._meter.record(latencies, speech=in_seconds(duration_ms), attributes=attributes)
        return turn

    def record_latencies(
        self, state: SessionState, latencies: TurnLatencies, *, attributes: Mapping[str, str | int] | None = None
    ) -> None:
        """As `record_turn`, for latencies that become known when their turn was appended already, or will be later."""
        state.metrics.latencies.add(latencies)
        self._meter.record(latencies, attributes=attributes)

    async def restore_or_create(
        self,
        key: str | Alias,
        new: Callable[[str], SessionState] = SessionState,
        *,
        max_age: float | None = None,
        stale: Literal["new", "warn"] | None = None,
    ) -> Restored:
        """The session of an id or alias, or a new one where there is none, it has ended, or is too old.

        Only the store's answer that there is none leads to a new session. An error is raised, so that no conversation counts as lost
        because the store was away for a moment. Two programs that ask at once get the same session by id; by alias the later one
        binds it. A session that is restored is ``connected``, since its caller is on the line again; ``progress.interrupted`` says
        what its last worker did not bring to an end.

        Args:
            key: a session id, or an alias; a new session of an alias gets a new id.
            new: makes the state of a new session from its id.
            max_age, stale: as for the manager, for this call.

        Raises:
            KeyUnknownError: the session is sealed with a key that this program lacks.
            CorruptSessionError, PlaintextRefusedError: the session exists and cannot be read.
            SessionLimitError: a new session would be one too many.
            SessionConflictError: other programs wrote it again and again meanwhile.
        """
        if isinstance(key, str):
            return await self._restore_or_create(key, new, max_age, stale)
        session_id = await self.resolve(key) or ulid()
        done = await self._restore_or_create(session_id, new, max_age, stale)
        await self.bind(key, done.state.id)  # each time, so that it expires no sooner than the session
        return done

    async def _restore_or_create(
        self,
        session_id: str,
        new: Callable[[str], SessionState],
        max_age: float | None,
        stale: Literal["new", "warn"] | None,
    ) -> Restored:
        most = self._max_age if max_age is None else max_age
        for _ in range(RACES):
            try:
                found = await self.load(session_id)
            except SessionNotFoundError:
                state = new(session_id)
                try:
                    await self.create(state)
                except SessionExistsError:
                    continue  # another program was faster
                self._count("miss")
                return Restored(state, restored=False)
            age = max(0.0, (self._now().ns - found.updated_at.ns) / 1e9)
            too_old = most is not None and age > most
            if not found.ended and (not too_old or (stale or self._stale) == "warn"):
                if too_old:
                    log.warning(
                        "stale_session_restored", session=session_id, age_seconds=round(age, 3), max_age_seconds=most
                    )
                found.progress = found.progress.called_again()
                self._count("stale" if too_old else "hit")
                return Restored(found, restored=True, age=age, stale=too_old)
            state = new(session_id)
            if await self._replace(found, state, limit=self._max_sessions) != "changed":
                self._count("ended" if found.ended else "stale")
                return Restored(state, restored=False, age=age, stale=too_old and not found.ended)
        raise SessionConflictError(session_id, gone=False)

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.restores.labels(outcome).inc()

    async def _replace(
        self, old: SessionState, new: SessionState, ttl: float | None = None, limit: int = 0
    ) -> Replaced:
        return await self._guard.run("replace", lambda: self.store.replace(old, new, ttl=ttl, limit=limit))

    async def finish(
        self, state: SessionState, status: str = SessionStatus.ENDED, *, retention: float | None = None
    ) -> None:
        """The final save: the session has ended, its call is ``disconnected``, and it stays for ``retention`` seconds.

        Args:
            state: as it was in the end.
            status: ``ended`` or ``failed``.
            retention: as for the manager; 0 deletes it.

        Raises:
            SessionConflictError: another writer changed it; load it, or save it with ``force``, and finish again.
            InvalidValueError: ``retention`` is not a number of seconds; nothing was written.
        """
        keep = self._retention if retention is None else check_seconds("retention", retention)
        state.status = status
        state.progress.move_to(CallState.DISCONNECTED)
        await self._guard.run("save", lambda: self.store.save(state, ttl=keep or None))
        if keep == 0:
            await self.delete(state.id)

    async def delete(self, session_id: str) -> None:
        """Removes a session; it being gone already is fine."""
        try:
            await self._guard.run("delete", lambda: self.store.delete(session_id))
        except SessionNotFoundError:
            return

    async def cleanup_idle(self, idle_timeout: float) -> int:
        """Ends every session under way that had no save and no heartbeat for ``idle_timeout`` seconds; returns how many.

        Their ``updated_at`` stays, so that their duration ends with their last sign of life. What cannot be read is left alone and
        logged. Any number of programs may do this at the same time; each session is counted by one of them at most:
        by none when the store's answer to its end was lost.
        """
        count = 0
        for session_id in await self._guard.run("list", self.store.list_active):
            try:
                state = await self.load(session_id)
            except SessionNotFoundError:
                continue
            except _UNREADABLE as error:
                log.warning("session_not_cleaned_up", session=session_id, reason=type(error).__name__)
                continue
            if (self._now().ns - state.updated_at.ns) / 1e9 > idle_timeout and not state.ended:
                ended = copy.copy(state)
                ended.status = SessionStatus.ENDED
                count += await self._replace(state, ended, self._retention or None) == "written"
        return count

    async def bind(self, alias: Alias, session_id: str) -> None:
        """Lets an alias stand for a session."""
        await self._guard.run("bind", lambda: self.store.bind(alias, session_id))

    async def resolve(self, alias: Alias) -> str | None:
        """The session id of an alias, None for none."""
        return await self._guard.run("resolve", lambda: self.store.resolve(alias))
