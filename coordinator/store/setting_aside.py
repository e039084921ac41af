"""Calls that put what does not parse into quarantine, under a name made from its kind and id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from coordinator.store.usual import DEAD_LETTER_TTL

__all__ = ["set_aside", "set_aside_member"]


def set_aside(
    k: Keys,
    *,
    kind: str,
    name: str,
    wanted: str,
    fault: str,
    broken: Mapping[str, bytes],
    owner: str = "",
    ttl: float = DEAD_LETTER_TTL,
) -> ScriptCall[calls.SetAsideReply]:
    """The call that keeps what does not parse as it was, and makes it usable again or gives it up. Safe to repeat.

    Args:
        kind, name: of the key; the name is the id of its session or instance, '' where there is one of a kind.
        wanted: type that the key must have, in lower case.
        fault: what is wrong, for people.
        broken: fields that are broken, with their values as they were read.
        owner: the instance that owns the session, as far as is known.
    """
    return calls.set_aside(
        k, member=f"{kind}:{name}" if name else kind, kind=kind, name=name, wanted=wanted, fault=fault,
        broken=broken, owner=owner, ttl=ttl,
    )  # fmt: skip


def set_aside_member(
    k: Keys, *, index: str, raw: bytes, fields: Sequence[bytes] = (), ttl: float = DEAD_LETTER_TTL
) -> ScriptCall[calls.SetAsideMemberReply]:
    """The call that takes a member that is not an id, or an entry that cannot be read, out of an index and keeps it.

    Args:
        index: its key after the tag, as ``graves`` or ``offers:default``.
        raw: the member, or the entry's id.
        fields: names and values in turn, of an entry.
    """
    member = f"member:{index}:{hashlib.sha256(raw).hexdigest()[:12]}"
    return calls.set_aside_member(
        k, member=member, raw=raw, index=index, fields=fields[: 2 * (len(fields) // 2)], ttl=ttl
    )
