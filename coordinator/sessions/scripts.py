"""One function a script: names, types and order of its keys and arguments. Times are whole milliseconds; what a script answers
stands in the header of its ``.lua`` file.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.sessions.keys import SessionKeys
from coordinator.store.scripts import Call, load_scripts

__all__ = ["SCRIPTS", "create", "delete", "heartbeat", "living", "save"]

SCRIPTS = load_scripts("coordinator.sessions")


def _both(k: SessionKeys, session_id: str) -> dict[str, str]:
    return {"session": k.session(session_id), "active": k.active}


def save(
    k: SessionKeys, *, session: str, value: bytes, ttl_ms: int, listed: bool, expected: str, version: str, seen: str
) -> Call:
    """Writes a session and its place in the active set."""
    return SCRIPTS["save"].call(
        _both(k, session),
        {
            "id": session,
            "value": value,
            "ttl_ms": ttl_ms,
            "listed": int(listed),
            "expected": expected,
            "version": version,
            "seen": seen,
        },
    )


def create(k: SessionKeys, *, session: str, value: bytes, ttl_ms: int, listed: bool, version: str, limit: int) -> Call:
    """Writes a session that must not be there yet."""
    return SCRIPTS["create"].call(
        _both(k, session),
        {"id": session, "value": value, "ttl_ms": ttl_ms, "listed": int(listed), "version": version, "limit": limit},
    )


def delete(k: SessionKeys, *, session: str) -> Call:
    """Removes a session, or what is left of it."""
    return SCRIPTS["delete"].call(_both(k, session), {"id": session})


def heartbeat(k: SessionKeys, *, session: str, updated_at: str, ttl_ms: int) -> Call:
    """Moves a session's ``updated_at`` and its expiry."""
    return SCRIPTS["heartbeat"].call(_both(k, session), {"id": session, "updated_at": updated_at, "ttl_ms": ttl_ms})


def living(k: SessionKeys, *, sessions: Sequence[str]) -> Call:
    """Which of these are under way; removes the others from the active set."""
    return SCRIPTS["living"].call({"active": k.active}, {}, [k.session(s) for s in sessions], list(sessions))
