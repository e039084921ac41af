"""One function a script: names, types and order of its keys and arguments, and nothing else.

Each returns a `Call`, which an executor runs; none does I/O. Times are whole milliseconds. A reason that does not fit is
made to. What a script answers, and whether it is safe to run twice (each is), stands in the header of its ``.lua`` file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from coordinator.bounds import fitted
from coordinator.store.keys import Keys
from coordinator.store.past import Past
from coordinator.store.scripts import SCRIPTS, SERVER, Argument, Call

__all__ = [
    "BATCH", "MOST_SUSPECTS", "Index",
    "adopt", "agree", "allowed", "ask", "beat", "certify", "checkpoint", "claim", "close", "correct", "declare", "decline", "delegate",
    "expire",
    "forget", "init", "join", "judge", "keep", "leave", "let_go", "may_run", "open", "prune", "purge", "reassert", "release", "renew",
    "repair", "replay", "resumed", "scan", "set_aside", "set_aside_member", "settle", "stopped", "trim", "trust", "withdraw",
]  # fmt: skip

BATCH = 100
"""Most sessions that one script touches."""
MOST_SUSPECTS = 1000
"""Most suspects that one look names; the others are read page by page."""
DAY_MS = 24 * 3600 * 1000
DEAD_LETTER_TTL_MS = 7 * DAY_MS
GIVE_UP_AFTER_MS = 5 * 60 * 1000
INLINE_BYTES = 8192

Index = Literal["instances", "orphans", "dead_letters"]
"""Indexes from which `prune` takes what does not belong there; a lease that is due goes by itself, and so does a grave."""


def _guarded(k: Keys) -> dict[str, str]:
    return {"meta": k.meta, "detector": k.detector}


def _remembered(past: Past | None) -> dict[str, str | int]:
    past = past or Past()
    return {"lineage": past.lineage, "since_ms": past.since_ms, "epoch": past.epoch}


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
    hosting: str = "",
    past: Past | None = None,
    tenant: str = "",
    again: bool = False,
) -> Call:
    """An instance registers.

    Args:
        past: what it remembers, if anything.
        tenant: whose sessions alone it may have; '' for anybody's.
        again: under an id that was registered before, and that the store forgot.
    """
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
            "hosting": hosting,
            **_remembered(past),
            "tenant": tenant,
            "again": int(again),
        },
    )


def beat(
    k: Keys,
    *,
    instance: str,
    dead_after_ms: int,
    seen_server: str,
    past: Past,
    roll: str,
    loop_lag_ms: int,
    wedged_after_ms: int = 0,
    presence: bool = False,
) -> Call:
    """An instance says that it is still here. ``roll`` is its roll call, '' when it cannot say just now."""
    return SCRIPTS["beat"].call(
        {
            **_guarded(k),
            "instances": k.instances,
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "mailbox": k.mailbox(instance),
        },
        {
            "server": SERVER,
            "id": instance,
            "dead_after_ms": dead_after_ms,
            "seen_server": seen_server,
            **_remembered(past),
            "roll": roll,
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
    most_suspects: int = MOST_SUSPECTS,
    seen_ms: int = 0,
    stepped_ms: int = 0,
    due_ms: int = 0,
    breaker_min: int = 3,
    breaker_permille: int = 300,
    breaker_window_ms: int = 2000,
    another_primary: bool = False,
    past: Past | None = None,
) -> Call:
    """A coordinator's look: who is silent, which graves and leases are due, whether a hold is on.

    ``seen_ms``, ``stepped_ms``: since that look, by the server's clock, it went so much further than the caller's own.
    ``another_primary``: the Sentinels see another server that takes itself for the primary: nobody is declared by silence.
    ``past``: what it remembers, if anything.
    """
    return SCRIPTS["scan"].call(
        {**_guarded(k), "instances": k.instances, "graves": k.graves, "leases": k.leases, "events": k.events},
        {
            "server": SERVER,
            "max_scan_gap_ms": max_scan_gap_ms,
            "hold_ms": hold_ms,
            "horizon_ms": horizon_ms,
            "limit": limit,
            "most_suspects": most_suspects,
            "seen_ms": seen_ms,
            "stepped_ms": stepped_ms,
            "due_ms": due_ms,
            "breaker_min": breaker_min,
            "breaker_permille": breaker_permille,
            "breaker_window_ms": breaker_window_ms,
            "another_primary": int(another_primary),
            **_remembered(past),
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


def certify(k: Keys, *, instance: str, cause: str, by: str, reason: str, fenced_ttl_ms: int = DAY_MS) -> Call:
    """Somebody knows that an instance ended (``left``, ``exited``, ``operator``, ``restated``).

    ``fenced_ttl_ms``: for so long one that is restated and that the store does not know is refused.
    """
    return SCRIPTS["certify"].call(
        _death(k, instance),
        {
            "server": SERVER,
            "id": instance,
            "cause": cause,
            "by": by,
            "reason": fitted(reason),
            "fenced_ttl_ms": fenced_ttl_ms,
        },
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
    heirs: int = 1,
    room: int = 0,
) -> Call:
    """A coordinator takes at most `BATCH` sessions of a grave and offers them to ``pool``.

    ``heirs``, ``room``: living instances of the pool with room, and how many sessions they could take together.
    """
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
            "blamed": k.blamed(grave),
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
            "heirs": heirs,
            "room": room,
        },
        repeated_keys=[k.session(s) for s in sessions],
        repeated_args=sessions,
    )


def judge(k: Keys, *, grave: str, blamed_from_ms: int, convict: str, apart: int, probation_ms: int) -> Call:
    """What a death says about the sessions of the dead; the first verdict stands. See `coordinator.blame`."""
    return SCRIPTS["judge"].call(
        {"instance": k.instance(grave)},
        {
            "server": SERVER,
            "blamed_from_ms": blamed_from_ms,
            "convict": convict,
            "apart": apart,
            "probation_ms": probation_ms,
        },
    )


def settle(k: Keys, *, grave: str, fenced_ttl_ms: int) -> Call:
    """A grave ends when nothing is left in it."""
    return SCRIPTS["settle"].call(
        {
            "graves": k.graves,
            "instance": k.instance(grave),
            "owned": k.owned(grave),
            "blamed": k.blamed(grave),
        },
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
    letter_epoch: str = "",
) -> Call:
    """An instance becomes the first owner of a session. AGAIN: call again with that ``letter_epoch``."""
    return SCRIPTS["open"].call(
        {
            **_guarded(k),
            "events": k.events,
            "instance": k.instance(instance),
            "owned": k.owned(instance),
            "session": k.session(session),
            "letter": k.letter(session, letter_epoch) if letter_epoch else k.session(session),
            "dead_letters": k.dead_letters,
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
            "letter_epoch": letter_epoch,
        },
    )


def checkpoint(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    sequence: int,
    data: bytes,
    encoding: str = "bytes",
    writer: str = "",
    attempt: int = 0,
) -> Call:
    """The owner, or its child ``writer``, writes newer recovery data.

    ``sequence`` counts from 1 within the epoch, one count for all writers; ``attempt`` the tries of one number that differ.
    """
    return SCRIPTS["checkpoint"].call(
        {**_guarded(k), "events": k.events, "instance": k.instance(instance), "session": k.session(session)},
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "sequence": sequence,
            "writer": writer,
            "attempt": attempt,
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
            "blamed": k.blamed(instance),
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
    counts: bool = True,
    unserved_ms: int = 0,
    data: bytes | None = None,
    encoding: str = "bytes",
    sequence: int = 0,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl_ms: int = DEAD_LETTER_TTL_MS,
) -> Call:
    """The owner gives up a session, with its last data when ``data`` is given; it is offered at once.

    ``counts``: whether that is a recovery. ``unserved_ms``: for how long nobody has served it already.
    """
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
            "blamed": k.blamed(instance),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "epoch": epoch,
            "request": request,
            "reason": fitted(reason),
            "cause": cause,
            "counts": int(counts),
            "unserved_ms": unserved_ms,
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


def adopt(
    k: Keys,
    *,
    session: str,
    instance: str,
    request: str,
    epoch: int | None,
    pool: str,
    floor: int,
    holds: int | None = None,
) -> Call:
    """A worker becomes the owner of an orphan; ``epoch`` None adopts by id whatever is offered.

    ``holds``: the epoch under which it has that session already.
    """
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
            "blamed": k.blamed(instance),
        },
        {
            "server": SERVER,
            "id": session,
            "owner": instance,
            "request": request,
            "epoch": "" if epoch is None else epoch,
            "floor": floor,
            "holds": "" if holds is None else holds,
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
            "reason": fitted(reason),
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
    """A worker asks the living owner to hand the session over to it, and waits for one lease unless it asks again."""
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


def withdraw(k: Keys, *, session: str, instance: str, request: str, pool: str) -> Call:
    """An heir waits no longer for the handover that it asked for."""
    return SCRIPTS["withdraw"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "events": k.events,
            "session": k.session(session),
            "offers": k.offers(pool),
        },
        {"server": SERVER, "id": session, "heir_id": instance, "request": request},
    )


def keep(k: Keys, *, instance: str, sessions: Sequence[str], epochs: Sequence[str], lease_ms: int) -> Call:
    """A reader goes on working through at most `BATCH` offers that it has in hand: ``sessions``, with their ``epochs``."""
    if len(sessions) > BATCH:
        raise ValueError(f"{len(sessions)} offers are more than one call keeps ({BATCH})")
    return SCRIPTS["keep"].call(
        {**_guarded(k), "leases": k.leases, "events": k.events, "instance": k.instance(instance)},
        {"server": SERVER, "reader": instance, "lease_ms": lease_ms},
        repeated_keys=[k.session(s) for s in sessions],
        repeated_args=[f"{s} {e}" for s, e in zip(sessions, epochs, strict=True)],
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
        {"server": SERVER, "id": instance, "by": by, "reason": fitted(reason), "timeout_ms": timeout_ms},
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
    unserved_ms: int = 0,
) -> Call:
    """The owner hands a session to the heir that accepted, with its last data when ``data`` is given.

    ``unserved_ms``: for how long nobody has served it already.
    """
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
            "blamed": k.blamed(instance),
            "heir_blamed": k.blamed(heir),
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
            "unserved_ms": unserved_ms,
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
            "offers": k.offers(pool),
            "rival_instance": k.instance(rival or instance),
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
        {"server": SERVER, "id": session, "owner": instance, "epoch": epoch},
    )


def agree(k: Keys, *, instance: str, seen: str, roll: int, sessions: Sequence[str]) -> Call:
    """An instance compared its sessions with their records, and found them equal.

    ``seen``: the roll before that, '' for none. ``sessions``: up to `BATCH` that its index names, and that are not its own.
    """
    return SCRIPTS["agree"].call(
        {"instance": k.instance(instance), "owned": k.owned(instance)},
        {"server": SERVER, "owner": instance, "seen": seen, "roll": roll},
        [k.session(one) for one in sessions],
        sessions,
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
    alone: bool = True,
    apart: int = 0,
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
            "alone": int(alone),
            "apart": apart,
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
    k: Keys,
    *,
    session: str,
    pool: str,
    lease_ms: int,
    inline_bytes: int = INLINE_BYTES,
    holder: str = "",
    letter_epoch: str = "",
) -> Call:
    """A person offers a dead letter again; one whose id was opened since by its ``letter_epoch``."""
    return SCRIPTS["replay"].call(
        {
            **_guarded(k),
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "events": k.events,
            "session": k.session(session),
            "offers": k.offers(pool),
            "letter": k.letter(session, letter_epoch) if letter_epoch else k.session(session),
        },
        {
            "server": SERVER,
            "id": session,
            "holder": holder,
            "lease_ms": lease_ms,
            "inline_bytes": inline_bytes,
            "letter_epoch": letter_epoch,
        },
    )


def purge(k: Keys, *, session: str, closed_ttl_ms: int, letter_epoch: str = "") -> Call:
    """A person closes a dead letter; its data goes. One whose id was opened since by its ``letter_epoch``."""
    where = k.letter(session, letter_epoch) if letter_epoch else k.session(session)
    return SCRIPTS["purge"].call(
        {"dead_letters": k.dead_letters, "events": k.events, "session": where},
        {
            "server": SERVER,
            "id": session,
            "closed_ttl_ms": closed_ttl_ms,
            "member": f"{session} {letter_epoch}" if letter_epoch else session,
        },
    )


def trust(k: Keys, *, session: str, instance: str, epoch: int, child: str, belief_ms: int) -> Call:
    """How long the owner of a session may still be relied on, asked by the instance ``child`` that will for ``belief_ms``."""
    return SCRIPTS["trust"].call(
        {
            "instances": k.instances,
            "instance": k.instance(instance),
            "session": k.session(session),
            "mailbox": k.mailbox(child),
        },
        {"server": SERVER, "owner": instance, "epoch": epoch, "belief_ms": belief_ms},
    )


def stopped(k: Keys, *, session: str, epoch: int, child: str) -> Call:
    """A child that was told to stop believes no more."""
    return SCRIPTS["stopped"].call(
        {"session": k.session(session), "mailbox": k.mailbox(child)},
        {"server": SERVER, "epoch": epoch},
    )


def allowed(k: Keys, *, tries: Sequence[Sequence[Argument]]) -> Call:
    """Which of these commands the user may not run; on Redis 6.2 each is tried, so it must be of a form that does nothing."""
    return may_run(k.scratch, tries)


def may_run(scratch: str, tries: Sequence[Sequence[Argument]]) -> Call:
    """As `allowed`, with a key of somebody else's."""
    words = ["\n".join(str(word) for word in one) for one in tries]
    return SCRIPTS["allowed"].call({"scratch": scratch}, {"server": SERVER}, (), words)


