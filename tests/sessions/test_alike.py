"""Both stores give the same answers to whatever is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.errors import CoordinatorError
from coordinator.sessions import KeyRing, MemoryStore, RedisStore, SessionState, SessionStore, Timestamp
from tests.redis_server import RedisServer

IDS = ("s1", "s2")
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "save",
                "force",
                "create",
                "load",
                "delete",
                "beat",
                "end",
                "fail",
                "turn",
                "new",
                "replace",
                "list",
                "count",
            ]
        ),
        st.integers(0, 2),
        st.sampled_from(IDS),
    ),
    max_size=30,
)


def _clock() -> Iterator[Timestamp]:
    at = Timestamp("2026-07-19T12:00:00Z").ns
    while True:
        at += 1_000_000
        yield Timestamp.from_ns(at)


class Actors:
    """Three programs that share a store, each with a state in its hands."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.states = [self.make("s1", who) for who in range(3)]

    def make(self, session_id: str, who: int) -> SessionState:
        at = Timestamp("2026-07-19T12:00:00Z")
        return SessionState(session_id, at, at, provider=f"p{who}")

    async def do(self, operation: str, who: int, session_id: str) -> Any:
        state, store = self.states[who], self.store
        match operation:
            case "save" | "force":
                await store.save(state, force=operation == "force")
            case "create":
                await store.create(state, limit=1)
            case "load":
                self.states[who] = await store.load(session_id)
                return self.states[who]
            case "delete":
                await store.delete(session_id)
            case "beat":
                await store.update_heartbeat(session_id)
            case "end" | "fail":
                state.status = f"{operation}ed"
            case "turn":
                state.recovery_data["turns"] = state.recovery_data.get("turns", 0) + 1
            case "new":
                self.states[who] = self.make(session_id, who)
            case "replace":
                return await store.replace(await store.load(session_id), self.make(session_id, who), limit=1)
            case "list":
                return sorted(await store.list_active())
            case _:
                return await store.count()
        return None

    async def answers(self, operations: list[tuple[str, int, str]]) -> list[str]:
        said = []
        for operation in operations:
            try:
                answer = await self.do(*operation)
                shown = vars_of(answer) if isinstance(answer, SessionState) else answer
                said.append(f"{operation}: {shown}")
            except CoordinatorError as error:
                said.append(f"{operation}: {error!r}")
        return said


def vars_of(state: SessionState) -> tuple[object, ...]:
    return state.id, state.status, state.provider, state.updated_at.text, state.recovery_data


async def _both(url: str, keys: KeyRing | None, operations: list[tuple[str, int, str]]) -> tuple[list[str], list[str]]:
    one, two = _clock(), _clock()
    async with (
        MemoryStore(keys=keys, now=lambda: next(one)) as memory,
        RedisStore(url, keys=keys, now=lambda: next(two)) as stored,
    ):
        return await Actors(memory).answers(operations), await Actors(stored).answers(operations)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS, st.booleans())
def test_memory_and_redis_answer_alike(
    redis_server: RedisServer, db: redis.Redis, ring: KeyRing, operations: list[tuple[str, int, str]], sealed: bool
) -> None:
    """Whatever three programs do to a session, in whatever order, the memory store says what Redis says."""
    db.flushall()
    memory, stored = asyncio.run(_both(redis_server.url, ring if sealed else None, operations))
    assert memory == stored
