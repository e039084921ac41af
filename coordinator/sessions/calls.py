"""One function a script, one class a reply: generated from the headers of ``lua/*.lua`` (tests/store/typed_calls.py).

Lengths of time are in seconds; what the keys and arguments mean stands in the header of each ``.lua`` file. With a fence a script asks
first whether the writer still owns the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from coordinator.clock import in_ms
from coordinator.sessions.keys import SessionKeys
from coordinator.store.calls import FencedWrite, Gone, Ok, Resync, Unknown
from coordinator.store.fence import NO_FENCE, Fence
from coordinator.store.replies import Reply
from coordinator.store.scripts import ScriptCall, load_scripts

SCRIPTS = load_scripts("coordinator.sessions")


@dataclass(frozen=True, slots=True)
class Clash(Reply):
    """CLASH."""

    word: ClassVar[str] = "CLASH"


@dataclass(frozen=True, slots=True)
class Conflict(Reply):
    """CONFLICT."""

    word: ClassVar[str] = "CONFLICT"


@dataclass(frozen=True, slots=True)
class Ended(Reply):
    """ENDED."""

    word: ClassVar[str] = "ENDED"
    status: str


@dataclass(frozen=True, slots=True)
class Exists(Reply):
    """EXISTS."""

    word: ClassVar[str] = "EXISTS"


@dataclass(frozen=True, slots=True)
class Full(Reply):
    """FULL."""

    word: ClassVar[str] = "FULL"


@dataclass(frozen=True, slots=True)
class Odd(Reply):
    """ODD."""

    word: ClassVar[str] = "ODD"


@dataclass(frozen=True, slots=True)
class Same(Reply):
    """SAME."""

    word: ClassVar[str] = "SAME"


@dataclass(frozen=True, slots=True)
class Wrong(Reply):
    """WRONG."""

    word: ClassVar[str] = "WRONG"


@dataclass(frozen=True, slots=True)
class LivingOk(Ok):
    """OK."""

    living: str


CreateReply: TypeAlias = Ok | Exists | Full | Wrong | Clash | FencedWrite | Resync | Unknown
_CREATE: Mapping[bytes, type[CreateReply]] = {
    b"OK": Ok,
    b"EXISTS": Exists,
    b"FULL": Full,
    b"WRONG": Wrong,
    b"CLASH": Clash,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def create(
    k: SessionKeys,
    *,
    session: str,
    value: bytes,
    ttl: float,
    listed: bool,
    version: str,
    limit: int,
    fence: Fence = NO_FENCE,
) -> ScriptCall[CreateReply]:
    """Writes a session that must not be there yet, within a limit of sessions under way."""
    return ScriptCall(
        SCRIPTS["create"],
        (k.session(session), k.active, *fence.declared),
        (session, value, in_ms(ttl), int(listed), version, limit, *fence.arguments),
        _CREATE,
    )


DeleteReply: TypeAlias = Ok | Gone | FencedWrite | Resync | Unknown
_DELETE: Mapping[bytes, type[DeleteReply]] = {
    b"OK": Ok,
    b"GONE": Gone,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def delete(k: SessionKeys, *, session: str, fence: Fence = NO_FENCE) -> ScriptCall[DeleteReply]:
    """Removes a session, even when only its id in the active set is left."""
    return ScriptCall(
        SCRIPTS["delete"], (k.session(session), k.active, *fence.declared), (session, *fence.arguments), _DELETE
    )


HeartbeatReply: TypeAlias = Ok | Gone | Ended | Odd | Wrong | Clash | FencedWrite | Resync | Unknown
_HEARTBEAT: Mapping[bytes, type[HeartbeatReply]] = {
    b"OK": Ok,
    b"GONE": Gone,
    b"ENDED": Ended,
    b"ODD": Odd,
    b"WRONG": Wrong,
    b"CLASH": Clash,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def heartbeat(
    k: SessionKeys, *, session: str, updated_at: str, ttl: float, fence: Fence = NO_FENCE
) -> ScriptCall[HeartbeatReply]:
    """Moves a session's updated_at and its expiry, and not one byte besides."""
    return ScriptCall(
        SCRIPTS["heartbeat"],
        (k.session(session), k.active, *fence.declared),
        (session, updated_at, in_ms(ttl), *fence.arguments),
        _HEARTBEAT,
    )


LivingReply: TypeAlias = LivingOk | Clash
_LIVING: Mapping[bytes, type[LivingReply]] = {b"OK": LivingOk, b"CLASH": Clash}


def living(k: SessionKeys, *, sessions: Sequence[str]) -> ScriptCall[LivingReply]:
    """Which members of the active set are under way; the others are removed from it."""
    return ScriptCall(SCRIPTS["living"], (k.active, *(k.session(one) for one in sessions)), (*sessions,), _LIVING)


SaveReply: TypeAlias = Ok | Same | Conflict | Gone | Full | Wrong | Clash | FencedWrite | Resync | Unknown
_SAVE: Mapping[bytes, type[SaveReply]] = {
    b"OK": Ok,
    b"SAME": Same,
    b"CONFLICT": Conflict,
    b"GONE": Gone,
    b"FULL": Full,
    b"WRONG": Wrong,
    b"CLASH": Clash,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def save(
    k: SessionKeys,
    *,
    session: str,
    value: bytes,
    ttl: float,
    listed: bool,
    expected: str,
    version: str,
    seen: str,
    limit: int,
    fence: Fence = NO_FENCE,
) -> ScriptCall[SaveReply]:
    """Writes a session and its place in the active set."""
    return ScriptCall(
        SCRIPTS["save"],
        (k.session(session), k.active, *fence.declared),
        (session, value, in_ms(ttl), int(listed), expected, version, seen, limit, *fence.arguments),
        _SAVE,
    )
