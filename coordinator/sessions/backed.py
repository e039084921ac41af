"""The behaviour that all stores share, whatever backend keeps the bytes."""
# ruff: noqa: D102 - the methods are described in `SessionStore`

from __future__ import annotations

import abc
from collections.abc import Callable

from coordinator.bounds import check_seconds
from coordinator.sessions.aliases import Alias, tokens
from coordinator.sessions.backend import Backend
from coordinator.sessions.errors import (
    CorruptSessionError,
    InvalidStateError,
    SessionConflictError,
    SessionEndedError,
    SessionExistsError,
    SessionLimitError,
    SessionNotFoundError,
    StoreClosedError,
    TenantError,
)
from coordinator.sessions.holder import Holder
from coordinator.sessions.keys import check_id
from coordinator.sessions.sealing import Codec
from coordinator.sessions.state import Origin, SessionState
from coordinator.sessions.store import Replaced, SessionStore
from coordinator.sessions.timestamp import Timestamp

__all__ = ["DAY", "BackedStore", "FencedStore"]

DAY = 86400.0
ODD_ATTEMPTS = 5
_HELD_BY_ANOTHER_TYPE = "its key holds another type of Redis than a string: another program uses the prefix"
_CLASH = (
    "the key of the active set is not a set: a program stored a session of that id under this prefix. Delete the key; "
    "each session comes back into the set with its next save or heartbeat"
)


