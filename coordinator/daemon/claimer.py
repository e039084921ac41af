"""Takes what the dead owned and offers it: detect -> claim -> offer. Any coordinator finishes what another began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import structlog

from coordinator.blame import SHARE, Blamed, judge
from coordinator.clock import in_ms, in_seconds
from coordinator.errors import CoordinatorError
from coordinator.failpoints import reach
from coordinator.settings import Settings
from coordinator.store import calls, graves, offer_stream
from coordinator.store.executor import StorePartition
from coordinator.store.faults import NoGroupError, concerns_one
from coordinator.store.scripts import ScriptCall
from coordinator.store.tidying import set_aside_members

__all__ = ["Claimer", "expire_call"]

log = structlog.get_logger()

CHILDREN_SECONDS = 0.01
"""Between two looks at whether the children of a dead owner have stopped."""


def expire_call(
    part: StorePartition,
    settings: Settings,
    session: str,
    pool: str,
    holder: str,
    *,
    entry_of_dead: str = "",
    alone: bool = True,
    apart: int = 0,
) -> ScriptCall[calls.ExpireReply]:
    """The call that ends a lease, with this coordinator's settings."""
    return calls.expire(
        part.keys,
        session=session,
        pool=pool,
        lease=settings.lease,
        max_offers=settings.max_offers,
        give_up_after=settings.give_up_after,
        dead_letter_ttl=settings.dead_letter_ttl,
        entry_of_dead=entry_of_dead,
        alone=alone,
        apart=apart,
        holder=holder,
    )


@dataclass(slots=True)
class Claimer:
    """Empties graves in bounded batches.

    Attributes:
        heirs: returns how many living instances of a pool have room, and how many sessions they could take together.
    """

    part: StorePartition
    settings: Settings
    by: str
    heirs: Callable[[str], Awaitable[tuple[int, int]]]

    async def step(self, grave: str) -> bool:
        """Claims and offers all that a grave holds, then ends it. Safe to repeat, and to run beside other coordinators.

        Returns:
            Whether the grave is empty now; False while transfers are held.

        Raises:
            StoreUnavailableError: the store did not answer; the grave is found again by its key.
        """
        try:
            return await self._step(grave)
        except CoordinatorError as error:  # what does not parse is set aside, then it is tried once more
            if not concerns_one(error):
                raise
            await graves.mend(self.part, grave)
            return await self._step(grave)

    async def _step(self, grave: str) -> bool:
        dead = await graves.look(self.part, grave)
        pool = dead.pool
        if dead.died_before:
            await self._judge(grave)
        while any(owned := await graves.some_owned(self.part, grave)):
            sessions, strangers = owned
            reach("before_claim")
            if strangers:  # they would be found again and again
                await set_aside_members(self.part, self.part.keys.owned(grave), strangers)
            answer = await self._claim(grave, sessions, pool)
            if not isinstance(answer, calls.ClaimOk):
                return False
            reach("after_first_claim")
            others: dict[str, list[str]] = defaultdict(list)
            for line in answer.other_pools:
                session, _, other = line.rpartition(" ")
                others[other].append(session)
            children = answer.children
            for other, sessions in others.items():
                answer = await self._claim(grave, sessions, other)
                if not isinstance(answer, calls.ClaimOk):
                    return False
                children = max(children, answer.children)
            if children:  # children of the dead are told to stop, and say so in a moment or believe until then
                await anyio.sleep(min(children, CHILDREN_SECONDS))
            reach("after_claim")
        await self._give_back(grave, pool)
        reach("before_settle")
        settled = await self.part.executor.run(
            calls.settle(self.part.keys, grave=grave, fenced_ttl=self.settings.fenced_ttl)
        )
        reach("after_settle")
        return not isinstance(settled, calls.Left)

    async def _judge(self, grave: str) -> None:
        """Says, once, which of the sessions that died before are blamed for this death too."""
        keys, s = self.part.keys, self.settings
        death, sessions = await graves.who_died_before(self.part, grave)
        last_ms = death.served_until_ms
        if death.cause == "wedged":  # it gave signs of life for so long, and served no caller
            last_ms -= in_ms(s.wedged_after)
        since_ms = death.ended_at_ms - in_ms(s.recovery_window)
        blamed = [
            Blamed(
                one.session,
                sum(at > since_ms for at in one.orphanings_ms),
                in_seconds(max(0, last_ms - one.got_at_ms)),
                one.probation,
            )
            for one in sessions
        ]
        blamed = [one for one in blamed if one.times]
        if not blamed:
            return
        verdict = judge(blamed, s.max_recoveries)
        if verdict.convict or verdict.apart:
            log.warning(
                "sessions_blamed", instance=grave, sessions=len(blamed), apart=verdict.apart, convict=verdict.convict,
                partition=keys.partition,
            )  # fmt: skip
        await self.part.executor.run(
            calls.blame(
                keys,
                grave=grave,
                blamed_from_ms=0 if verdict.oldest is None else last_ms - in_ms(verdict.oldest),
                convict=verdict.convict,
                apart=verdict.apart,
                probation=verdict.probation,
            )
        )

    async def _claim(self, grave: str, sessions: list[str], pool: str) -> calls.ClaimReply:
        s = self.settings
        heirs, room = await self.heirs(pool)
        answer = await self.part.executor.run(
            calls.claim(
                self.part.keys,
                grave=grave,
                sessions=sessions,
                pool=pool,
                lease=s.lease,
                max_recoveries=s.max_recoveries,
                recovery_window=s.recovery_window,
                dead_letter_ttl=s.dead_letter_ttl,
                holder=self.by,
                heirs=heirs,
                room=room,
            )
        )
        if isinstance(answer, calls.ClaimOk) and answer.offered:
            log.info(
                "sessions_claimed", instance=grave, pool=pool, offered=answer.offered, left=answer.left,
                partition=self.part.keys.partition,
            )  # fmt: skip
        return answer

    async def _give_back(self, grave: str, pool: str) -> None:
        """Offers again at once what the dead had read, then deletes its consumer."""
        run, stream = self.part.executor, self.part.keys.offers(pool)
        try:
            while given := await offer_stream.held_by(run, stream, grave):
                for one in given:
                    if not one.session:  # it was trimmed, or another program wrote it: there is nothing to offer again
                        await offer_stream.acknowledge(run, stream, one.entry)
                held = [one for one in given if one.session]
                again = sum(one.attempt > 1 for one in held)  # readers have died with these before
                answers = await run.run_many(
                    [
                        expire_call(
                            self.part,
                            self.settings,
                            one.session,
                            pool,
                            self.by,
                            entry_of_dead=one.entry.decode(),
                            alone=(one.attempt > 1 and again == 1) or len(held) == 1,
                            apart=max(1, len(held) // SHARE),
                        )
                        for one in held
                    ]
                )
                if any(isinstance(answer, calls.Held) for answer in answers):
                    return
                for one in given:  # an entry of an offer that is over
                    if one.stands:
                        await offer_stream.acknowledge(run, stream, one.entry)
            await offer_stream.forget_reader(run, stream, grave)
        except NoGroupError:
            return  # no worker of this pool ever read
