"""One function a script: names, types and order of its keys and arguments, and nothing else.

Each returns a `Call`, which an executor runs; none does I/O. Times are whole milliseconds. What a script answers,
and whether it is safe to run twice (each is), stands in the header of its ``.lua`` file.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.store.keys import Keys
from coordinator.store.scripts import SCRIPTS, SERVER, Call

__all__ = [
    "BATCH", "adopt", "ask", "beat", "certify", "checkpoint", "claim", "close", "declare", "decline", "delegate", "expire",
    "init", "join", "leave", "let_go", "open", "purge", "reassert", "release", "renew", "repair", "replay", "resumed",
    "scan", "settle", "trust",
]  # fmt: skip

BATCH = 100
"""Most sessions that one script touches."""
DAY_MS = 24 * 3600 * 1000
DEAD_LETTER_TTL_MS = 7 * DAY_MS
GIVE_UP_AFTER_MS = 5 * 60 * 1000
INLINE_BYTES = 8192


def _guarded(k: Keys) -> dict[str, str]:
    return {"meta": k.meta, "detector": k.detector}


def init(k: Keys, *, partitions: int, protocol: int, lineage: str, hold_ms: int, previous: str = "") -> Call:
    """Makes the partition, or tells how it was made. ``previous``: the lineage that the caller knew, if any."""
    return SCRIPTS["init"].call(
        {**_guarded(k), "events": k.events},
        {
            "server": SERVER,
            "partitions": partitions,
            "protocol": protocol,
            "lineage": lineage,
            "hold_ms": hold_ms,
            "previous": previous,
        },
    )


def join(
    k: Keys,
    *,
    instance: str,
    name: str,
    pool: str,
    capacity: int,
    labels: str,
    address: str,
    dead_after_ms: int,
    trust_ms: int,
    predecessor: str = "",
    token_hash: str = "",
) -> Call:
    """An instance registers; also again under its id, after the store forgot it."""
    return SCRIPTS["join"].call(
        {
            **_guarded(k),
            "instances": k.instances,
            "graves": k.graves,
            "events": k.events,
            "names": k.names,
            "instance": k.instance(instance),
            "older": k.instance(predecessor or instance),
        },
        {
            "server": SERVER,
            "id": instance,
            "name": name,
            "pool": pool,
            "capacity": capacity,
            "labels": labels,
            "address": address,
            "dead_after_ms": dead_after_ms,
            "trust_ms": trust_ms,
            "predecessor": predecessor,
            "token_hash": token_hash,
        },
    )


def beat(
    k: Keys,
    *,
    instance: str,
    dead_after_ms: int,
    seen_server: str,
    lineage: str,
    count: int | None,
    loop_lag_ms: int,
    wedged_after_ms: int = 0,
    presence: bool = False,
) -> Call:
    """An instance says that it is still here. ``count`` is its roll call, None when it cannot say just now."""
    return SCRIPTS["beat"].call(
        {
            **_guarded(k),
            "instances": k.instances,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
        },
        {
            "server": SERVER,
            "id": instance,
            "dead_after_ms": dead_after_ms,
            "seen_server": seen_server,
            "lineage": lineage,
            "count": "" if count is None else count,
            "loop_lag_ms": loop_lag_ms,
            "wedged_after_ms": wedged_after_ms,
            "presence": int(presence),
        },
    )


def scan(
    k: Keys,
    *,
    max_scan_gap_ms: int,
    hold_ms: int,
    horizon_ms: int,
    limit: int = BATCH,
    due_ms: int = 0,
    breaker_min: int = 3,
    breaker_permille: int = 300,
    breaker_window_ms: int = 2000,
) -> Call:
    """A coordinator's look: who is silent, which graves and leases are due, whether a hold is on."""
    return SCRIPTS["scan"].call(
        {**_guarded(k), "instances": k.instances, "graves": k.graves, "leases": k.leases, "events": k.events},
        {
            "server": SERVER,
            "max_scan_gap_ms": max_scan_gap_ms,
            "hold_ms": hold_ms,
            "horizon_ms": horizon_ms,
            "limit": limit,
            "due_ms": due_ms,
            "breaker_min": breaker_min,
            "breaker_permille": breaker_permille,
            "breaker_window_ms": breaker_window_ms,
        },
    )