def forget(k: Keys, *, names: Sequence[str], instances: Sequence[str]) -> Call:
    """Each name is forgotten whose instance, as last read, is gone."""
    return SCRIPTS["forget"].call(
        {"names": k.names},
        {"server": SERVER},
        [k.instance(i) for i in instances],
        [f"{name} {instance}" for name, instance in zip(names, instances, strict=True)],
    )


def prune(k: Keys, *, index: Index, members: Sequence[str], counted: bool = False) -> Call:
    """Members (ids) leave an index into which their records do not belong. ``counted``: the mass breaker has just opened by them."""
    key, states = {
        "instances": (k.instances, "alive draining"),
        "orphans": (k.orphans, "offered"),
        "dead_letters": (k.dead_letters, "dead_lettered"),
    }[index]
    record = {"instances": k.instance, "orphans": k.session, "dead_letters": k.dead_letter}[index]
    return SCRIPTS["prune"].call(
        {"index": key, "detector": k.detector},
        {"server": SERVER, "states": states, "counted": int(counted)},
        [record(member) for member in members],
        members,
    )


def trim(k: Keys, *, pool: str, sessions: Sequence[str], entries: Sequence[str]) -> Call:
    """Entries of a pool's offers go that the records of their sessions do not name; and the stream when nobody uses it."""
    return SCRIPTS["trim"].call(
        {"offers": k.offers(pool)}, {"server": SERVER}, [k.session(s) for s in sessions], entries
    )


