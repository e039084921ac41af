"""How a session becomes this worker's: an orphan is adopted, a living owner is asked to hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.ids import new_request_id
from coordinator.store import calls
from coordinator.store.scripts import Answer
from coordinator.worker.session import Session

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Adoption"]

log = structlog.get_logger()

POLL_SECONDS = 0.05


class Adoption:
    """One a membership."""

    def __init__(self, member: Membership) -> None:
        self._member = member

    async def adopt(self, session_id: str, epoch: int | None, request: str) -> Session | None:
        """Adopts what is offered; None when there is nothing to adopt (any more).

        Raises:
            FencedError, StoreUnavailableError: as `Offer.adopt`.
        """
        instance = self._member.instance
        self._member.adopting.add(session_id)
        try:
            with self._member.changing():
                answer = await self._member.request(
                    lambda: calls.adopt(
                        self._member.part.keys, session=session_id, instance=instance, request=request, epoch=epoch,
                        pool=self._member.settings.pool, floor=self._member.highest_epoch,
                    )
                )  # fmt: skip
                if answer.word == "FENCED":
                    self._member.fenced(instance, "an adoption was refused")
                    raise FencedError(session_id, epoch, "this instance was declared dead")
                if answer.word != "OK" or instance != self._member.instance:
                    return None
                return self._adopted(session_id, answer)
        finally:
            self._member.adopting.discard(session_id)

    async def take_over(self, session_id: str, request: str, wait: float) -> Session | None:
        """Takes an orphan, awaits the verdict on a silent owner, asks a living one to hand over; None when not in time.

        Raises:
            FencedError, StoreUnavailableError: as `Worker.adopt`.
        """
        deadline = clock.now() + wait
        told = self._member.mailbox.wait_for(session_id)
        try:
            while True:
                session = await self.adopt(session_id, None, request)
                if session is not None:
                    return session
                if clock.now() >= deadline:  # nobody would be here when its owner has let go
                    return None
                if not await self._ask(session_id, request):
                    return None
                with anyio.move_on_after(min(POLL_SECONDS, max(0.0, deadline - clock.now()))):
                    await told.wait()
        finally:
            self._member.mailbox.done_waiting(session_id)

    async def pass_on(self, session_id: str) -> None:
        """Its owner let go to us when nobody here waited any more: it is offered to others at once. Safe to repeat."""
        if session_id in self._member.sessions or session_id in self._member.adopting:
            return
        try:
            session = await self.adopt(session_id, None, new_request_id())
            if session is not None:
                await session.release("nobody waits for it here any more")
        except (FencedError, StoreUnavailableError) as error:
            log.warning("session_not_passed_on", session=session_id, error=str(error))

    async def _ask(self, session_id: str, request: str) -> bool:
        """Asks the owner to hand over; False when there is nothing to wait for."""
        keys = self._member.part.keys
        state, owner = await self._member.part.executor.command("HMGET", keys.session(session_id), "state", "owner")
        if state == b"offered":
            return True
        if state not in (b"active", b"handing_over"):
            return False
        instance = self._member.instance
        answer = await self._member.request(
            lambda: calls.ask(
                keys, session=session_id, instance=instance, owner=owner.decode(), request=request,
                lease_ms=round(self._member.settings.lease * 1000),
            )
        )  # fmt: skip
        if answer.word == "FENCED":
            self._member.fenced(instance, "asking for a handover was refused")
            raise FencedError(session_id, None, "this instance was declared dead")
        # offered: its owner was buried between our look and our question
        return answer.word in ("OK", "ORPHAN", "OWNED") or answer.text("state") == "offered"

    def _adopted(self, session_id: str, answer: Answer) -> Session:
        known = self._member.sessions.get(session_id)
        if known is not None and known.epoch == answer.int("epoch"):
            return known
        session = Session(
            self._member, session_id, answer.int("epoch"), answer.bytes("data"), answer.text("encoding"), pool=answer.text("pool"),
            tenant=answer.text("tenant"), requires=answer.text("requires"), opened_at_ms=answer.int("opened_at_ms"),
            sequence=answer.int("checkpoint"),
        )  # fmt: skip
        now_ms = answer.int("now_ms")
        session.recovered = bool(answer.text("previous_owner"))
        session.planned = answer.text("planned") == "1"
        if session.recovered:
            session.gap = max(0.0, (now_ms - answer.int("served_until_ms", now_ms)) / 1000)
            session.data_age = max(0.0, (now_ms - answer.int("data_at_ms", now_ms)) / 1000)
        session.previous_owner, session.cause = answer.text("previous_owner"), answer.text("cause")
        session.attempt = answer.int("attempt")
        self._member.keep(session)
        return session
