"""One function a script: names, types and order of its keys and arguments. Times are whole milliseconds; what a script answers
stands in the header of its ``.lua`` file. With a fence it asks first whether the writer still owns the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.sessions.keys import SessionKeys
from coordinator.store.fence import Fence
from coordinator.store.scripts import Argument, Call, load_scripts

__all__ = ["SCRIPTS", "create", "delete", "heartbeat", "living", "save"]

SCRIPTS = load_scripts("coordinator.sessions")


def _both(k: SessionKeys, session_id: str) -> dict[str, str]:
    return {"session": k.session(session_id), "active": k.active}


def _call(name: str, k: SessionKeys, session_id: str, args: Mapping[str, Argument], fence: Fence | None, /) -> Call:
    if fence is None:
        return SCRIPTS[name].call(_both(k, session_id), args)
    return SCRIPTS[name].call(_both(k, session_id), args, fence.declared, fence.arguments)


def save(
    k: SessionKeys,
    *,
    session: str,
    value: bytes,
    ttl_ms: int,
    listed: bool,
    expected: str,
    version: str,
    seen: str,
    limit: int,
    fence: Fence | None = None,
) -> Call:
    """Writes a session and its place in the active set."""
    return _call(
        "save",
        k,
        session,
        {
            "id": session,
            "value": value,
            "ttl_ms": ttl_ms,
            "listed": int(listed),
            "expected": expected,
            "version": version,
            "seen": seen,
            "limit": limit,
        },
        fence,
    )


def create(
    k: SessionKeys,
    *,
    session: str,
    value: bytes,
    ttl_ms: int,
    listed: bool,
    version: str,
    limit: int,
    fence: Fence | None = None,
) -> Call:
    """Writes a session that must not be there yet."""
    return _call(
        "create",
        k,
        session,
        {"id": session, "value": value, "ttl_ms": ttl_ms, "listed": int(listed), "version": version, "limit": limit},
        fence,
    )


def delete(k: SessionKeys, *, session: str, fence: Fence | None = None) -> Call:
    """Removes a session, or what is left of it."""
    return _call("delete", k, session, {"id": session}, fence)


def heartbeat(k: SessionKeys, *, session: str, updated_at: str, ttl_ms: int, fence: Fence | None = None) -> Call:
    """Moves a session's ``updated_at`` and its expiry."""
    return _call("heartbeat", k, session, {"id": session, "updated_at": updated_at, "ttl_ms": ttl_ms}, fence)


def living(k: SessionKeys, *, sessions: Sequence[str]) -> Call:
    """Which of these are under way; removes the others from the active set."""
    return SCRIPTS["living"].call({"active": k.active}, {}, [k.session(s) for s in sessions], list(sessions))