def set_aside(
    k: Keys,
    *,
    kind: str,
    name: str,
    wanted: str,
    fault: str,
    broken: Mapping[str, bytes],
    owner: str = "",
    ttl_ms: int = DEAD_LETTER_TTL_MS,
) -> Call:
    """What does not parse is kept as it was, and made usable again or given up on.

    Args:
        kind, name: of the key: what it is about, '' where there is one of a kind.
        wanted: type that the key must have, in lower case.
        fault: what is wrong, for people.
        broken: fields that are broken, with their values as they were read.
        owner: the instance that owns the session, as far as is known.
    """
    member = f"{kind}:{name}" if name else kind
    words = [word for pair in broken.items() for word in pair]
    return SCRIPTS["set_aside"].call(
        {
            **_guarded(k),
            "events": k.events,
            "quarantine": k.quarantine,
            "kept": k.set_aside(member),
            "kept_key": k.set_aside_key(member),
            "instances": k.instances,
            "graves": k.graves,
            "leases": k.leases,
            "orphans": k.orphans,
            "dead_letters": k.dead_letters,
            "record": k.tag + f":{kind}" + (f":{name}" if name else ""),
            "owner": k.instance(owner),
            "owned": k.owned(owner),
        },
        {
            "server": SERVER,
            "member": member,
            "kind": kind,
            "name": name,
            "wanted": wanted,
            "fault": fault,
            "owner_id": owner,
            "ttl_ms": ttl_ms,
        },
        (),
        words,
    )