def _death(k: Keys, instance: str) -> dict[str, str]:
    return {
        **_guarded(k),
        "instances": k.instances,
        "graves": k.graves,
        "events": k.events,
        "instance": k.instance(instance),
        "owned": k.owned(instance),
    }


def declare(
    k: Keys,
    *,
    instance: str,
    deadline_ms: int,
    max_scan_gap_ms: int,
    cause: str = "silence",
    by: str = "",
    lost_after_ms: int = 0,
    breaker_window_ms: int = 2000,
) -> Call:
    """An instance is declared dead: the deadline that the coordinator saw passed unchanged, or its connection is gone."""
    return SCRIPTS["declare"].call(
        {**_death(k, instance), "mailbox": k.mailbox(instance)},
        {
            "server": SERVER,
            "id": instance,
            "deadline_ms": deadline_ms,
            "max_scan_gap_ms": max_scan_gap_ms,
            "cause": cause,
            "by": by,
            "lost_after_ms": lost_after_ms,
            "breaker_window_ms": breaker_window_ms,
        },
    )


def certify(k: Keys, *, instance: str, cause: str, by: str, reason: str) -> Call:
    """Somebody knows that an instance ended (``left``, ``exited``, ``operator``, ``restated``)."""
    return SCRIPTS["certify"].call(
        _death(k, instance), {"server": SERVER, "id": instance, "cause": cause, "by": by, "reason": reason}
    )


def leave(k: Keys, *, instance: str, by: str, reason: str, cause: str = "left") -> Call:
    """An instance says that it ends now."""
    return certify(k, instance=instance, cause=cause, by=by, reason=reason)


def claim(
    k: Keys,
    *,
    grave: str,
    sessions: Sequence[str],
    pool: str,
    lease_ms: int,
    max_recoveries: int,
    recovery_window_ms: int,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl_ms: int = DEAD_LETTER_TTL_MS,
    holder: str = "",
    floor: int = 0,
) -> Call:
    """A coordinator takes at most `BATCH` sessions of a grave and offers them to ``pool``."""
    if len(sessions) > BATCH:
        raise ValueError(f"{len(sessions)} sessions are more than one claim takes ({BATCH})")
    return SCRIPTS["claim"].call(
        {
            **_guarded(k),
            "graves": k.graves,
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "instance": k.instance(grave),
            "owned": k.owned(grave),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "grave": grave,
            "pool": pool,
            "holder": holder,
            "lease_ms": lease_ms,
            "max_recoveries": max_recoveries,
            "recovery_window_ms": recovery_window_ms,
            "inline_bytes": inline_bytes,
            "dead_letter_ttl_ms": dead_letter_ttl_ms,
            "floor": floor,
        },
        repeated_keys=[k.session(s) for s in sessions],
        repeated_args=sessions,
    )


def settle(k: Keys, *, grave: str, fenced_ttl_ms: int) -> Call:
    """A grave ends when nothing is left in it."""
    return SCRIPTS["settle"].call(
        {"graves": k.graves, "instance": k.instance(grave), "owned": k.owned(grave)},
        {"server": SERVER, "grave": grave, "fenced_ttl_ms": fenced_ttl_ms},
    )


def open(  # noqa: A001 - the word of the protocol
    k: Keys,
    *,
    session: str,
    instance: str,
    request: str,
    floor: int,
    pool: str,
    tenant: str,
    requires: str,
    data: bytes,
    encoding: str = "bytes",
) -> Call:
    """An instance becomes the first owner of a session."""
    return SCRIPTS["open"].call(
        {
            **_guarded(k),
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "request": request,
            "floor": floor,
            "pool": pool,
            "tenant": tenant,
            "requires": requires,
            "data": data,
            "encoding": encoding,
        },
    )


def checkpoint(
    k: Keys, *, session: str, instance: str, epoch: int, sequence: int, data: bytes, encoding: str = "bytes"
) -> Call:
    """The owner writes newer recovery data; ``sequence`` counts from 1 within the epoch."""
    return SCRIPTS["checkpoint"].call(
        {**_guarded(k), "events": k.events, "instance": k.instance(instance), "session": k.session(session)},
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "sequence": sequence,
            "data": data,
            "encoding": encoding,
        },
    )


