"""A store in this process's memory: for tests, for trying out, and for a worker whose sessions no other worker reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator import clock as own_clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.keyring import KeySource
from coordinator.sessions.backed import BackedStore, FencedStore
from coordinator.sessions.errors import TenantError
from coordinator.sessions.header import read_header, version_of
from coordinator.sessions.holder import Holder, check_same
from coordinator.sessions.keys import check_tenant
from coordinator.sessions.sealing import Codec
from coordinator.sessions.timestamp import Timestamp

__all__ = ["MemoryStore"]

_ENDED = (b"ended", b"failed")


class _Memory:
    """Does to dictionaries what the scripts do to Redis; it never waits, so each of its methods is one change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float]] = {}
        self._active: set[str] = set()
        self._aliases: dict[str, tuple[str, float]] = {}

    def _until(self, ttl: float) -> float:
        return self._clock() + ttl if ttl > 0 else float("inf")

    def _write(self, session_id: str, value: bytes, ttl: float, listed: bool) -> str:
        self._values[session_id] = value, self._until(ttl)
        (self._active.add if listed else self._active.discard)(session_id)
        return "OK"

    async def get(self, session_id: str) -> bytes | None:
        value, until = self._values.get(session_id, (None, 0.0))
        if value is not None and until <= self._clock():
            del self._values[session_id]
            return None
        return value

    def _full(self, session_id: str, listed: bool, limit: int) -> bool:
        return listed and limit > 0 and session_id not in self._active and len(self._active) >= limit

    async def put(
        self,
        session_id: str,
        value: bytes,
        ttl: float,
        listed: bool,
        expected: str,
        version: str,
        seen: str,
        limit: int,
    ) -> str:
        if expected:
            stored = await self.get(session_id)
            if stored is None:
                return "GONE"
            now = version_of(stored)
            if now not in (expected, version):
                return "CONFLICT"
            if now != expected:
                self._write(session_id, value, ttl, listed)
                return "SAME"
            header = read_header(stored)
            if seen and header is not None and stored[slice(*header.updated_at)] != seen.encode():
                return "CONFLICT"
        if self._full(session_id, listed, limit):
            return "FULL"
        return self._write(session_id, value, ttl, listed)

    async def create(self, session_id: str, value: bytes, ttl: float, listed: bool, version: str, limit: int) -> str:
        stored = await self.get(session_id)
        if stored is not None:
            return "OK" if version_of(stored) == version else "EXISTS"
        if self._full(session_id, listed, limit):
            return "FULL"
        return self._write(session_id, value, ttl, listed)

    async def delete(self, session_id: str) -> str:
        there = await self.get(session_id) is not None or session_id in self._active
        self._values.pop(session_id, None)
        self._active.discard(session_id)
        return "OK" if there else "GONE"

    async def beat(self, session_id: str, updated_at: str, ttl: float) -> tuple[str, str]:
        stored = await self.get(session_id)
        if stored is None:
            self._active.discard(session_id)
            return "GONE", ""
        header = read_header(stored)
        if header is None:
            return "ODD", ""
        if header.status in _ENDED:
            return "ENDED", header.status.decode()
        start, end = header.updated_at
        return self._write(session_id, stored[:start] + updated_at.encode() + stored[end:], ttl, True), ""

    async def active(self) -> list[str] | None:
        for session_id in list(self._active):
            if await self.get(session_id) is None:
                self._active.discard(session_id)
        return list(self._active)

    async def set_alias(self, token: str, session_id: str, ttl: float) -> None:
        self._aliases[token] = session_id, self._until(ttl)

    async def get_alias(self, token: str) -> str | None:
        session_id, until = self._aliases.get(token, (None, 0.0))
        return session_id if until > self._clock() else None

    async def drop_alias(self, token: str) -> None:
        self._aliases.pop(token, None)

    async def count(self) -> int:
        return sum([await self.get(session_id) is not None for session_id in list(self._values)])

    async def ping(self) -> None:
        """Does nothing: the memory always answers."""

    async def aclose(self) -> None:
        self._values.clear()
        self._active.clear()
        self._aliases.clear()


class _FencedMemory(_Memory):
    """The same dictionaries, bound to a session. They are this process's own, so what the session knows of itself decides."""

    def __init__(self, memory: _Memory, holder: Holder) -> None:
        self.__dict__.update(memory.__dict__)
        self._holder = holder

    def _ask(self, session_id: str) -> None:
        check_same(session_id, self._holder)
        if self._holder.held:
            return
        if self._holder.lost.is_set():
            raise FencedError(session_id, self._holder.fence.epoch, "another worker has it")
        raise StoreUnavailableError("try_again", f"session {session_id!r} is in doubt, or was closed or given up here")

    async def put(self, session_id: str, *args: Any) -> str:
        self._ask(session_id)
        return await super().put(session_id, *args)

    async def create(self, session_id: str, *args: Any) -> str:
        self._ask(session_id)
        return await super().create(session_id, *args)

    async def beat(self, session_id: str, *args: Any) -> tuple[str, str]:
        self._ask(session_id)
        return await super().beat(session_id, *args)

    async def delete(self, session_id: str) -> str:
        self._ask(session_id)
        return await super().delete(session_id)

    async def aclose(self) -> None:
        """What is stored stays with the store that is bound."""


class MemoryStore(BackedStore):
    """Sessions in this process's memory, with everything that `RedisStore` does but outliving the process.

    Args:
        ttl: seconds until a session expires, 0 for never: the default here, as in omnivoice-core.
        tenant: whose sessions they are.
        keys: seals them; the tests of a program can so run as it does in service.
        accept_plaintext: with keys, whether unsealed sessions are read too.
        now: the clock for ``updated_at``.
        clock: seconds, for expiry.
    """

    def __init__(
        self,
        *,
        ttl: float = 0,
        tenant: str = "",
        keys: KeySource | None = None,
        accept_plaintext: bool = False,
        now: Callable[[], Timestamp] = Timestamp.now,
        clock: Callable[[], float] = own_clock.now,
    ) -> None:
        codec = Codec(tenant and check_tenant(tenant), keys, accept_plaintext=accept_plaintext)
        self._memory = _Memory(clock)
        super().__init__("memory", self._memory, codec, ttl=ttl, now=now)

    def fenced(self, session: Holder) -> FencedStore:  # noqa: D102 - described in `SessionStore`
        if self.tenant and session.tenant and self.tenant != session.tenant:
            raise TenantError(session.id)
        return FencedStore(self, _FencedMemory(self._memory, session))
