"""What a worker does when it and the store disagree: it starts over, registers again, states sessions again, compares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.ids import new_request_id
from coordinator.settings import Settings
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition
from coordinator.store.scripts import R, ScriptCall
from coordinator.store.usual import BATCH
from coordinator.worker import loss_reasons
from coordinator.worker.bell import Bell
from coordinator.worker.comparing import Difference, Stored, compare
from coordinator.worker.ledger import Ledger
from coordinator.worker.registration import Registration
from coordinator.worker.reply_verdict import ReplyVerdict, verdict_on
from coordinator.worker.session import Session
from coordinator.worker.turns import Turns

__all__ = ["Resync"]

log = structlog.get_logger()

RETRY_SECONDS = 0.05
TOGETHER = 200
"""Sessions that one exchange states again."""
READ_TOGETHER = 500
"""Records that one exchange reads."""
MOST_ROUNDS = 5
"""Comparisons in a row; the next roll call finds what is still changing hands then."""


class _AgainError(Exception):
    """The store forgot the instance in the middle."""


async def _many(sessions: Sequence[Session], do: Callable[[Session], Awaitable[None]]) -> None:
    """Runs ``do`` for all sessions, many in one exchange: the hold does not wait for slow lines.

    Raises:
        _AgainError, FencedError, StoreUnavailableError: the first one raised, when all of its exchange are done.
    """
    for first in range(0, len(sessions), TOGETHER):
        done = await asyncio.gather(*(do(one) for one in sessions[first : first + TOGETHER]), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome


class Resync:
    """One per membership; one repair at a time.

    Args:
        turns: the turns at a session's id.
        registration: registers again, or under a new id.
        agreed: is called when this instance and the store agree again on what it owns.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        ledger: Ledger[Session],
        turns: Turns,
        registration: Registration,
        agreed: Callable[[], None],
    ) -> None:
        self._part, self._settings, self._ledger, self._turns = part, settings, ledger, turns
        self._registration, self._agreed = registration, agreed
        self._wanted: dict[str, str] = {}
        self._bell = Bell()

    def want(self, kind: str, reason: str) -> None:
        """Asks for a repair. Until it succeeds, the sessions that it concerns are in doubt.

        Args:
            kind: ``fenced``, ``unknown`` (the store forgot the instance), ``lost_writes``, ``roll_call`` (the rolls
                differ) or ``outcome_unknown`` (of a request that takes or gives away a session).
            reason: for the log.
        """
        if kind in ("unknown", "lost_writes"):
            for session in self._ledger.sessions.values():
                session.unsure = True
        self._wanted[kind] = reason
        self._bell.ring()

    async def run(self) -> None:
        """Repairs what is asked for, until cancelled.

        Raises:
            NameInUseError: the instance was dead, and another live process has its name by now.
        """
        while True:
            await self._bell.rung()
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._repair(wanted)

    async def _repair(self, wanted: dict[str, str]) -> None:
        ledger = self._ledger
        if "fenced" in wanted:
            await self._registration.start_over(wanted["fenced"])
            return
        again = "unknown" in wanted
        if again and clock.now() - ledger.trust_window.sent > self._settings.fenced_ttl / 2:
            await self._registration.start_over(
                "unknown to the store, and silent for too long to come back under the same id"
            )
            return
        log.warning("resync_started", instance=ledger.instance, **wanted)
        everything = "lost_writes" in wanted or "unknown" in wanted
        while True:
            try:
                if again:
                    sent = ledger.trust_window.sent
                    await self._registration.join()
                    ledger.trust_window.sent = sent  # only a beat with the answer OK makes it hold again
                    again = False
                await self._state_again([s for s in ledger.sessions.values() if everything or s.undecided])
                await self._compare()
                everything = any(session.unsure for session in ledger.sessions.values())
                if not everything:  # else one came in the meantime, and was found in doubt
                    break
            except _AgainError:
                again = everything = True
            except FencedError as error:
                await self._registration.start_over(str(error))
                return
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS * 2)
        self._wanted.pop("lost_writes", None)
        self._wanted.pop("unknown", None)
        log.info("resync_ended", instance=ledger.instance, sessions=len(ledger.sessions))

    async def _state_again(self, sessions: list[Session]) -> None:
        """Re-asserts sessions, waits for the end of the hold, and renews each."""
        undecided = {session: session.undecided for session in sessions}
        for session in sessions:
            session.unsure = True
        await _many(sessions, self._reassert)
        for first in sessions[:1]:  # one alone waits for the end of the hold
            await self._renew(first, undecided[first])
        await _many(sessions[1:], lambda session: self._renew(session, undecided[session]))

    async def _renew(self, session: Session, undecided: object | None) -> None:
        """Takes over the epoch that the store gives the session now, or gave it in an answer that was lost."""
        while not session.is_over:
            answer = await self._run(
                calls.renew(self._part.keys, session=session.id, instance=self._ledger.instance, epoch=session.epoch)
            )
            match answer:
                case calls.Held():
                    await anyio.sleep(RETRY_SECONDS)
                    continue
                case calls.RenewOk():
                    self._ledger.past.saw(answer.epoch)
                    session.renewed(answer.epoch, answer.checkpoint)
                    session.unsure = False
                    if session.undecided is undecided:
                        session.undecided = None
                case calls.RenewGone():
                    session.lose(loss_reasons.taken_meanwhile(answer.owner))
            break

    async def _reassert(self, session: Session) -> None:
        rival = ""
        while True:
            answer = await self._run(
                calls.reassert(
                    self._part.keys, session=session.id, instance=self._ledger.instance, epoch=session.epoch,
                    sequence=session.sequence, **session.written(session.epoch, session.raw_data, session.encoding),
                    pool=session.pool, tenant=session.tenant, requires=session.requires,
                    opened_at_ms=session.opened_at_ms, rival=rival,
                )
            )  # fmt: skip
            match answer:
                case calls.ReassertAgain():
                    rival = answer.rival
                    continue
                case calls.ReassertGone():
                    session.lose(loss_reasons.stated_otherwise(answer.state, answer.epoch))
            return

    async def _compare(self) -> None:
        """Compares the roll call by call. It acts on each difference under the epoch that was seen, until there is none."""
        ledger = self._ledger
        lineage = await lookups.lineage_of(self._part)
        if not lineage:
            raise _AgainError
        for rounds_left in reversed(range(MOST_ROUNDS)):
            version, roll = ledger.version, await lookups.roll_of(self._part, ledger.instance)
            listed = await lookups.owned_by(self._part, ledger.instance)
            records = await self._records(listed | ledger.sessions.keys())
            differences = [
                (session_id, stored, difference)
                for session_id, stored in records.items()
                if (difference := self._difference(session_id, stored))
            ]
            if ledger.version != version and rounds_left:
                continue  # sessions changed hands meanwhile: the records that were read are old
            for session_id, stored, difference in differences:
                await self._act(session_id, stored, difference)
            if not differences and ledger.version == version:
                strays = [
                    one for one in listed if not records[one].is_of(ledger.instance) and one not in ledger.sessions
                ]
                await self._agree(roll, strays)
                break
        ledger.agree(self._part.executor.server, lineage)
        self._agreed()

    async def _records(self, ids: Iterable[str]) -> dict[str, Stored]:
        wanted, found = sorted(ids), {}
        for first in range(0, len(wanted), READ_TOGETHER):
            some = wanted[first : first + READ_TOGETHER]
            for session_id, one in (await lookups.standings_of(self._part, some)).items():
                found[session_id] = Stored(one.state, one.owner, one.epoch, one.pool)
        return found

    def _difference(self, session_id: str, stored: Stored) -> Difference:
        """What has to be done for a session now; nothing while it is changing hands."""
        ledger = self._ledger
        session = ledger.sessions.get(session_id)
        if (
            self._turns.is_taken(session_id)
            or session_id in ledger.taking
            or (session is not None and session.is_given_away)
        ):
            return ""
        return compare(ledger.instance, None if session is None else session.epoch, stored)

    async def _act(self, session_id: str, stored: Stored, difference: Difference) -> None:
        if self._difference(session_id, stored) != difference:
            return  # looked at again in the moment of acting: it has changed hands since it was read
        session = self._ledger.sessions.get(session_id)
        if session is None:
            await self._give_up(session_id, stored)
        elif difference == "renew":
            session.unsure = True
            await self._renew(session, None)
        else:
            await self._state_again([session])

    async def _agree(self, seen: str, strays: Sequence[str]) -> None:
        """All sessions are equal: the difference lay in the store's roll, which was not kept, or in its damaged index."""
        ledger = self._ledger
        if (seen == str(ledger.digest) and not strays) or ledger.is_changing:
            return
        for first in range(0, max(1, len(strays)), BATCH):
            await self._run(
                calls.agree(
                    self._part.keys, instance=ledger.instance, seen=seen, roll=ledger.digest,
                    sessions=strays[first : first + BATCH],
                )
            )  # fmt: skip

    async def _give_up(self, session_id: str, stored: Stored) -> None:
        """The store says that a session is ours, and this worker lacks it: its call ended here, or other workers get it."""
        ledger = self._ledger
        keys, epoch, request = self._part.keys, stored.epoch, new_request_id()
        async with self._turns.of(session_id):  # a task that opens or adopts it meanwhile waits until that is done
            ended = ledger.ended_here(session_id, epoch)
            while True:
                answer = await self._run(self._end_of(session_id, epoch, stored.pool, "" if ended else request))
                if isinstance(
                    answer, calls.Resync
                ):  # it was stated again, and the answer with its new epoch is lost: that is taken first
                    renewed = await self._run(
                        calls.renew(keys, session=session_id, instance=ledger.instance, epoch=epoch)
                    )
                    if not isinstance(renewed, calls.RenewOk):
                        break
                    epoch = renewed.epoch
                elif not isinstance(answer, calls.Children):
                    break
                await anyio.sleep(RETRY_SECONDS)
        log.warning("session_given_up", session=session_id, instance=ledger.instance, epoch=epoch, answer=answer.word)

    def _end_of(
        self, session_id: str, epoch: int, pool: str, request: str
    ) -> ScriptCall[calls.CloseReply | calls.ReleaseReply]:
        """Closes it, or offers it to others under a request."""
        ledger, s = self._ledger, self._settings
        if not request:
            return calls.close(
                self._part.keys, session=session_id, instance=ledger.instance, epoch=epoch, pool=pool,
                closed_ttl=s.closed_ttl,
            )  # fmt: skip
        return calls.release(
            self._part.keys, session=session_id, instance=ledger.instance, epoch=epoch, request=request, pool=pool,
            reason="unknown to its owner", cause="released", counts=False, lease=s.lease,
            max_recoveries=s.max_recoveries, recovery_window=s.recovery_window,
            dead_letter_ttl=s.dead_letter_ttl,
        )  # fmt: skip

    async def _run(self, call: ScriptCall[R]) -> R:
        answer = await self._part.executor.run(call)
        match verdict_on(answer):
            case ReplyVerdict.JOIN_AGAIN:
                raise _AgainError
            case ReplyVerdict.DEAD:
                raise FencedError(detail=f"{self._ledger.instance} is dead")
            case _:
                return answer