class BackedStore(SessionStore):
    """A store over a `Backend`.

    Args:
        kind: its name.
        backend: where the bytes lie.
        codec: between states and bytes.
        ttl: seconds until a session expires after its last save or heartbeat, 0 for never.
        now: the clock for ``updated_at``.

    Raises:
        InvalidValueError: ``ttl`` is not a number of seconds.
    """

    def __init__(
        self,
        kind: str,
        backend: Backend,
        codec: Codec,
        *,
        ttl: float = DAY,
        now: Callable[[], Timestamp] = Timestamp.now,
    ) -> None:
        check_seconds("ttl", ttl)
        self._kind, self._backend, self._codec, self._ttl, self._now = kind, backend, codec, ttl, now
        self._closed = False

    @property
    def name(self) -> str:
        return self._kind

    @property
    def tenant(self) -> str:
        """The tenant of these sessions, '' for those without one."""
        return self._codec.tenant

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check(self) -> None:
        if self._closed:
            raise StoreClosedError

    async def save(self, state: SessionState | None, *, force: bool = False, ttl: float | None = None) -> None:
        if state is None:
            return
        self._check()
        check_id(state.id)
        if ttl is not None:
            check_seconds("ttl", ttl)
        if not (state.origin is not None and state.origin.ended and state.ended):
            state.updated_at = self._now()
        expected = "" if force or state.origin is None else state.origin.version
        await self._put(state, expected, "", ttl)

    async def _put(
        self, state: SessionState, expected: str, seen: str, ttl: float | None = None, limit: int = 0
    ) -> str:
        value, origin = self._write(state)
        for prune in (True, False):
            word = await self._backend.put(
                state.id, value, self._ttl if ttl is None else ttl, not state.ended, expected, origin.version, seen, limit
            )  # fmt: skip
            if word != "FULL" or not prune:
                break
            await self.list_active()  # ids of expired sessions take no place
        if word == "FULL":
            raise SessionLimitError(limit)
        if word in ("CONFLICT", "GONE"):
            raise SessionConflictError(state.id, gone=word == "GONE")
        self._fits(state.id, word)
        state.origin = origin
        return word

    def _write(self, state: SessionState, *, first: bool = False) -> tuple[bytes, Origin]:
        if state.origin is not None and state.origin.tenant != self.tenant:
            raise TenantError(state.id)
        return self._codec.write(state, first=first)

    def _fits(self, session_id: str, word: str) -> None:
        if word == "WRONG":
            raise CorruptSessionError(session_id, _HELD_BY_ANOTHER_TYPE)
        if word == "CLASH":
            raise CorruptSessionError("active", _CLASH)

    async def create(self, state: SessionState, *, limit: int = 0) -> None:
        self._check()
        check_id(state.id)
        value, origin = self._write(state, first=True)
        for prune in (True, False):
            word = await self._backend.create(state.id, value, self._ttl, not state.ended, origin.version, limit)
            if word != "FULL" or not prune:
                break
            await self.list_active()  # ids of expired sessions take no place
        if word == "EXISTS":
            raise SessionExistsError(state.id)
        if word == "FULL":
            raise SessionLimitError(limit)
        self._fits(state.id, word)
        state.origin = origin

    async def load(self, session_id: str) -> SessionState:
        self._check()
        check_id(session_id)
        value = await self._backend.get(session_id)
        if value is None:
            raise SessionNotFoundError(session_id)
        return self._codec.read(session_id, value)

    async def delete(self, session_id: str) -> None:
        self._check()
        check_id(session_id)
        if await self._backend.delete(session_id) == "GONE":
            raise SessionNotFoundError(session_id)

    async def list_active(self) -> list[str]:
        self._check()
        ids = await self._backend.active()
        if ids is None:
            raise CorruptSessionError("active", _CLASH)
        return ids

    async def update_heartbeat(self, session_id: str) -> None:
        self._check()
        check_id(session_id)
        word, status = await self._backend.beat(session_id, self._now().text, self._ttl)
        if word == "ODD":
            await self._beat_odd(session_id)
        if word == "GONE":
            raise SessionNotFoundError(session_id)
        if word == "ENDED":
            raise SessionEndedError(session_id, status)
        self._fits(session_id, word)

    async def _beat_odd(self, session_id: str) -> None:
        """A session that neither Go nor this package wrote: its fields stand in another order, so it is written anew."""
        for attempt in range(1, ODD_ATTEMPTS + 1):
            state = await self.load(session_id)
            if state.ended:
                raise SessionEndedError(session_id, state.status)
            try:
                await self.save(state)
            except SessionConflictError as error:
                if error.gone:
                    raise SessionNotFoundError(session_id) from None
                if attempt == ODD_ATTEMPTS:
                    raise
            else:
                return

    async def replace(
        self, old: SessionState, new: SessionState, *, ttl: float | None = None, limit: int = 0
    ) -> Replaced:
        self._check()
        check_id(new.id)
        if old.origin is None or old.id != new.id:
            raise InvalidStateError("the state to be replaced must be a loaded one of the same id")
        new.origin = old.origin
        try:
            word = await self._put(new, old.origin.version, old.updated_at.text, ttl, limit)
        except SessionConflictError:
            return "changed"
        return "same" if word == "SAME" else "written"

    @abc.abstractmethod
    def fenced(self, session: Holder) -> FencedStore: ...

    def _tokens(self, alias: Alias) -> list[str]:
        return tokens(alias, self.tenant, self._codec.ring)

    async def bind(self, alias: Alias, session_id: str) -> None:
        self._check()
        await self._backend.set_alias(self._tokens(alias)[0], check_id(session_id), self._ttl)

    async def resolve(self, alias: Alias) -> str | None:
        self._check()
        for token in self._tokens(alias):
            if (session_id := await self._backend.get_alias(token)) is not None:
                return session_id
        return None

    async def unbind(self, alias: Alias) -> None:
        self._check()
        for token in self._tokens(alias):
            await self._backend.drop_alias(token)

    async def count(self) -> int:
        self._check()
        return await self._backend.count()

    async def ping(self) -> None:
        self._check()
        await self._backend.ping()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._backend.aclose()


class FencedStore(BackedStore):
    """A store as one worker may use it for one session; see `SessionStore.fenced`. It shares the connection of what it views.

    Args:
        store: whose sessions they are.
        backend: its own, asking for the right to write.
    """

    def __init__(self, store: BackedStore, backend: Backend) -> None:
        super().__init__(store._kind, backend, store._codec, ttl=store._ttl, now=store._now)
        self._store = store

    def _check(self) -> None:
        super()._check()
        self._store._check()

    def fenced(self, session: Holder) -> FencedStore:
        return self._store.fenced(session)
