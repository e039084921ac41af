"""What a worker does when the store and it disagree: start over, register again, state again what it held, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.ids import new_request_id
from coordinator.store import calls
from coordinator.store.scripts import Answer, Call
from coordinator.worker.session import Session

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Resync"]

log = structlog.get_logger()

RETRY_SECONDS = 0.05


class _AgainError(Exception):
    """The store forgot the instance in the middle."""


class Resync:
    """One a membership; one repair at a time, and a task only while there is one."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._wanted: dict[str, str] = {}
        self._running = False

    def want(self, kind: str, reason: str) -> None:
        """Asks for a repair. From now on nothing is sure that it concerns.

        Args:
            kind: ``fenced``, ``unknown`` (the store forgot the instance), ``lost_writes``, ``roll_call`` (the counts
                differ) or ``outcome_unknown`` (of sessions that are being given away).
            reason: for the log.
        """
        if kind in ("unknown", "lost_writes"):
            for session in self._member.sessions.values():
                session.unsure = True
        self._wanted[kind] = reason
        if not self._running:
            self._running = True
            self._member.start(self._repair_all)

    async def _repair_all(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._repair(wanted)
        finally:
            self._running = False

    async def _repair(self, wanted: dict[str, str]) -> None:
        member = self._member
        if "fenced" in wanted:
            await member.start_over(wanted["fenced"])
            return
        again = "unknown" in wanted
        if again and clock.now() - member.pulse.sent > member.settings.fenced_ttl / 2:
            await member.start_over("unknown to the store, and silent for too long to come back under the same id")
            return
        log.warning("resync_started", instance=member.instance, **wanted)
        everything = "lost_writes" in wanted or "unknown" in wanted
        while True:
            try:
                if again:
                    sent = member.pulse.sent
                    await member.join()
                    member.pulse.sent = sent  # only a beat that is answered OK makes it hold again
                    again = False
                await self._state_again([s for s in member.sessions.values() if everything or s.undecided])
                await self._compare()
                everything = any(session.unsure for session in member.sessions.values())
                if not everything:  # else one came, and was found in doubt, in the meantime
                    break
            except _AgainError:
                again = everything = True
            except FencedError as error:
                await member.start_over(str(error))
                return
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS * 2)
        self._wanted.pop("lost_writes", None)
        self._wanted.pop("unknown", None)
        log.info("resync_ended", instance=member.instance, sessions=len(member.sessions))

    async def _state_again(self, sessions: list[Session]) -> None:
        """Re-asserts sessions, waits for the end of the hold, and has each renewed."""
        undecided = {session: session.undecided for session in sessions}
        for session in sessions:
            session.unsure = True
            await self._reassert(session)
        for session in sessions:
            while not session.lost.is_set() and not session.closed.is_set():
                answer = await self._run(
                    calls.renew(
                        self._member.part.keys, session=session.id, instance=self._member.instance, epoch=session.epoch
                    )
                )
                if answer.word == "HELD":
                    await anyio.sleep(RETRY_SECONDS)
                    continue
                if answer.word == "OK":
                    if answer.int("epoch") != session.epoch:
                        session.epoch, session.sequence = answer.int("epoch"), answer.int("checkpoint")
                        if self._member.host is not None:
                            self._member.host.session_renewed(session)
                    session.unsure = False
                    if session.undecided is undecided[session]:
                        session.undecided = None
                else:
                    session.lose(f"{answer.text('owner') or 'somebody else'} has it since writes were lost")
                break

    async def _reassert(self, session: Session) -> None:
        rival = ""
        while True:
            answer = await self._run(
                calls.reassert(
                    self._member.part.keys, session=session.id, instance=self._member.instance, epoch=session.epoch,
                    sequence=session.sequence, data=session.raw_data, encoding=session.encoding, pool=session.pool,
                    tenant=session.tenant, requires=session.requires, opened_at_ms=session.opened_at_ms, rival=rival,
                )
            )  # fmt: skip
            if answer.word == "AGAIN":
                rival = answer.text("rival")
                continue
            if answer.word == "GONE":
                session.lose(f"it is {answer.text('state')} under epoch {answer.text('epoch')} since writes were lost")
            return

    async def _compare(self) -> None:
        """The roll: what only the store names was closed here, or is given to others; what only we name is stated again."""
        member = self._member
        keys, run = member.part.keys, member.part.executor
        stored = {m.decode() for m in await run.command("SMEMBERS", keys.owned(member.instance))}
        ours = set(member.sessions)
        missing = [member.sessions[i] for i in ours - stored if i in member.sessions]
        if missing:
            await self._state_again(missing)
        for session_id in stored - ours - member.adopting:
            if session_id not in member.sessions:
                await self._give_up(session_id)
        lineage = await run.command("HGET", keys.meta, "lineage")
        if lineage is None:
            raise _AgainError
        member.agree(run.server, lineage.decode())

    async def _give_up(self, session_id: str) -> None:
        member, s = self._member, self._member.settings
        keys = member.part.keys
        epoch, pool = await member.part.executor.command("HMGET", keys.session(session_id), "epoch", "pool")
        if epoch is None:
            return
        if session_id in member.closing:
            call = calls.close(
                keys, session=session_id, instance=member.instance, epoch=int(epoch), pool=pool.decode(),
                closed_ttl_ms=round(s.closed_ttl * 1000),
            )  # fmt: skip
        else:
            call = calls.release(
                keys, session=session_id, instance=member.instance, epoch=int(epoch), request=new_request_id(),
                pool=pool.decode(), reason="unknown to its owner", cause="released", lease_ms=round(s.lease * 1000),
                max_recoveries=s.max_recoveries, recovery_window_ms=round(s.recovery_window * 1000),
            )  # fmt: skip
        answer = await self._run(call)
        log.warning("session_given_up", session=session_id, instance=member.instance, answer=answer.word)

    async def _run(self, call: Call) -> Answer:
        answer = await self._member.part.executor.run(call)
        if answer.word == "UNKNOWN":
            raise _AgainError
        if answer.word == "FENCED":
            raise FencedError(detail=f"{self._member.instance} is dead")
        return answer
