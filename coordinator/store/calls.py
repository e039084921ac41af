"""One function a script, one class a reply: generated from the headers of ``lua/*.lua`` (tests/store/typed_calls.py).

Each function returns a `ScriptCall`, which an executor runs; none does I/O. Lengths of time are in seconds. A reason is made to
fit.
What the keys and arguments mean, and why each script is safe to run twice, stands in its header. A reply without fields, and one
that always has the same, is one class for all scripts; else each script's own is a subclass of the word's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from coordinator.bounds import fitted
from coordinator.clock import in_ms
from coordinator.store.keys import Keys
from coordinator.store.past import NO_PAST, Past
from coordinator.store.replies import Reply
from coordinator.store.scripts import SCRIPTS, SERVER, ScriptCall
from coordinator.store.usual import BATCH, DAY, DEAD_LETTER_TTL, GIVE_UP_AFTER, INLINE_BYTES, MOST_SUSPECTS


def _few(script: str, things: Sequence[str], most: int) -> None:
    if len(things) > most:
        raise ValueError(f"{len(things)} are more than one call of {script}.lua takes ({most})")


def _permille(share: float) -> int:
    return round(share * 1000)


@dataclass(frozen=True, slots=True)
class Again(Reply):
    """AGAIN."""

    word: ClassVar[str] = "AGAIN"


@dataclass(frozen=True, slots=True)
class Alive(Reply):
    """ALIVE."""

    word: ClassVar[str] = "ALIVE"


@dataclass(frozen=True, slots=True)
class Already(Reply):
    """ALREADY."""

    word: ClassVar[str] = "ALREADY"


@dataclass(frozen=True, slots=True)
class Changed(Reply):
    """CHANGED."""

    word: ClassVar[str] = "CHANGED"
    roll: int


@dataclass(frozen=True, slots=True)
class Children(Reply):
    """CHILDREN."""

    word: ClassVar[str] = "CHILDREN"
    left: float


@dataclass(frozen=True, slots=True)
class DeadLettered(Reply):
    """DEAD_LETTERED."""

    word: ClassVar[str] = "DEAD_LETTERED"
    reason: str


@dataclass(frozen=True, slots=True)
class Draining(Reply):
    """DRAINING."""

    word: ClassVar[str] = "DRAINING"


@dataclass(frozen=True, slots=True)
class Early(Reply):
    """EARLY."""

    word: ClassVar[str] = "EARLY"


@dataclass(frozen=True, slots=True)
class Extended(Reply):
    """EXTENDED."""

    word: ClassVar[str] = "EXTENDED"


@dataclass(frozen=True, slots=True)
class Fenced(Reply):
    """FENCED."""

    word: ClassVar[str] = "FENCED"


@dataclass(frozen=True, slots=True)
class Foreign(Reply):
    """FOREIGN."""

    word: ClassVar[str] = "FOREIGN"


@dataclass(frozen=True, slots=True)
class Gone(Reply):
    """GONE."""

    word: ClassVar[str] = "GONE"


@dataclass(frozen=True, slots=True)
class Held(Reply):
    """HELD."""

    word: ClassVar[str] = "HELD"


@dataclass(frozen=True, slots=True)
class Left(Reply):
    """LEFT."""

    word: ClassVar[str] = "LEFT"
    left: int


@dataclass(frozen=True, slots=True)
class Lives(Reply):
    """LIVES."""

    word: ClassVar[str] = "LIVES"
    state: str


@dataclass(frozen=True, slots=True)
class NameInUse(Reply):
    """NAME_IN_USE."""

    word: ClassVar[str] = "NAME_IN_USE"
    instance: str
    retry: float


@dataclass(frozen=True, slots=True)
class NoRecord(Reply):
    """NO_RECORD."""

    word: ClassVar[str] = "NO_RECORD"


@dataclass(frozen=True, slots=True)
class Offered(Reply):
    """OFFERED."""

    word: ClassVar[str] = "OFFERED"
    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Ok(Reply):
    """OK."""

    word: ClassVar[str] = "OK"


@dataclass(frozen=True, slots=True)
class Old(Reply):
    """OLD."""

    word: ClassVar[str] = "OLD"
    checkpoint: int


@dataclass(frozen=True, slots=True)
class Orphan(Reply):
    """ORPHAN."""

    word: ClassVar[str] = "ORPHAN"


@dataclass(frozen=True, slots=True)
class Owned(Reply):
    """OWNED."""

    word: ClassVar[str] = "OWNED"
    owner: str
    state: str


@dataclass(frozen=True, slots=True)
class Partitions(Reply):
    """PARTITIONS."""

    word: ClassVar[str] = "PARTITIONS"
    partitions: int


@dataclass(frozen=True, slots=True)
class Protocol(Reply):
    """PROTOCOL."""

    word: ClassVar[str] = "PROTOCOL"
    protocol: int


@dataclass(frozen=True, slots=True)
class Resync(Reply):
    """RESYNC."""

    word: ClassVar[str] = "RESYNC"


@dataclass(frozen=True, slots=True)
class Returned(Reply):
    """RETURNED."""

    word: ClassVar[str] = "RETURNED"
    owner: str


@dataclass(frozen=True, slots=True)
class Rewritten(Reply):
    """REWRITTEN."""

    word: ClassVar[str] = "REWRITTEN"


@dataclass(frozen=True, slots=True)
class Stop(Reply):
    """STOP."""

    word: ClassVar[str] = "STOP"


@dataclass(frozen=True, slots=True)
class Unknown(Reply):
    """UNKNOWN."""

    word: ClassVar[str] = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Unmade(Reply):
    """UNMADE."""

    word: ClassVar[str] = "UNMADE"


@dataclass(frozen=True, slots=True)
class Wedged(Reply):
    """WEDGED."""

    word: ClassVar[str] = "WEDGED"


@dataclass(frozen=True, slots=True)
class Yours(Reply):
    """YOURS."""

    word: ClassVar[str] = "YOURS"


@dataclass(frozen=True, slots=True)
class AdoptOk(Ok):
    """OK."""

    epoch: int
    data: bytes
    encoding: str
    previous_owner: str
    cause: str
    attempt: int
    orphaned_at_ms: int
    served_until_ms: int | None
    data_at_ms: int | None
    now_ms: int
    planned: bool
    pool: str
    tenant: str
    requires: str
    opened_at_ms: int
    checkpoint: int
    existing: bool
    renewed_from: int


@dataclass(frozen=True, slots=True)
class AdoptGone(Gone):
    """GONE."""

    state: str


@dataclass(frozen=True, slots=True)
class FencedInstance(Fenced):
    """FENCED."""

    cause: str


@dataclass(frozen=True, slots=True)
class AllowedOk(Ok):
    """OK."""

    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskOk(Ok):
    """OK."""

    left: float


@dataclass(frozen=True, slots=True)
class AskGone(Gone):
    """GONE."""

    state: str


@dataclass(frozen=True, slots=True)
class BeatOk(Ok):
    """OK."""

    server: str
    lineage: str
    now_ms: int
    asked: int
    state: str
    presence: str


@dataclass(frozen=True, slots=True)
class BeatResync(Resync):
    """RESYNC."""

    server: str
    lineage: str
    held: bool
    owned: int


@dataclass(frozen=True, slots=True)
class BeatUnknown(Unknown):
    """UNKNOWN."""

    server: str
    lineage: str


@dataclass(frozen=True, slots=True)
class CertifyOk(Ok):
    """OK."""

    owned: int


@dataclass(frozen=True, slots=True)
class CertifyAlready(Already):
    """ALREADY."""

    cause: str


@dataclass(frozen=True, slots=True)
class FencedWrite(Fenced):
    """FENCED."""

    scope: str
    owner: str
    epoch: int
    state: str


@dataclass(frozen=True, slots=True)
class ClaimOk(Ok):
    """OK."""

    offered: int
    dead_lettered: int
    skipped: int
    other_pools: tuple[str, ...]
    children: float
    left: int


@dataclass(frozen=True, slots=True)
class CorrectOk(Ok):
    """OK."""

    written: int


@dataclass(frozen=True, slots=True)
class DeclareOk(Ok):
    """OK."""

    owned: int


@dataclass(frozen=True, slots=True)
class DeclareHeld(Held):
    """HELD."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeclareAlready(Already):
    """ALREADY."""

    cause: str


