"""What a backend must be able to do: it keeps a store's bytes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Backend"]


class Backend(Protocol):
    """Where the bytes lie. Answers are words of the scripts' headers (``lua/*.lua``); times in seconds."""

    async def get(self, session_id: str) -> bytes | None:
        """The stored bytes; raises `CorruptSessionError` where the key has another type."""

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
        """As ``save.lua``."""

    async def create(self, session_id: str, value: bytes, ttl: float, listed: bool, version: str, limit: int) -> str:
        """As ``create.lua``."""

    async def delete(self, session_id: str) -> str:
        """As ``delete.lua``."""

    async def beat(self, session_id: str, updated_at: str, ttl: float) -> tuple[str, str]:
        """As ``heartbeat.lua``: the word, and the status with ``ENDED``."""

    async def active(self) -> list[str] | None:
        """Ids under way, others removed; None where the index has a wrong type."""

    async def set_alias(self, token: str, session_id: str, ttl: float) -> None:
        """Binds."""

    async def get_alias(self, token: str) -> str | None:
        """Resolves."""

    async def drop_alias(self, token: str) -> None:
        """Unbinds."""

    async def count(self) -> int:
        """Stored sessions."""

    async def ping(self) -> None:
        """Returns when it answers."""

    async def aclose(self) -> None:
        """Lets go of connections and data."""
