"""Inside a worker's calls: sessions, offers, comparing them with the store, and sealing their data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.worker.adoption import Adoption
from coordinator.worker.session import Session, SessionOwner

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterable, Mapping

    from coordinator.keyring import KeyRing
    from coordinator.store.executor import Executor
    from coordinator.worker.attached import AttachedSession
    from coordinator.worker.ledger import Ledger
    from coordinator.worker.membership import Membership
    from coordinator.worker.offer import Offer
    from coordinator.worker.offer_reader import OfferReader
    from coordinator.worker.offers_in_hand import OffersInHand
    from coordinator.worker.placement import Share
    from coordinator.worker.resync import Resync
    from coordinator.worker.sealer import Place, Sealer
    from coordinator.worker.serving import Serving
    from coordinator.worker.trust_window import TrustWindow
    from tests.inside.spots import Spot

__all__ = [
    "compare",
    "comparison_spot",
    "deaths_known",
    "executor_of_child",
    "forget_endings",
    "give_back_overdue",
    "giving_up_spot",
    "instance_of_offer",
    "is_letting_go",
    "is_stalled",
    "keep_leases",
    "known_offers",
    "ledger_of_offer",
    "letting_go_spot",
    "owner_of",
    "seal_without_fingerprint",
    "set_known_offers",
    "set_staged",
    "staged_of",
    "started_together",
    "trust_window_of",
    "trusted_until",
    "users_followed",
    "withdrawal_spot",
    "write_spot",
]

# -- sessions ----------------------------------------------------------------------------------------------------------


def write_spot() -> Spot:
    """Through which every checkpoint of a session goes, encoded, whether it was staged or not."""
    return Session, "_write"


def staged_of(session: Session[Any]) -> tuple[bytes, str] | None:
    """What is staged and not sent yet, encoded, with its encoding."""
    return session._staged


def set_staged(session: Session[Any], raw: bytes, encoding: str = "bytes") -> None:
    """Stages without sending: `Session.stage` sends it in the next moment."""
    session._staged = raw, encoding


def owner_of(session: Session[Any]) -> SessionOwner:
    """What all sessions of one membership have in common: by it two workers of one process are told apart."""
    return session._owner


def trust_window_of(session: Session[Any]) -> TrustWindow:
    """What the last beat of its instance is worth, also when that has another by now: the session tells what follows from it."""
    return session._pulse


def users_followed(session: Session[Any]) -> Mapping[asyncio.Task[Any], Callable[[asyncio.Task[Any]], None]]:
    """Tasks that use a session, with what is called at their end; a session tells only whether one does."""
    return session._users._following


def forget_endings(member: Membership) -> None:
    """Nobody carries on with endings that had no answer: then leaving has to."""
    member.endings._ends._waiting.clear()


def executor_of_child(child: AttachedSession) -> Executor:
    """Through which a child asks what it may do."""
    return child._part.executor


def trusted_until(child: AttachedSession) -> float:
    """Until when, by the event loop's clock, a child believes that its owner lives; it tells only whether it does now."""
    return child._trusted_until


# -- offers ------------------------------------------------------------------------------------------------------------


def ledger_of_offer(offer: Offer[Any]) -> Ledger[Any]:
    """The ledger of the membership that it was read by, before its session is there."""
    return offer._actions.ledger


def instance_of_offer(offer: Offer[Any]) -> str:
    """For which instance it was read; the worker may have another id by the time of its adoption."""
    return offer._instance


def known_offers(reader: OfferReader) -> dict[bytes, Offer]:
    """What was read and not answered, by entry, also what no program was given yet."""
    return reader._known


def set_known_offers(reader: OfferReader, known: dict[bytes, Offer], returning: Iterable[Offer] = ()) -> None:
    """As if these had been read, and some of them were about to be given back: a great many, without a stream of them."""
    reader._known, reader._returning = known, {*returning}


async def keep_leases(reader: OfferReader) -> None:
    """Keeps leases of what was read, now and not when they are due."""
    await reader._keep_leases()


async def give_back_overdue(reader: OfferReader) -> None:
    """Gives back what the program has had for too long, now and not at the next look."""
    await reader._give_back_overdue()


def is_stalled(hand: OffersInHand[Any]) -> bool:
    """Whether the program is taken for one that does not get to its offers; it shows in what is read for it later."""
    return hand._stalled


def started_together(serving: Serving) -> int:
    """How many handlers are started in one turn now."""
    return serving._pace.together


def deaths_known(share: Share) -> Collection[str]:
    """Deaths of which it is remembered how many calls may still be taken."""
    return share._left.keys()


def withdrawal_spot() -> Spot:
    """Says to an owner that its asker waits no longer: who stands before it loses that word."""
    return Adoption, "_withdraw"


def letting_go_spot(member: Membership) -> Spot:
    """Lets a call go to an heir that asks for it; another one never gets to it."""
    return member.handovers, "_let_go"


def is_letting_go(member: Membership) -> bool:
    """Whether a call is being let go just now."""
    return bool(member.handovers._letting_go)


# -- comparing with the store ------------------------------------------------------------------------------------------


async def compare(member: Membership) -> None:
    """Compares once with the store, now, and returns when that is done."""
    await member.resync._compare()


def comparison_spot(resync: Resync) -> Spot:
    """The same: who stands before it has something happen in between."""
    return resync, "_compare"


def giving_up_spot(resync: Resync) -> Spot:
    """Gives up a call that only the store names: who stands before it has the store change after it was read."""
    return resync, "_give_up"


# -- sealing -----------------------------------------------------------------------------------------------------------


def seal_without_fingerprint(
    sealer: Sealer, ring: KeyRing, key_id: str, place: Place, nonce: bytes, raw: bytes, encoding: str
) -> bytes:
    """Data as it was sealed before an encoding named the key's fingerprint; nothing seals so any more."""
    return nonce + sealer._cipher(ring, key_id, place).encrypt(nonce, raw, sealer._bound(place, encoding))