@dataclass(frozen=True, slots=True)
class DeclineOk(Ok):
    """OK."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DrainOk(Ok):
    """OK."""

    owned: int


@dataclass(frozen=True, slots=True)
class DrainAlready(Already):
    """ALREADY."""

    owned: int


@dataclass(frozen=True, slots=True)
class ExtendLeasesOk(Ok):
    """OK."""

    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetOk(Ok):
    """OK."""

    forgotten: int


@dataclass(frozen=True, slots=True)
class HandOverOk(Ok):
    """OK."""

    heir: str


@dataclass(frozen=True, slots=True)
class InitOk(Ok):
    """OK."""

    lineage: str
    server: str
    created: bool
    protocol: int


@dataclass(frozen=True, slots=True)
class JoinOk(Ok):
    """OK."""

    lineage: str
    server: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class JoinAgain(Again):
    """AGAIN."""

    predecessor: str


@dataclass(frozen=True, slots=True)
class LetGoOk(Ok):
    """OK."""

    epoch: int


@dataclass(frozen=True, slots=True)
class LetGoGone(Gone):
    """GONE."""

    state: str


@dataclass(frozen=True, slots=True)
class OpenOk(Ok):
    """OK."""

    epoch: int
    existing: bool
    data: bytes
    encoding: str
    checkpoint: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class OpenAgain(Again):
    """AGAIN."""

    letter_epoch: str


@dataclass(frozen=True, slots=True)
class PruneOk(Ok):
    """OK."""

    pruned: int


@dataclass(frozen=True, slots=True)
class PurgeGone(Gone):
    """GONE."""

    state: str


@dataclass(frozen=True, slots=True)
class ReassertOk(Ok):
    """OK."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReassertAgain(Again):
    """AGAIN."""

    rival: str


@dataclass(frozen=True, slots=True)
class ReassertGone(Gone):
    """GONE."""

    state: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ReleaseOk(Ok):
    """OK."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RenewOk(Ok):
    """OK."""

    epoch: int
    checkpoint: int


@dataclass(frozen=True, slots=True)
class RenewGone(Gone):
    """GONE."""

    state: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RepairOk(Ok):
    """OK."""

    repaired: str


@dataclass(frozen=True, slots=True)
class ReplayOk(Ok):
    """OK."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReplayGone(Gone):
    """GONE."""

    state: str


@dataclass(frozen=True, slots=True)
class ResumedOk(Ok):
    """OK."""

    resume: float


@dataclass(frozen=True, slots=True)
class ScanOk(Ok):
    """OK."""

    now_ms: int
    reason: str
    hold_until_ms: int
    transfers_held: bool
    next_ms: int
    lineage: str
    suspects: tuple[str, ...]
    graves: tuple[str, ...]
    leases: tuple[str, ...]
    breaker_since_ms: int
    highest_epoch: int


@dataclass(frozen=True, slots=True)
class ScanHeld(Held):
    """HELD."""

    now_ms: int
    reason: str
    hold_until_ms: int
    transfers_held: bool
    next_ms: int
    lineage: str
    suspects: tuple[str, ...]
    graves: tuple[str, ...]
    leases: tuple[str, ...]
    breaker_since_ms: int
    highest_epoch: int