def close(k: Keys, *, session: str, instance: str, epoch: int, pool: str, closed_ttl_ms: int) -> Call:
    """The call ended; its owner closes the session."""
    return SCRIPTS["close"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {"server": SERVER, "id": session, "owner": instance, "epoch": epoch, "closed_ttl_ms": closed_ttl_ms},
    )


def release(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    request: str,
    pool: str,
    reason: str,
    cause: str,
    lease_ms: int,
    max_recoveries: int,
    recovery_window_ms: int,
    data: bytes | None = None,
    encoding: str = "bytes",
    sequence: int = 0,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl_ms: int = DEAD_LETTER_TTL_MS,
) -> Call:
    """The owner gives up a session, with its last data when ``data`` is given; it is offered at once."""
    return SCRIPTS["release"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "request": request,
            "reason": reason,
            "cause": cause,
            "sequence": 0 if data is None else sequence,
            "data": data or b"",
            "encoding": encoding,
            "lease_ms": lease_ms,
            "max_recoveries": max_recoveries,
            "recovery_window_ms": recovery_window_ms,
            "inline_bytes": inline_bytes,
            "dead_letter_ttl_ms": dead_letter_ttl_ms,
        },
    )


def adopt(k: Keys, *, session: str, instance: str, request: str, epoch: int | None, pool: str, floor: int) -> Call:
    """A worker becomes the owner of an orphan; ``epoch`` None adopts by id whatever is offered."""
    return SCRIPTS["adopt"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "request": request,
            "epoch": "" if epoch is None else epoch,
            "floor": floor,
        },
    )


def decline(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    pool: str,
    reason: str,
    counts: bool,
    max_offers: int,
    lease_ms: int,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl_ms: int = DEAD_LETTER_TTL_MS,
    give_up_after_ms: int = GIVE_UP_AFTER_MS,
    restarted_since: str = "",
) -> Call:
    """A worker gives an offer back; ``counts`` is False for want of room."""
    return SCRIPTS["decline"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "instance": k.instance(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "id": session,
            "decliner": instance,
            "epoch": epoch,
            "reason": reason,
            "counts": int(counts),
            "max_offers": max_offers,
            "lease_ms": lease_ms,
            "inline_bytes": inline_bytes,
            "dead_letter_ttl_ms": dead_letter_ttl_ms,
            "give_up_after_ms": give_up_after_ms,
            "restarted_since": restarted_since,
        },
    )


def delegate(k: Keys, *, session: str, instance: str, epoch: int, pool: str, lease_ms: int) -> Call:
    """A worker leaves an offer adoptable by id for one lease."""
    return SCRIPTS["delegate"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "events": k.events,
            "instance": k.instance(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {"server": SERVER, "id": session, "by": instance, "epoch": epoch, "lease_ms": lease_ms},
    )


def ask(k: Keys, *, session: str, instance: str, owner: str, request: str, lease_ms: int) -> Call:
    """A worker asks the living owner to hand the session over to it."""
    return SCRIPTS["ask"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "events": k.events,
            "heir": k.instance(instance),
            "owner": k.instance(owner),
            "session": k.session(session),
            "mailbox": k.mailbox(owner),
        },
        {
            "server": SERVER,
            "id": session,
            "heir_id": instance,
            "owner_id": owner,
            "request": request,
            "lease_ms": lease_ms,
        },
    )


def hand_over(
    k: Keys, *, session: str, instance: str, epoch: int, pool: str, lease_ms: int, inline_bytes: int = INLINE_BYTES
) -> Call:
    """An owner that drains offers a session, and goes on serving it until an heir accepted."""
    return SCRIPTS["hand_over"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "events": k.events,
            "instance": k.instance(instance),
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "lease_ms": lease_ms,
            "inline_bytes": inline_bytes,
        },
    )


def drain(k: Keys, *, instance: str, by: str, reason: str, timeout_ms: int = 0) -> Call:
    """An instance takes nothing new from now on, and is told to hand over what it owns."""
    return SCRIPTS["drain"].call(
        {
            **_guarded(k),
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "mailbox": k.mailbox(instance),
        },
        {"server": SERVER, "id": instance, "by": by, "reason": reason, "timeout_ms": timeout_ms},
    )


