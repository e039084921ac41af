"""What only the memory store can show: expiry by a clock that a test moves."""

from __future__ import annotations

import pytest

from coordinator.sessions import Alias, MemoryStore, SessionConflictError, SessionNotFoundError, SessionState


async def test_sessions_and_aliases_expire() -> None:
    """After its expiry a session is neither found, listed nor counted, and takes no place; a heartbeat puts that off."""
    seconds = [0.0]
    async with MemoryStore(ttl=60, clock=lambda: seconds[0]) as store:
        state = SessionState("s1")
        await store.create(state, limit=1)
        await store.bind(Alias.phone("+15551234567"), "s1")
        seconds[0] = 59
        await store.update_heartbeat("s1")
        seconds[0] = 118
        assert await store.list_active() == ["s1"]
        assert await store.resolve(Alias.phone("+15551234567")) is None
        seconds[0] = 119
        for call in (store.load("s1"), store.update_heartbeat("s1")):
            with pytest.raises(SessionNotFoundError):
                await call
        with pytest.raises(SessionConflictError, match="expired"):
            await store.save(state)
        assert (await store.list_active(), await store.count()) == ([], 0)
        await store.create(SessionState("s2"), limit=1)
        seconds[0] = 300
        await store.create(SessionState("s3"), limit=1)
        assert await store.list_active() == ["s3"]


async def test_sessions_stay_without_an_expiry() -> None:
    """By default a memory store keeps its sessions until they are deleted, as omnivoice-core's does."""
    seconds = [0.0]
    async with MemoryStore(clock=lambda: seconds[0]) as store:
        await store.save(SessionState("s1"))
        seconds[0] = 1e9
        assert await store.list_active() == ["s1"]
