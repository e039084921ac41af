"""An offer: the right to adopt an orphan until its lease ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from coordinator import clock
from coordinator.errors import DrainingError, FencedError
from coordinator.ids import new_request_id
from coordinator.store import calls
from coordinator.worker.data import decode
from coordinator.worker.session import Session

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Offer"]


class Offer:
    """What ``Worker.offers`` yields.

    Attributes:
        session_id, epoch: of the orphan; the adoption raises the epoch once more.
        previous_owner, cause: whose it was, and why it has no owner.
        attempt: number of this offer since it became an orphan, from 1.
        planned: a handover: its owner serves it until it is adopted.
        requires: labels (``name`` or ``name=value``) that the session asks for.
        encoding: ``json`` or ``bytes``, as the recovery data was given.
        raw_data: recovery data as stored; empty when it was too large to travel (the adopter gets it in any case).
    """

    def __init__(self, member: Membership, entry: bytes, fields: dict[str, bytes]) -> None:
        self._member, self.entry = member, entry
        self._instance = member.instance
        self._request = new_request_id()
        self._over = False
        self._until = clock.now() + member.settings.lease
        self.session_id = fields["session"].decode()
        self.epoch = int(fields["epoch"])
        self.attempt = int(fields.get("attempt") or 1)
        self.previous_owner = fields.get("previous_owner", b"").decode()
        self.cause = fields.get("cause", b"").decode()
        self.raw_data = fields.get("data", b"")
        self.planned = self.cause == "handover"
        self.requires = tuple(json.loads(fields.get("requires") or b"[]"))
        self._restarted_since = fields.get("restarted_since", b"").decode()
        self.encoding = fields.get("encoding", b"").decode()

    @property
    def recovery_data(self) -> dict[str, Any] | bytes:
        """The recovery data in the form in which it was given."""
        return decode(self.raw_data, self.encoding if self.raw_data else "bytes")

    @property
    def in_hand(self) -> bool:
        """Whether it still takes up room: not answered, and its lease not over."""
        return not self._over and clock.now() < self._until

    async def adopt(self) -> Session | None:
        """Becomes the session's owner; of a handover when its owner has let go.

        Returns:
            The session, or None when another won or the offer is over.

        Raises:
            FencedError: this instance was declared dead since it read the offer.
            DrainingError: this instance takes nothing new.
            StoreUnavailableError: no answer within about two seconds; safe to call again.
        """
        self._check()
        if self._member.draining:
            raise DrainingError("this instance is draining and takes nothing new")
        if self.planned:  # accepts; the owner lets go when it is told
            session = await self._member.adoption.take_over(self.session_id, self._request, self._member.settings.lease)
        else:
            session = await self._member.adoption.adopt(self.session_id, self.epoch, self._request)
        self._done()
        return session

    @property
    def restarted_since_ms(self) -> int:
        """Of a handover in a rollout: whoever was started since then is not restarted again by it; 0 otherwise."""
        return int(self._restarted_since or 0) if self.planned else 0

    async def decline(self, reason: str = "", *, counts: bool = True) -> None:
        """Gives the offer back, so that others get it at once; safe to repeat.

        Args:
            reason: why; kept in the events.
            counts: False for want of room: no attempt is counted.

        Raises:
            FencedError, StoreUnavailableError: as `adopt`.
        """
        self._check()
        s = self._member.settings
        if counts:
            self._member.reader.declined(self.session_id)
        answer = await self._member.request(
            lambda: calls.decline(
                self._member.part.keys, session=self.session_id, instance=self._instance, epoch=self.epoch,
                pool=self._member.settings.pool, reason=reason, counts=counts, max_offers=s.max_offers,
                lease_ms=round(s.lease * 1000), dead_letter_ttl_ms=round(s.dead_letter_ttl * 1000),
                give_up_after_ms=round(s.give_up_after * 1000), restarted_since=self._restarted_since,
            )
        )  # fmt: skip
        self._done()
        self._refused(answer.word)

    async def cannot_serve(self, reason: str = "") -> None:
        """Gives the offer back because this worker lacks something that another may have, such as a key; safe to repeat.

        No attempt is counted, and this worker leaves the session to others for a while.

        Raises:
            FencedError, StoreUnavailableError: as `adopt`.
        """
        self._member.reader.cannot_serve(self.session_id)
        await self.decline(reason, counts=False)

    async def delegate(self) -> None:
        """Leaves the session adoptable by id for one lease (its caller will come back to some door), then offered again.

        Raises:
            FencedError, StoreUnavailableError: as `adopt`.
        """
        self._check()
        answer = await self._member.request(
            lambda: calls.delegate(
                self._member.part.keys, session=self.session_id, instance=self._instance, epoch=self.epoch,
                pool=self._member.settings.pool, lease_ms=round(self._member.settings.lease * 1000),
            )
        )  # fmt: skip
        self._done()
        self._refused(answer.word)

    def _check(self) -> None:
        if self._member.instance != self._instance or self._member.pulse.over:
            raise FencedError(self.session_id, self.epoch, "this instance was declared dead since it read the offer")

    def _refused(self, word: str) -> None:
        if word == "FENCED":
            self._member.fenced(self._instance, "an answer to an offer was refused")
            raise FencedError(self.session_id, self.epoch, "this instance was declared dead")

    def _done(self) -> None:
        self._over = True
        self._member.reader.answered(self)
        self._member.room_changed()

    def __repr__(self) -> str:
        return f"<Offer {self.session_id} epoch={self.epoch} attempt={self.attempt}>"