@dataclass(frozen=True, slots=True)
class SetAsideOk(Ok):
    """OK."""

    done: str


@dataclass(frozen=True, slots=True)
class StoppedOk(Ok):
    """OK."""

    left: int


@dataclass(frozen=True, slots=True)
class TrimOk(Ok):
    """OK."""

    trimmed: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TrustOk(Ok):
    """OK."""

    remaining: float
    dead_after: float


@dataclass(frozen=True, slots=True)
class WithdrawGone(Gone):
    """GONE."""

    state: str


AdoptReply: TypeAlias = AdoptOk | Owned | Foreign | AdoptGone | Draining | Held | FencedInstance | Unknown
_ADOPT: Mapping[bytes, type[AdoptReply]] = {
    b"OK": AdoptOk,
    b"OWNED": Owned,
    b"FOREIGN": Foreign,
    b"GONE": AdoptGone,
    b"DRAINING": Draining,
    b"HELD": Held,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


def adopt(
    k: Keys,
    *,
    session: str,
    instance: str,
    request: str,
    epoch: int | None,
    floor: int,
    pool: str,
    holds: int | None = None,
) -> ScriptCall[AdoptReply]:
    """A worker becomes the owner of an orphan."""
    return ScriptCall(
        SCRIPTS["adopt"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.session(session),
            k.offers(pool),
            k.blamed(instance),
        ),
        (SERVER, session, instance, request, "" if epoch is None else epoch, floor, "" if holds is None else holds),
        _ADOPT,
    )


AgreeReply: TypeAlias = Ok | Changed | Fenced | Unknown
_AGREE: Mapping[bytes, type[AgreeReply]] = {b"OK": Ok, b"CHANGED": Changed, b"FENCED": Fenced, b"UNKNOWN": Unknown}


def agree(k: Keys, *, instance: str, seen: str, roll: int, sessions: Sequence[str]) -> ScriptCall[AgreeReply]:
    """An instance has compared its sessions with their records, one by one, and found them equal: its roll and its index say so."""
    return ScriptCall(
        SCRIPTS["agree"],
        (k.instance(instance), k.owned(instance), *(k.session(one) for one in sessions)),
        (SERVER, instance, seen, roll, *sessions),
        _AGREE,
    )


AllowedReply: TypeAlias = AllowedOk
_ALLOWED: Mapping[bytes, type[AllowedReply]] = {b"OK": AllowedOk}


def allowed(*, tries: Sequence[str], scratch: str) -> ScriptCall[AllowedReply]:
    """Which commands the user of this connection may not run. Redis 7 is asked; on 6.2 each is tried in a form that does nothing."""
    return ScriptCall(SCRIPTS["allowed"], (scratch,), (SERVER, *tries), _ALLOWED)


AskReply: TypeAlias = AskOk | Owned | Orphan | Foreign | AskGone | Draining | Held | FencedInstance | Unknown
_ASK: Mapping[bytes, type[AskReply]] = {
    b"OK": AskOk,
    b"OWNED": Owned,
    b"ORPHAN": Orphan,
    b"FOREIGN": Foreign,
    b"GONE": AskGone,
    b"DRAINING": Draining,
    b"HELD": Held,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


def ask(k: Keys, *, session: str, instance: str, owner: str, request: str, lease: float) -> ScriptCall[AskReply]:
    """An heir asks the living owner to hand the session over: the caller came back to the heir, or it accepts an offer."""
    return ScriptCall(
        SCRIPTS["ask"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.events,
            k.instance(instance),
            k.instance(owner),
            k.session(session),
            k.mailbox(owner),
        ),
        (SERVER, session, instance, owner, request, in_ms(lease)),
        _ASK,
    )


BeatReply: TypeAlias = BeatOk | BeatResync | Wedged | BeatUnknown | FencedInstance
_BEAT: Mapping[bytes, type[BeatReply]] = {
    b"OK": BeatOk,
    b"RESYNC": BeatResync,
    b"WEDGED": Wedged,
    b"UNKNOWN": BeatUnknown,
    b"FENCED": FencedInstance,
}


def beat(
    k: Keys,
    *,
    instance: str,
    dead_after: float,
    seen_server: str,
    roll: str,
    loop_lag: float,
    past: Past = NO_PAST,
    wedged_after: float = 0,
    presence: bool = False,
) -> ScriptCall[BeatReply]:
    """An instance says "still here"; never creates one."""
    return ScriptCall(
        SCRIPTS["beat"],
        (k.meta, k.detector, k.instances, k.events, k.instance(instance), k.owned(instance), k.mailbox(instance)),
        (
            SERVER,
            instance,
            in_ms(dead_after),
            seen_server,
            past.lineage,
            past.since_ms,
            past.epoch,
            roll,
            in_ms(loop_lag),
            in_ms(wedged_after),
            int(presence),
        ),
        _BEAT,
    )


BlameReply: TypeAlias = Ok | Gone
_BLAME: Mapping[bytes, type[BlameReply]] = {b"OK": Ok, b"GONE": Gone}


def blame(
    k: Keys, *, blamed_from_ms: int, convict: str, apart: int, probation: float, grave: str
) -> ScriptCall[BlameReply]:
    """Writes once what a death says about the sessions of the dead; the coordinators that claim them go by it."""
    return ScriptCall(
        SCRIPTS["blame"], (k.instance(grave),), (SERVER, blamed_from_ms, convict, apart, in_ms(probation)), _BLAME
    )


CertifyReply: TypeAlias = CertifyOk | CertifyAlready | Unknown
_CERTIFY: Mapping[bytes, type[CertifyReply]] = {b"OK": CertifyOk, b"ALREADY": CertifyAlready, b"UNKNOWN": Unknown}


def certify(
    k: Keys, *, instance: str, cause: str, by: str, reason: str, fenced_ttl: float = DAY
) -> ScriptCall[CertifyReply]:
    """A certificate buries an instance: it left, its process exited, or an operator says so."""
    return ScriptCall(
        SCRIPTS["certify"],
        (k.meta, k.detector, k.instances, k.graves, k.events, k.instance(instance), k.owned(instance)),
        (SERVER, instance, cause, by, fitted(reason), in_ms(fenced_ttl)),
        _CERTIFY,
    )


CheckpointReply: TypeAlias = Ok | Old | FencedWrite | Resync | Unknown
_CHECKPOINT: Mapping[bytes, type[CheckpointReply]] = {
    b"OK": Ok,
    b"OLD": Old,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def checkpoint(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    sequence: int,
    data: bytes,
    writer: str = "",
    attempt: int = 0,
    encoding: str = "bytes",
) -> ScriptCall[CheckpointReply]:
    """The owner writes newer recovery data."""
    return ScriptCall(
        SCRIPTS["checkpoint"],
        (k.meta, k.detector, k.events, k.instance(instance), k.session(session)),
        (SERVER, session, instance, epoch, sequence, writer, attempt, data, encoding),
        _CHECKPOINT,
    )


ClaimReply: TypeAlias = ClaimOk | Held | Gone
_CLAIM: Mapping[bytes, type[ClaimReply]] = {b"OK": ClaimOk, b"HELD": Held, b"GONE": Gone}


def claim(
    k: Keys,
    *,
    grave: str,
    pool: str,
    lease: float,
    max_recoveries: int,
    recovery_window: float,
    sessions: Sequence[str],
    holder: str = "",
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl: float = DEAD_LETTER_TTL,
    floor: int = 0,
    heirs: int = 1,
    room: int = 0,
) -> ScriptCall[ClaimReply]:
    """A coordinator takes a batch of a grave's sessions under leases and offers them, handovers included."""
    _few("claim", sessions, BATCH)
    return ScriptCall(
        SCRIPTS["claim"],
        (
            k.meta,
            k.detector,
            k.graves,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.instance(grave),
            k.owned(grave),
            k.offers(pool),
            k.blamed(grave),
            *(k.session(one) for one in sessions),
        ),
        (
            SERVER,
            grave,
            pool,
            holder,
            in_ms(lease),
            max_recoveries,
            in_ms(recovery_window),
            inline_bytes,
            in_ms(dead_letter_ttl),
            floor,
            heirs,
            room,
            *sessions,
        ),
        _CLAIM,
    )


CloseReply: TypeAlias = Ok | Children | FencedWrite | Resync | Unknown
_CLOSE: Mapping[bytes, type[CloseReply]] = {
    b"OK": Ok,
    b"CHILDREN": Children,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def close(k: Keys, *, session: str, instance: str, epoch: int, closed_ttl: float, pool: str) -> ScriptCall[CloseReply]:
    """The owner closes the session when its call has ended; the recovery data is deleted at once."""
    return ScriptCall(
        SCRIPTS["close"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.session(session),
            k.offers(pool),
            k.blamed(instance),
        ),
        (SERVER, session, instance, epoch, in_ms(closed_ttl)),
        _CLOSE,
    )


CorrectReply: TypeAlias = CorrectOk | Gone | NoRecord | Lives
_CORRECT: Mapping[bytes, type[CorrectReply]] = {
    b"OK": CorrectOk,
    b"GONE": Gone,
    b"NO_RECORD": NoRecord,
    b"LIVES": Lives,
}


def correct(k: Keys, *, member: str, kind: str, fields: Sequence[bytes], name: str) -> ScriptCall[CorrectReply]:
    """A person gives the fields of a record that was set aside values that parse, or forgets what was set aside."""
    return ScriptCall(
        SCRIPTS["correct"],
        (k.events, k.quarantine, k.set_aside(member), k.set_aside_key(member), k.record(kind, name)),
        (SERVER, member, kind, *fields),
        _CORRECT,
    )


DeclareReply: TypeAlias = DeclareOk | Alive | DeclareHeld | DeclareAlready | Unknown
_DECLARE: Mapping[bytes, type[DeclareReply]] = {
    b"OK": DeclareOk,
    b"ALIVE": Alive,
    b"HELD": DeclareHeld,
    b"ALREADY": DeclareAlready,
    b"UNKNOWN": Unknown,
}


def declare(
    k: Keys,
    *,
    instance: str,
    deadline_ms: int,
    max_scan_gap: float,
    cause: str = "silence",
    by: str = "",
    lost_after: float = 0,
    breaker_window: float = 2,
) -> ScriptCall[DeclareReply]:
    """A coordinator declares an instance dead by its silence. The guards are checked again here, in the same moment."""
    return ScriptCall(
        SCRIPTS["declare"],
        (
            k.meta,
            k.detector,
            k.instances,
            k.graves,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.mailbox(instance),
        ),
        (SERVER, instance, deadline_ms, in_ms(max_scan_gap), cause, by, in_ms(lost_after), in_ms(breaker_window)),
        _DECLARE,
    )


DeclineReply: TypeAlias = DeclineOk | DeadLettered | Gone | Held | FencedInstance
_DECLINE: Mapping[bytes, type[DeclineReply]] = {
    b"OK": DeclineOk,
    b"DEAD_LETTERED": DeadLettered,
    b"GONE": Gone,
    b"HELD": Held,
    b"FENCED": FencedInstance,
}


def decline(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    reason: str,
    counts: bool,
    max_offers: int,
    lease: float,
    pool: str,
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl: float = DEAD_LETTER_TTL,
    give_up_after: float = GIVE_UP_AFTER,
    restarted_since: str = "",
) -> ScriptCall[DeclineReply]:
    """A worker gives an offer back; others get it at once."""
    return ScriptCall(
        SCRIPTS["decline"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.instance(instance),
            k.session(session),
            k.offers(pool),
        ),
        (
            SERVER,
            session,
            instance,
            epoch,
            fitted(reason),
            int(counts),
            max_offers,
            in_ms(lease),
            inline_bytes,
            in_ms(dead_letter_ttl),
            in_ms(give_up_after),
            restarted_since,
        ),
        _DECLINE,
    )


DelegateReply: TypeAlias = Ok | Gone | FencedInstance
_DELEGATE: Mapping[bytes, type[DelegateReply]] = {b"OK": Ok, b"GONE": Gone, b"FENCED": FencedInstance}


def delegate(k: Keys, *, session: str, instance: str, epoch: int, lease: float, pool: str) -> ScriptCall[DelegateReply]:
    """A worker leaves an offer adoptable by id: its caller will come back to some door."""
    return ScriptCall(
        SCRIPTS["delegate"],
        (k.meta, k.detector, k.leases, k.events, k.instance(instance), k.session(session), k.offers(pool)),
        (SERVER, session, instance, epoch, in_ms(lease)),
        _DELEGATE,
    )


DrainReply: TypeAlias = DrainOk | DrainAlready | Gone
_DRAIN: Mapping[bytes, type[DrainReply]] = {b"OK": DrainOk, b"ALREADY": DrainAlready, b"GONE": Gone}


def drain(k: Keys, *, instance: str, by: str, reason: str, timeout: float = 0) -> ScriptCall[DrainReply]:
    """An instance takes nothing new from now on, and hands over what it owns."""
    return ScriptCall(
        SCRIPTS["drain"],
        (k.meta, k.detector, k.events, k.instance(instance), k.owned(instance), k.mailbox(instance)),
        (SERVER, instance, by, fitted(reason), in_ms(timeout)),
        _DRAIN,
    )


ExpireReply: TypeAlias = Extended | Rewritten | Offered | DeadLettered | Returned | Early | Gone | Held
_EXPIRE: Mapping[bytes, type[ExpireReply]] = {
    b"EXTENDED": Extended,
    b"REWRITTEN": Rewritten,
    b"OFFERED": Offered,
    b"DEAD_LETTERED": DeadLettered,
    b"RETURNED": Returned,
    b"EARLY": Early,
    b"GONE": Gone,
    b"HELD": Held,
}


def expire(
    k: Keys,
    *,
    session: str,
    pool: str,
    lease: float,
    max_offers: int,
    give_up_after: float,
    holder: str = "",
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl: float = DEAD_LETTER_TTL,
    entry_of_dead: str = "",
    alone: bool = True,
    apart: int = 0,
) -> ScriptCall[ExpireReply]:
    """A lease ended. An offer is extended, offered again or given up on; a handover goes back to its owner."""
    return ScriptCall(
        SCRIPTS["expire"],
        (k.meta, k.detector, k.leases, k.orphans, k.dead_letters, k.events, k.session(session), k.offers(pool)),
        (
            SERVER,
            session,
            pool,
            holder,
            in_ms(lease),
            max_offers,
            in_ms(give_up_after),
            inline_bytes,
            in_ms(dead_letter_ttl),
            entry_of_dead,
            int(alone),
            apart,
        ),
        _EXPIRE,
    )


ExtendLeasesReply: TypeAlias = ExtendLeasesOk | FencedInstance
_EXTEND_LEASES: Mapping[bytes, type[ExtendLeasesReply]] = {b"OK": ExtendLeasesOk, b"FENCED": FencedInstance}


def extend_leases(
    k: Keys, *, instance: str, lease: float, sessions: Sequence[str], epochs: Sequence[str]
) -> ScriptCall[ExtendLeasesReply]:
    """A reader works through the offers that it has in hand: their leases begin anew."""
    _few("extend_leases", sessions, BATCH)
    return ScriptCall(
        SCRIPTS["extend_leases"],
        (k.meta, k.detector, k.leases, k.events, k.instance(instance), *(k.session(one) for one in sessions)),
        (SERVER, instance, in_ms(lease), *(f"{a} {b}" for a, b in zip(sessions, epochs, strict=True))),
        _EXTEND_LEASES,
    )


ForgetReply: TypeAlias = ForgetOk
_FORGET: Mapping[bytes, type[ForgetReply]] = {b"OK": ForgetOk}


def forget(k: Keys, *, names: Sequence[str], instances: Sequence[str]) -> ScriptCall[ForgetReply]:
    """Forgets which instance a name stands for, where that instance is gone."""
    return ScriptCall(
        SCRIPTS["forget"],
        (k.names, *(k.instance(one) for one in instances)),
        (SERVER, *(f"{a} {b}" for a, b in zip(names, instances, strict=True))),
        _FORGET,
    )


HandOverReply: TypeAlias = HandOverOk | FencedWrite | Resync | Held | Unknown
_HAND_OVER: Mapping[bytes, type[HandOverReply]] = {
    b"OK": HandOverOk,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"HELD": Held,
    b"UNKNOWN": Unknown,
}


def hand_over(
    k: Keys, *, session: str, instance: str, epoch: int, lease: float, pool: str, inline_bytes: int = INLINE_BYTES
) -> ScriptCall[HandOverReply]:
    """An owner that drains offers a session and goes on serving it; an heir accepts with ask, then the owner lets go."""
    return ScriptCall(
        SCRIPTS["hand_over"],
        (k.meta, k.detector, k.leases, k.events, k.instance(instance), k.session(session), k.offers(pool)),
        (SERVER, session, instance, epoch, in_ms(lease), inline_bytes),
        _HAND_OVER,
    )


InitReply: TypeAlias = InitOk | Partitions | Protocol | Unmade
_INIT: Mapping[bytes, type[InitReply]] = {
    b"OK": InitOk,
    b"PARTITIONS": Partitions,
    b"PROTOCOL": Protocol,
    b"UNMADE": Unmade,
}


def init(
    k: Keys, *, partitions: int, protocol: int, lineage: str, hold: float, previous: str = ""
) -> ScriptCall[InitReply]:
    """Makes the partition, or tells how it was made."""
    return ScriptCall(
        SCRIPTS["init"],
        (k.meta, k.detector, k.events),
        (SERVER, partitions, protocol, lineage, in_ms(hold), previous),
        _INIT,
    )


JoinReply: TypeAlias = JoinOk | NameInUse | JoinAgain | FencedInstance | Unknown
_JOIN: Mapping[bytes, type[JoinReply]] = {
    b"OK": JoinOk,
    b"NAME_IN_USE": NameInUse,
    b"AGAIN": JoinAgain,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


def join(
    k: Keys,
    *,
    instance: str,
    name: str,
    pool: str,
    capacity: int,
    labels: str,
    address: str,
    dead_after: float,
    trust: float,
    predecessor: str = "",
    token_hash: str = "",
    hosting: str = "",
    past: Past = NO_PAST,
    tenant: str = "",
    again: bool = False,
) -> ScriptCall[JoinReply]:
    """An instance registers; an older one of the same name is buried once its trust window is over."""
    return ScriptCall(
        SCRIPTS["join"],
        (
            k.meta,
            k.detector,
            k.instances,
            k.graves,
            k.events,
            k.names,
            k.instance(instance),
            k.instance(predecessor or instance),
        ),
        (
            SERVER,
            instance,
            name,
            pool,
            capacity,
            labels,
            address,
            in_ms(dead_after),
            in_ms(trust),
            predecessor,
            token_hash,
            hosting,
            past.lineage,
            past.since_ms,
            past.epoch,
            tenant,
            int(again),
        ),
        _JOIN,
    )


LetGoReply: TypeAlias = LetGoOk | LetGoGone | Children | FencedWrite | Resync | Held | Unknown
_LET_GO: Mapping[bytes, type[LetGoReply]] = {
    b"OK": LetGoOk,
    b"GONE": LetGoGone,
    b"CHILDREN": Children,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"HELD": Held,
    b"UNKNOWN": Unknown,
}


def let_go(
    k: Keys,
    *,
    session: str,
    instance: str,
    heir: str,
    epoch: int,
    pool: str,
    sequence: int = 0,
    data: bytes = b"",
    encoding: str = "bytes",
    unserved: float = 0,
) -> ScriptCall[LetGoReply]:
    """The owner hands a session, with its last data, to the heir that accepted; the epoch moves."""
    return ScriptCall(
        SCRIPTS["let_go"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.instance(heir),
            k.owned(heir),
            k.session(session),
            k.offers(pool),
            k.mailbox(heir),
            k.blamed(instance),
            k.blamed(heir),
        ),
        (SERVER, session, instance, heir, epoch, sequence, data, encoding, in_ms(unserved)),
        _LET_GO,
    )


OpenReply: TypeAlias = OpenOk | Owned | OpenAgain | Draining | Held | FencedInstance | Unknown
_OPEN: Mapping[bytes, type[OpenReply]] = {
    b"OK": OpenOk,
    b"OWNED": Owned,
    b"AGAIN": OpenAgain,
    b"DRAINING": Draining,
    b"HELD": Held,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


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
) -> ScriptCall[OpenReply]:
    """An instance becomes the first owner of a session. A dead letter of the same id is kept under its own epoch."""
    return ScriptCall(
        SCRIPTS["open"],
        (
            k.meta,
            k.detector,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.session(session),
            k.letter_or_record(session, letter_epoch),
            k.dead_letters,
        ),
        (SERVER, session, instance, request, floor, pool, tenant, requires, data, encoding, letter_epoch),
        _OPEN,
    )


PruneReply: TypeAlias = PruneOk
_PRUNE: Mapping[bytes, type[PruneReply]] = {b"OK": PruneOk}


def prune(
    k: Keys, *, states: str, members: Sequence[str], index: str, records: Sequence[str], counted: bool = False
) -> ScriptCall[PruneReply]:
    """Takes members out of an index to which their records do not belong, or no longer."""
    return ScriptCall(SCRIPTS["prune"], (index, k.detector, *records), (SERVER, states, int(counted), *members), _PRUNE)


PurgeReply: TypeAlias = Ok | PurgeGone
_PURGE: Mapping[bytes, type[PurgeReply]] = {b"OK": Ok, b"GONE": PurgeGone}


def purge(k: Keys, *, session: str, closed_ttl: float, letter_epoch: str = "") -> ScriptCall[PurgeReply]:
    """A person closes a dead letter; its data is deleted."""
    return ScriptCall(
        SCRIPTS["purge"],
        (k.dead_letters, k.events, k.letter_or_record(session, letter_epoch)),
        (SERVER, session, in_ms(closed_ttl), k.letter_member(session, letter_epoch)),
        _PURGE,
    )


ReassertReply: TypeAlias = ReassertOk | ReassertAgain | ReassertGone | FencedInstance | Unknown
_REASSERT: Mapping[bytes, type[ReassertReply]] = {
    b"OK": ReassertOk,
    b"AGAIN": ReassertAgain,
    b"GONE": ReassertGone,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


def reassert(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    sequence: int,
    data: bytes,
    pool: str,
    tenant: str,
    requires: str,
    opened_at_ms: int,
    encoding: str = "bytes",
    rival: str = "",
) -> ScriptCall[ReassertReply]:
    """After lost writes an owner states again what it held; the highest epoch wins while the hold lasts."""
    return ScriptCall(
        SCRIPTS["reassert"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.session(session),
            k.offers(pool),
            k.instance(rival or instance),
            k.owned(rival or instance),
        ),
        (SERVER, session, instance, epoch, sequence, data, encoding, pool, tenant, requires, opened_at_ms, rival),
        _REASSERT,
    )


ReleaseReply: TypeAlias = ReleaseOk | DeadLettered | Children | FencedWrite | Resync | Held | Unknown
_RELEASE: Mapping[bytes, type[ReleaseReply]] = {
    b"OK": ReleaseOk,
    b"DEAD_LETTERED": DeadLettered,
    b"CHILDREN": Children,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"HELD": Held,
    b"UNKNOWN": Unknown,
}


def release(
    k: Keys,
    *,
    session: str,
    instance: str,
    epoch: int,
    request: str,
    reason: str,
    cause: str,
    lease: float,
    max_recoveries: int,
    recovery_window: float,
    pool: str,
    counts: bool = True,
    unserved: float = 0,
    sequence: int = 0,
    data: bytes = b"",
    encoding: str = "bytes",
    inline_bytes: int = INLINE_BYTES,
    dead_letter_ttl: float = DEAD_LETTER_TTL,
) -> ScriptCall[ReleaseReply]:
    """The owner gives up one session that it cannot serve, with its last data; it is offered at once."""
    return ScriptCall(
        SCRIPTS["release"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.instance(instance),
            k.owned(instance),
            k.session(session),
            k.offers(pool),
            k.blamed(instance),
        ),
        (
            SERVER,
            session,
            instance,
            epoch,
            request,
            fitted(reason),
            cause,
            int(counts),
            in_ms(unserved),
            sequence,
            data,
            encoding,
            in_ms(lease),
            max_recoveries,
            in_ms(recovery_window),
            inline_bytes,
            in_ms(dead_letter_ttl),
        ),
        _RELEASE,
    )


RenewReply: TypeAlias = RenewOk | Held | RenewGone | FencedInstance | Unknown
_RENEW: Mapping[bytes, type[RenewReply]] = {
    b"OK": RenewOk,
    b"HELD": Held,
    b"GONE": RenewGone,
    b"FENCED": FencedInstance,
    b"UNKNOWN": Unknown,
}


def renew(k: Keys, *, session: str, instance: str, epoch: int) -> ScriptCall[RenewReply]:
    """After the hold a re-asserted session gets a new epoch; only then may its owner write."""
    return ScriptCall(
        SCRIPTS["renew"],
        (k.meta, k.detector, k.events, k.instance(instance), k.session(session)),
        (SERVER, session, instance, epoch),
        _RENEW,
    )


RepairReply: TypeAlias = RepairOk | Gone | Held
_REPAIR: Mapping[bytes, type[RepairReply]] = {b"OK": RepairOk, b"GONE": Gone, b"HELD": Held}


def repair(k: Keys, *, session: str, owner: str, dead_after: float) -> ScriptCall[RepairReply]:
    """Makes the indexes agree with the record, which is the truth."""
    return ScriptCall(
        SCRIPTS["repair"],
        (
            k.meta,
            k.detector,
            k.instances,
            k.graves,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.session(session),
            k.instance(owner),
            k.owned(owner),
        ),
        (SERVER, session, owner, in_ms(dead_after)),
        _REPAIR,
    )


ReplayReply: TypeAlias = ReplayOk | Owned | ReplayGone | Held
_REPLAY: Mapping[bytes, type[ReplayReply]] = {b"OK": ReplayOk, b"OWNED": Owned, b"GONE": ReplayGone, b"HELD": Held}


def replay(
    k: Keys,
    *,
    session: str,
    lease: float,
    pool: str,
    holder: str = "",
    inline_bytes: int = INLINE_BYTES,
    letter_epoch: str = "",
) -> ScriptCall[ReplayReply]:
    """A person offers a dead letter again; attempts and age start anew."""
    return ScriptCall(
        SCRIPTS["replay"],
        (
            k.meta,
            k.detector,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.events,
            k.session(session),
            k.offers(pool),
            k.letter_or_record(session, letter_epoch),
        ),
        (SERVER, session, holder, in_ms(lease), inline_bytes, letter_epoch),
        _REPLAY,
    )


ResumedReply: TypeAlias = ResumedOk | FencedWrite | Resync | Unknown
_RESUMED: Mapping[bytes, type[ResumedReply]] = {
    b"OK": ResumedOk,
    b"FENCED": FencedWrite,
    b"RESYNC": Resync,
    b"UNKNOWN": Unknown,
}


def resumed(k: Keys, *, session: str, instance: str, epoch: int) -> ScriptCall[ResumedReply]:
    """Media is up again at the new owner, and the takeover's clock stops."""
    return ScriptCall(
        SCRIPTS["resumed"],
        (k.meta, k.detector, k.events, k.instance(instance), k.session(session)),
        (SERVER, session, instance, epoch),
        _RESUMED,
    )


ScanReply: TypeAlias = ScanOk | ScanHeld | Unknown
_SCAN: Mapping[bytes, type[ScanReply]] = {b"OK": ScanOk, b"HELD": ScanHeld, b"UNKNOWN": Unknown}


def scan(
    k: Keys,
    *,
    max_scan_gap: float,
    hold: float,
    horizon: float,
    limit: int = BATCH,
    most_suspects: int = MOST_SUSPECTS,
    seen_ms: int = 0,
    stepped: float = 0,
    due: float = 0,
    breaker_min: int = 3,
    breaker_share: float = 0.3,
    breaker_window: float = 2,
    another_primary: bool = False,
    past: Past = NO_PAST,
) -> ScriptCall[ScanReply]:
    """A coordinator looks at the partition: which instances are silent, which graves and leases are due. It declares no death."""
    return ScriptCall(
        SCRIPTS["scan"],
        (k.meta, k.detector, k.instances, k.graves, k.leases, k.events),
        (
            SERVER,
            in_ms(max_scan_gap),
            in_ms(hold),
            in_ms(horizon),
            limit,
            most_suspects,
            seen_ms,
            in_ms(stepped),
            in_ms(due),
            breaker_min,
            _permille(breaker_share),
            in_ms(breaker_window),
            int(another_primary),
            past.lineage,
            past.since_ms,
            past.epoch,
        ),
        _SCAN,
    )


SetAsideReply: TypeAlias = SetAsideOk | Held | Gone
_SET_ASIDE: Mapping[bytes, type[SetAsideReply]] = {b"OK": SetAsideOk, b"HELD": Held, b"GONE": Gone}


def set_aside(
    k: Keys,
    *,
    member: str,
    kind: str,
    name: str,
    wanted: str,
    fault: str,
    broken: Mapping[str, bytes],
    owner: str = "",
    ttl: float = DEAD_LETTER_TTL,
) -> ScriptCall[SetAsideReply]:
    """What does not parse is kept as it was and made usable again, or given up on; nothing else waits for it."""
    return ScriptCall(
        SCRIPTS["set_aside"],
        (
            k.meta,
            k.detector,
            k.events,
            k.quarantine,
            k.set_aside(member),
            k.set_aside_key(member),
            k.instances,
            k.graves,
            k.leases,
            k.orphans,
            k.dead_letters,
            k.record(kind, name),
            k.instance(owner),
            k.owned(owner),
        ),
        (
            SERVER,
            member,
            kind,
            name,
            wanted,
            fault,
            owner,
            in_ms(ttl),
            *(word for pair in broken.items() for word in pair),
        ),
        _SET_ASIDE,
    )


SetAsideMemberReply: TypeAlias = Ok | Gone
_SET_ASIDE_MEMBER: Mapping[bytes, type[SetAsideMemberReply]] = {b"OK": Ok, b"GONE": Gone}


def set_aside_member(
    k: Keys, *, member: str, raw: bytes, index: str, fields: Sequence[bytes], ttl: float = DEAD_LETTER_TTL
) -> ScriptCall[SetAsideMemberReply]:
    """Takes a member that is not an id, or an entry that cannot be read, out of its index and keeps it with the reason."""
    return ScriptCall(
        SCRIPTS["set_aside_member"],
        (k.events, k.quarantine, k.set_aside(member), k.index(index)),
        (SERVER, member, raw, index, in_ms(ttl), *fields),
        _SET_ASIDE_MEMBER,
    )


SettleReply: TypeAlias = Ok | Left | Gone
_SETTLE: Mapping[bytes, type[SettleReply]] = {b"OK": Ok, b"LEFT": Left, b"GONE": Gone}


def settle(k: Keys, *, grave: str, fenced_ttl: float) -> ScriptCall[SettleReply]:
    """A grave ends when no session is left in it; the record that refuses the dead stays for a while."""
    return ScriptCall(
        SCRIPTS["settle"],
        (k.graves, k.instance(grave), k.owned(grave), k.blamed(grave)),
        (SERVER, grave, in_ms(fenced_ttl)),
        _SETTLE,
    )


StoppedReply: TypeAlias = StoppedOk | Gone
_STOPPED: Mapping[bytes, type[StoppedReply]] = {b"OK": StoppedOk, b"GONE": Gone}


def stopped(k: Keys, *, epoch: int, session: str, child: str) -> ScriptCall[StoppedReply]:
    """A child process that was told to stop no longer believes; the owner need not wait for it."""
    return ScriptCall(SCRIPTS["stopped"], (k.session(session), k.mailbox(child)), (SERVER, epoch), _STOPPED)


TrimReply: TypeAlias = TrimOk
_TRIM: Mapping[bytes, type[TrimReply]] = {b"OK": TrimOk}


def trim(k: Keys, *, entries: Sequence[str], pool: str, sessions: Sequence[str]) -> ScriptCall[TrimReply]:
    """Deletes the entries of a pool's offers that no record names, and the whole stream when it is empty and has no readers."""
    return ScriptCall(
        SCRIPTS["trim"], (k.offers(pool), *(k.session(one) for one in sessions)), (SERVER, *entries), _TRIM
    )


TrustReply: TypeAlias = TrustOk | Stop | Fenced
_TRUST: Mapping[bytes, type[TrustReply]] = {b"OK": TrustOk, b"STOP": Stop, b"FENCED": Fenced}


def trust(k: Keys, *, instance: str, epoch: int, belief: float, session: str, child: str) -> ScriptCall[TrustReply]:
    """Tells a process that writes on its parent's behalf how long the owner of the session may still be relied on."""
    return ScriptCall(
        SCRIPTS["trust"],
        (k.instances, k.instance(instance), k.session(session), k.mailbox(child)),
        (SERVER, instance, epoch, in_ms(belief)),
        _TRUST,
    )


WithdrawReply: TypeAlias = Ok | Yours | WithdrawGone
_WITHDRAW: Mapping[bytes, type[WithdrawReply]] = {b"OK": Ok, b"YOURS": Yours, b"GONE": WithdrawGone}


def withdraw(k: Keys, *, session: str, instance: str, request: str, pool: str) -> ScriptCall[WithdrawReply]:
    """An heir no longer waits for a handover that it asked for: the owner goes on, or asks another instance."""
    return ScriptCall(
        SCRIPTS["withdraw"],
        (k.meta, k.detector, k.leases, k.events, k.session(session), k.offers(pool)),
        (SERVER, session, instance, request),
        _WITHDRAW,
    )
