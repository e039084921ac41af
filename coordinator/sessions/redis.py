"""A store in Redis that omnivoice-core v0.15.0 reads and writes too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import redis.asyncio as aredis
from redis.crc import key_slot

from coordinator.clock import in_ms
from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.eventloop import check_event_loop
from coordinator.keyring import KeySource
from coordinator.sessions import calls
from coordinator.sessions.backed import DAY, BackedStore, FencedStore
from coordinator.sessions.errors import CorruptSessionError
from coordinator.sessions.holder import Holder, check_binding, check_same
from coordinator.sessions.keys import DEFAULT_PREFIX, SessionKeys
from coordinator.sessions.rights import check_store_rights
from coordinator.sessions.runner import ClientRunner, Runner
from coordinator.sessions.sealing import Codec
from coordinator.sessions.timestamp import Timestamp
from coordinator.store.connect import Connector
from coordinator.store.fence import NO_FENCE, Fence
from coordinator.store.scripts import R, ScriptCall
from coordinator.store.url import parse_url

__all__ = ["RedisStore"]

PAGE = 1000
BATCH = 100
_GLOB = re.compile(r"([*?\[\]\\^])")


def _kept_for(seconds: float) -> float:
    """0 means for ever in Redis, so what is to expire at once has a millisecond."""
    return max(0.001, seconds) if seconds > 0 else 0


def _wrong_type(error: StoreUnavailableError) -> bool:
    return error.kind == "other" and "WRONGTYPE" in error.detail


class _Redis:
    """Runs the scripts; see `coordinator.sessions.backend.Backend`."""

    def __init__(self, runner: Runner, keys: SessionKeys, connector: Connector | None) -> None:
        self._runner, self._keys, self._connector = runner, keys, connector

    async def get(self, session_id: str) -> bytes | None:
        try:
            value: bytes | None = await self._runner.command("GET", self._keys.session(session_id))
        except StoreUnavailableError as error:
            if _wrong_type(error):
                detail = "its key holds another type of Redis than a string"
                raise CorruptSessionError(session_id, detail) from error
            raise
        return value

    async def _write(self, session_id: str, make: Callable[[Fence], ScriptCall[R]]) -> R:
        """Runs a script that changes a session."""
        return await self._runner.run(make(NO_FENCE))

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
        answer = await self._write(
            session_id,
            lambda fence: calls.save(
                self._keys, session=session_id, value=value, ttl=_kept_for(ttl), listed=listed, expected=expected,
                version=version, seen=seen, limit=limit, fence=fence,
            ),
        )  # fmt: skip
        return answer.word

    async def create(self, session_id: str, value: bytes, ttl: float, listed: bool, version: str, limit: int) -> str:
        answer = await self._write(
            session_id,
            lambda fence: calls.create(
                self._keys, session=session_id, value=value, ttl=_kept_for(ttl), listed=listed, version=version, limit=limit,
                fence=fence,
            ),
        )  # fmt: skip
        return answer.word

    async def delete(self, session_id: str) -> str:
        answer = await self._write(session_id, lambda fence: calls.delete(self._keys, session=session_id, fence=fence))
        return answer.word

    async def beat(self, session_id: str, updated_at: str, ttl: float) -> tuple[str, str]:
        answer = await self._write(
            session_id,
            lambda fence: calls.heartbeat(
                self._keys, session=session_id, updated_at=updated_at, ttl=_kept_for(ttl), fence=fence
            ),
        )
        return answer.word, answer.status if isinstance(answer, calls.Ended) else ""

    async def active(self) -> list[str] | None:
        found: dict[str, None] = {}
        cursor: Any = b"0"
        while True:
            try:
                cursor, page = await self._runner.command("SSCAN", self._keys.active, cursor, "COUNT", PAGE)
            except StoreUnavailableError as error:
                if _wrong_type(error):
                    return None
                raise
            ids = [raw.decode(errors="replace") for raw in page]
            batches = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]
            answers = await self._runner.run_many([calls.living(self._keys, sessions=batch) for batch in batches])
            for batch, answer in zip(batches, answers, strict=True):
                if isinstance(answer, calls.Clash):
                    return None
                found |= {i: None for i, digit in zip(batch, answer.living, strict=True) if digit == "1"}
            if cursor in (b"0", 0):
                return list(found)

    async def set_alias(self, token: str, session_id: str, ttl: float) -> None:
        expiry: tuple[str | int, ...] = ("PX", in_ms(_kept_for(ttl))) if ttl > 0 else ()
        await self._runner.command("SET", self._keys.alias(token), session_id, *expiry)

    async def get_alias(self, token: str) -> str | None:
        value: bytes | None = await self._runner.command("GET", self._keys.alias(token))
        return None if value is None else value.decode()

    async def drop_alias(self, token: str) -> None:
        await self._runner.command("DEL", self._keys.alias(token))

    async def count(self) -> int:
        pattern = _GLOB.sub(r"\\\1", self._keys.sessions) + "*"
        found: set[bytes] = set()
        cursor: Any = b"0"
        while True:
            cursor, keys = await self._runner.command("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)
            found.update(keys)
            if cursor in (b"0", 0):
                return len(found - {self._keys.active.encode()})

    async def ping(self) -> None:
        await self._runner.command("PING")

    async def aclose(self) -> None:
        if self._connector is not None:
            await self._connector.aclose()


class _FencedRedis(_Redis):
    """The same connection, bound to a session: each write asks in its script whether that is still the writer's."""

    def __init__(self, runner: Runner, keys: SessionKeys, holder: Holder) -> None:
        super().__init__(runner, keys, None)
        self._holder = holder

    async def _write(self, session_id: str, make: Callable[[Fence], ScriptCall[R]]) -> R:
        check_same(session_id, self._holder)
        return await self._holder.fenced(make, self._runner)