def let_go(
    k: Keys,
    *,
    session: str,
    instance: str,
    heir: str,
    epoch: int,
    pool: str,
    data: bytes | None = None,
    encoding: str = "bytes",
    sequence: int = 0,
) -> Call:
    """The owner hands a session to the heir that accepted, with its last data when ``data`` is given."""
    return SCRIPTS["let_go"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "heir": k.instance(heir),
            "heir_owned": k.owned(heir),
            "session": k.session(session),
            "offers": k.offers(pool),
            "mailbox": k.mailbox(heir),
        },
        {
            "server": SERVER,
            "id": session,
            "owner_id": instance,
            "heir_id": heir,
            "epoch": epoch,
            "sequence": 0 if data is None else sequence,
            "data": data or b"",
            "encoding": encoding,
        },
    )


def resumed(k: Keys, *, session: str, instance: str, epoch: int) -> Call:
    """Media is up again at the new owner."""
    return SCRIPTS["resumed"].call(
        {**_guarded(k), "events": k.events, "instance": k.instance(instance), "session": k.session(session)},
        {"server": SERVER, "id": session, "owner": instance, "epoch": epoch},
    )


def reassert(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    sequence: int,
    data: bytes,
    encoding: str = "bytes",
    pool: str,
    tenant: str,
    requires: str,
    opened_at_ms: int,
    rival: str = "",
) -> Call:
    """After lost writes an owner states again what it held; AGAIN: call again with that ``rival``."""
    return SCRIPTS["reassert"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
            "rival_owned": k.owned(rival or instance),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "sequence": sequence,
            "data": data,
            "encoding": encoding,
            "pool": pool,
            "tenant": tenant,
            "requires": requires,
            "opened_at_ms": opened_at_ms,
            "rival": rival,
        },
    )


def renew(k: Keys, *, session: str, instance: str, epoch: int) -> Call:
    """After the hold a re-asserted session gets a new epoch."""
    return SCRIPTS["renew"].call(
        {**_guarded(k), "events": k.events, "instance": k.instance(instance), "session": k.session(session)},
        {"server": SERVER, "owner": instance, "epoch": epoch},
    )


def expire(
    k: Keys,
    *,
    session: str,
    pool: str,
    lease_ms: int,
    max_offers: int,
    give_up_after_ms: int,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl_ms: int = DEAD_LETTER_TTL_MS,
    entry_of_dead: str = "",
    holder: str = "",
) -> Call:
    """A lease ended: extend, offer again, give up on, or return the handover."""
    return SCRIPTS["expire"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {
            "server": SERVER,
            "id": session,
            "pool": pool,
            "holder": holder,
            "lease_ms": lease_ms,
            "max_offers": max_offers,
            "give_up_after_ms": give_up_after_ms,
            "inline_bytes": inline_bytes,
            "dead_letter_ttl_ms": dead_letter_ttl_ms,
            "entry_of_dead": entry_of_dead,
        },
    )


def repair(k: Keys, *, session: str, owner: str, dead_after_ms: int) -> Call:
    """Makes the indexes agree with the record; ``owner`` is the one that the record named when it was read."""
    return SCRIPTS["repair"].call(
        {
            **_guarded(k),
            "instances": k.instances,
            "graves": k.graves,
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "session": k.session(session),
            "instance": k.instance(owner),
            "owned": k.owned(owner),
        },
        {"server": SERVER, "id": session, "owner": owner, "dead_after_ms": dead_after_ms},
    )


def replay(
    k: Keys, *, session: str, pool: str, lease_ms: int, inline_bytes: int = INLINE_BYTES, holder: str = ""
) -> Call:
    """A person offers a dead letter again."""
    return SCRIPTS["replay"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {"server": SERVER, "id": session, "holder": holder, "lease_ms": lease_ms, "inline_bytes": inline_bytes},
    )


def purge(k: Keys, *, session: str, closed_ttl_ms: int) -> Call:
    """A person closes a dead letter; its data goes."""
    return SCRIPTS["purge"].call(
        {"dead_letters": k.dead_letters, "events": k.events, "session": k.session(session)},
        {"server": SERVER, "id": session, "closed_ttl_ms": closed_ttl_ms},
    )


def trust(k: Keys, *, session: str, instance: str, epoch: int) -> Call:
    """How long the owner of a session may still be relied on."""
    return SCRIPTS["trust"].call(
        {"instances": k.instances, "instance": k.instance(instance), "session": k.session(session)},
        {"server": SERVER, "owner": instance, "epoch": epoch},
    )
