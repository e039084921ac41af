"""What the store has of a session, as tests ask for it."""

from __future__ import annotations

from typing import Any

import redis

from coordinator.store.keys import Keys

__all__ = ["state"]

KEYS = Keys("recovery", 0)


def state(client: redis.Redis, session: str) -> str:
    """The stored state, '' without a record."""
    found: Any = client.hget(KEYS.session(session), "state")
    return (found or b"").decode()