class RedisStore(BackedStore):
    """Sessions in Redis or Valkey (6.2 or newer), under omnivoice-core's keys and in its JSON.

    Args:
        where: a URL (every form of REDIS_URL), what returns it (asked again for each connection), or a client of
            ``redis.asyncio``, which stays the caller's to close.
        prefix: what keys begin with. In a cluster it needs a hash tag, as in ``{voice}:``.
        ttl: seconds until a session expires after its last save or heartbeat, 0 for never.
        tenant: the tenant of the sessions: their keys are apart from those of all other tenants.
        keys: seals the sessions; then only programs with these keys can read them.
        accept_plaintext: with keys, whether unsealed sessions are read too.
        store_timeout: seconds without any movement of bytes after which a request fails (with a URL).
        now: the clock for ``updated_at``.

    Raises:
        ConfigurationError: the URL, the prefix, the tenant's name or the client does not fit.
    """

    def __init__(
        self,
        where: str | Callable[[], str] | aredis.Redis | aredis.RedisCluster,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: float = DAY,
        tenant: str = "",
        keys: KeySource | None = None,
        accept_plaintext: bool = False,
        store_timeout: float = 2.0,
        now: Callable[[], Timestamp] = Timestamp.now,
    ) -> None:
        names = SessionKeys(prefix, tenant)
        runner: Runner
        if isinstance(where, aredis.Redis | aredis.RedisCluster):
            cluster, connector = isinstance(where, aredis.RedisCluster), None
            runner = ClientRunner(where, names.active)
        else:
            cluster = parse_url(where if isinstance(where, str) else where()).kind == "cluster"
            connector = Connector(where, store_timeout=store_timeout)
            runner = connector.executor(names.active)
        if cluster and not re.search(r"\{[^}]+\}", names.sessions):
            raise ConfigurationError(
                f"a cluster needs a prefix with a hash tag, as in '{{voice}}:', so that a session and the active set share a slot; "
                f"{prefix!r} has none"
            )
        self.keys = names
        self._runner, self._cluster, self._has_url = runner, cluster, connector is not None
        super().__init__(
            "redis",
            _Redis(runner, names, connector),
            Codec(tenant, keys, accept_plaintext=accept_plaintext),
            ttl=ttl,
            now=now,
        )

    async def __aenter__(self) -> Self:
        """Looks at the rights of its Redis user, where it connects by itself and the store answers.

        Raises:
            ConfigurationError: a right is missing, or the event loop is not supported.
        """
        check_event_loop("RedisStore")
        if self._has_url:
            try:
                await check_store_rights(self._runner, self.keys)
            except StoreUnavailableError:
                pass  # the first operation finds that out, and waits as its caller likes
            except BaseException:
                await self.close()
                raise
        return await super().__aenter__()

    def fenced(self, session: Holder) -> FencedStore:  # noqa: D102 - described in `SessionStore`
        if not self._has_url:
            raise ConfigurationError(
                "a store over a client of the program cannot be bound to a session: only a connection of its own knows to which "
                "server it talks, which must be known to refuse safely after a failover; give the store the URL"
            )
        check_binding(self.keys, self.tenant, session)
        theirs = session.fence.keys
        if self._cluster and key_slot(self.keys.active.encode()) != key_slot(theirs.meta.encode()):
            raise ConfigurationError(
                f"on a cluster a store that is bound to a session of this partition needs its hash tag, as in the prefix "
                f"'{theirs.tag}:voice:', so that one script sees the session and its owner; {self.keys.prefix!r} is in another slot"
            )
        return FencedStore(self, _FencedRedis(self._runner, self.keys, session))
