"""An entry of a stream of offers as a worker gets it: read once, here, into what the rest of the program uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.clock import in_seconds
from coordinator.store.shapes import faults, instance_id, requires_of, session_id, text, whole

__all__ = ["BrokenEntry", "OfferEntry", "parse_offer"]


class BrokenEntry(Exception):  # noqa: N818 - it is one
    """An entry by which no worker can adopt.

    Attributes:
        session: the session that it offers, '' when it does not say.
        broken: fields that are broken, as they were read.
    """

    def __init__(self, fault: str, session: str = "", broken: Mapping[str, bytes] | None = None) -> None:
        self.session, self.broken = session, broken or {}
        super().__init__(fault)


@dataclass(frozen=True, slots=True)
class OfferEntry:
    """What an entry says; see `coordinator.Offer`. ``probation`` is in seconds.

    ``tenant`` is None where an older program wrote the entry.
    """

    session: str
    epoch: int
    attempt: int
    previous_owner: str
    cause: str
    encoding: str
    data: bytes
    requires: tuple[str, ...]
    tenant: str | None
    restarted_since: int
    apart: int
    probation: float
    room: int
    died_with: int


def parse_offer(raw: Sequence[bytes]) -> OfferEntry:
    """The fields of an entry.

    Raises:
        BrokenEntry: an essential field does not parse.
    """
    fields = {text(name): value for name, value in zip(raw[::2], raw[1::2], strict=False)}
    session = session_id(fields.get("session"))
    if not session:
        raise BrokenEntry("an offer names no session")
    about = ("epoch", "requires", "encoding")
    wrong = faults("session", {name: fields.get(name) for name in about})
    if wrong:
        told = "; ".join(f"{name} {rule}" for name, rule in wrong.items())
        raise BrokenEntry(told, session, {name: fields.get(name) or b"" for name in wrong})
    if not fields.get("epoch"):
        raise BrokenEntry("an offer names no epoch", session)
    return OfferEntry(
        session=session,
        epoch=whole(fields["epoch"]),
        attempt=whole(fields.get("attempt"), 1),
        previous_owner=instance_id(fields.get("previous_owner")),
        cause=text(fields.get("cause")),
        encoding=text(fields.get("encoding")),
        data=fields.get("data", b""),
        requires=requires_of(fields.get("requires")),
        tenant=text(fields["tenant"]) if "tenant" in fields else None,
        restarted_since=whole(fields.get("restarted_since")),
        apart=whole(fields.get("apart")),
        probation=in_seconds(whole(fields.get("probation_ms"))),
        room=whole(fields.get("room")),
        died_with=whole(fields.get("died_with")),
    )
