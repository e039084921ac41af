"""Takes what the dead owned and offers it: detect -> claim -> offer. Any coordinator finishes what another began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import structlog

from coordinator.blame import SHARE, Blamed, judge
from coordinator.errors import CoordinatorError
from coordinator.failpoints import reach
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.faults import NoGroupError, concerns_one
from coordinator.store.scripts import ScriptCall
from coordinator.store.setting_aside import set_aside_member
from coordinator.store.shapes import score, session_id, text, whole
from coordinator.store.usual import BATCH

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
        lease_ms=round(settings.lease * 1000),
        max_offers=settings.max_offers,
        give_up_after_ms=round(settings.give_up_after * 1000),
        dead_letter_ttl_ms=round(settings.dead_letter_ttl * 1000),
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
        """Claims and offers all that a grave holds, then ends it; safe to repeat, and to run beside others.

        Returns:
            Whether the grave is empty now; False while transfers are held.

        Raises:
            StoreUnavailableError: the store did not answer; the grave is found again by its key.
        """
        try:
            return await self._step(grave)
        except CoordinatorError as error:  # what it met is set aside, and found to be well, or told
            if not concerns_one(error):
                raise
            keys, run = self.part.keys, self.part.executor
            await run.mend([keys.instance(grave), keys.blamed(grave), keys.owned(grave)])
            pool = text(await run.command("HGET", keys.instance(grave), "pool")) or "default"
            await run.mend([keys.quarantine, keys.events, keys.offers(pool)])
            return await self._step(grave)

    async def _step(self, grave: str) -> bool:
        keys, run = self.part.keys, self.part.executor
        pool, many = await run.commands([("HGET", keys.instance(grave), "pool"), ("ZCARD", keys.blamed(grave))])
        pool = text(pool) or "default"
        if many:
            await self._judge(grave)
        while ids := await run.command("SRANDMEMBER", keys.owned(grave), BATCH):
            reach("before_claim")
            sessions = [one for raw in ids if (one := session_id(raw))]
            if len(sessions) < len(ids):
                await self._set_aside(f"owned:{grave}", [raw for raw in ids if not session_id(raw)])
            answer = await self._claim(grave, sessions, pool)
            if not isinstance(answer, calls.ClaimOk):
                return False
            reach("after_first_claim")
            others: dict[str, list[str]] = defaultdict(list)
            for line in answer.other_pools:
                session, _, other = line.rpartition(" ")
                others[other].append(session)
            children_ms = answer.children_ms
            for other, sessions in others.items():
                answer = await self._claim(grave, sessions, other)
                if not isinstance(answer, calls.ClaimOk):
                    return False
                children_ms = max(children_ms, answer.children_ms)
            if children_ms:  # children of the dead are told to stop, and say so in a moment or believe until then
                await anyio.sleep(min(children_ms / 1000, CHILDREN_SECONDS))
            reach("after_claim")
        await self._give_back(grave, pool)
        reach("before_settle")
        settled = await run.run(calls.settle(keys, grave=grave, fenced_ttl_ms=round(self.settings.fenced_ttl * 1000)))
        reach("after_settle")
        return not isinstance(settled, calls.Left)

    async def _set_aside(self, index: str, members: Sequence[bytes]) -> None:
        """Members that are no ids: they would be found again and again."""
        await self.part.executor.run_many([set_aside_member(self.part.keys, index=index, raw=raw) for raw in members])

    async def _judge(self, grave: str) -> None:
        """Says, once, which of the sessions that died before are blamed for this death too."""
        keys, run, s = self.part.keys, self.part.executor, self.settings
        members = await run.command("ZRANGE", keys.blamed(grave), 0, -1, "WITHSCORES")
        got_at = {
            one: score(at) for raw, at in zip(members[::2], members[1::2], strict=True) if (one := session_id(raw))
        }
        dead, *rows = await run.commands(
            [
                ("HMGET", keys.instance(grave), "ended_at", "served_until", "cause"),
                *(("HMGET", keys.session(session), "orphanings", "probation_ms") for session in got_at),
            ]
        )
        ended_at = whole(dead[0])
        last_ms = whole(dead[1], ended_at)
        if dead[2] == b"wedged":  # it gave signs of life for so long, and served nobody
            last_ms -= round(s.wedged_after * 1000)
        since = ended_at - round(s.recovery_window * 1000)
        blamed = [
            Blamed(
                session,
                sum(whole(at) > since for at in (orphanings or b"").split()),
                max(0, last_ms - at) / 1000,
                whole(probation) / 1000,
            )
            for (session, at), (orphanings, probation) in zip(got_at.items(), rows, strict=True)
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
        await run.run(
            calls.judge(
                keys,
                grave=grave,
                blamed_from_ms=0 if verdict.oldest is None else last_ms - round(verdict.oldest * 1000),
                convict=verdict.convict,
                apart=verdict.apart,
                probation_ms=round(verdict.probation * 1000),
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
                lease_ms=round(s.lease * 1000),
                max_recoveries=s.max_recoveries,
                recovery_window_ms=round(s.recovery_window * 1000),
                dead_letter_ttl_ms=round(s.dead_letter_ttl * 1000),
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
        """Offers that the dead had read are offered again at once; then its consumer goes."""
        keys, run = self.part.keys, self.part.executor
        stream = keys.offers(pool)
        try:
            while pending := await run.command("XPENDING", stream, "workers", "-", "+", BATCH, grave):
                entries = [row[0] for row in pending]
                found = await run.commands([("XRANGE", stream, entry, entry) for entry in entries])
                held: list[tuple[str, str, int]] = []
                for entry, rows in zip(entries, found, strict=True):
                    fields = rows[0][1] if rows else []
                    values = dict(zip(fields[::2], fields[1::2], strict=False))
                    named = session_id(values.get(b"session"))
                    if not named:  # trimmed away, or none of ours: nothing to offer again by this entry
                        await run.command("XACK", stream, "workers", entry)
                    else:
                        held.append((named, entry.decode(), whole(values.get(b"attempt"), 1)))
                again = sum(attempt > 1 for _, _, attempt in held)  # readers have died with these before
                answers = await run.run_many(
                    [
                        expire_call(
                            self.part,
                            self.settings,
                            session,
                            pool,
                            self.by,
                            entry_of_dead=entry,
                            alone=(attempt > 1 and again == 1) or len(held) == 1,
                            apart=max(1, len(held) // SHARE),
                        )
                        for session, entry, attempt in held
                    ]
                )
                if any(isinstance(answer, calls.Held) for answer in answers):
                    return
                for entry, rows in zip(entries, found, strict=True):  # an entry of an offer that is over
                    if rows:
                        await run.command("XACK", stream, "workers", entry)
            await run.command("XGROUP", "DELCONSUMER", stream, "workers", grave)
        except NoGroupError:
            return  # nobody of this pool ever read