def set_aside_member(
    k: Keys, *, index: str, raw: bytes, fields: Sequence[bytes] = (), ttl_ms: int = DEAD_LETTER_TTL_MS
) -> Call:
    """A member that is no id, or an entry that nobody can read, goes out of an index and is kept.

    Args:
        index: its key after the tag, as ``graves`` or ``offers:default``.
        raw: the member, or the entry's id.
        fields: names and values in turn, of an entry.
    """
    member = f"member:{index}:{hashlib.sha256(raw).hexdigest()[:12]}"
    return SCRIPTS["set_aside_member"].call(
        {
            "events": k.events,
            "quarantine": k.quarantine,
            "kept": k.set_aside(member),
            "index": f"{k.tag}:{index}",
        },
        {"server": SERVER, "member": member, "raw": raw, "name": index, "ttl_ms": ttl_ms},
        (),
        fields[: 2 * (len(fields) // 2)],
    )


def correct(k: Keys, *, member: str, kind: str, name: str, fields: Sequence[bytes] = ()) -> Call:
    """A person gives fields of a record that was set aside values that parse; without any: it is forgotten.

    Args:
        member: under which name it is kept.
        kind, name: of the record's key.
        fields: names and values in turn.
    """
    return SCRIPTS["correct"].call(
        {
            "events": k.events,
            "quarantine": k.quarantine,
            "kept": k.set_aside(member),
            "kept_key": k.set_aside_key(member),
            "record": k.tag + f":{kind}" + (f":{name}" if name else ""),
        },
        {"server": SERVER, "member": member, "kind": kind},
        (),
        fields,
    )
