"""Takes what the dead owned and offers it: detect -> claim -> offer. Any coordinator finishes what another began."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import structlog

from coordinator.failpoints import reach
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.faults import NoGroupError
from coordinator.store.scripts import Answer, Call

__all__ = ["Burial", "expire_call"]

log = structlog.get_logger()


def expire_call(
    part: StorePartition, settings: Settings, session: str, pool: str, holder: str, *, entry_of_dead: str = ""
) -> Call:
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
        holder=holder,
    )


@dataclass(slots=True)
class Burial:
    """Empties graves in bounded batches."""

    part: StorePartition
    settings: Settings
    by: str

    async def step(self, grave: str) -> bool:
        """Claims and offers all that a grave holds, then ends it; safe to repeat, and to run beside others.

        Returns:
            Whether the grave is empty now; False while transfers are held.

        Raises:
            StoreUnavailableError: the store did not answer; the grave is found again by its key.
        """
        keys, run = self.part.keys, self.part.executor
        pool = (await run.command("HGET", keys.instance(grave), "pool") or b"default").decode()
        while ids := await run.command("SRANDMEMBER", keys.owned(grave), calls.BATCH):
            reach("before_claim")
            answer = await self._claim(grave, [i.decode() for i in ids], pool)
            if answer.word != "OK":
                return False
            reach("after_first_claim")
            others: dict[str, list[str]] = defaultdict(list)
            for line in answer.items("other_pools"):
                session, other = line.rsplit(" ", 1)
                others[other].append(session)
            for other, sessions in others.items():
                answer = await self._claim(grave, sessions, other)
                if answer.word != "OK":
                    return False
            reach("after_claim")
        await self._give_back(grave, pool)
        reach("before_settle")
        settled = await run.run(calls.settle(keys, grave=grave, fenced_ttl_ms=round(self.settings.fenced_ttl * 1000)))
        reach("after_settle")
        return settled.word != "LEFT"

    async def _claim(self, grave: str, sessions: list[str], pool: str) -> Answer:
        s = self.settings
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
            )
        )
        if answer.int("offered"):
            log.info(
                "sessions_claimed", instance=grave, pool=pool, offered=answer.int("offered"), left=answer.int("left"),
                partition=self.part.keys.partition,
            )  # fmt: skip
        return answer

    async def _give_back(self, grave: str, pool: str) -> None:
        """Offers that the dead had read are offered again at once; then its consumer goes."""
        keys, run = self.part.keys, self.part.executor
        stream = keys.offers(pool)
        try:
            while pending := await run.command("XPENDING", stream, "workers", "-", "+", calls.BATCH, grave):
                entries = [row[0] for row in pending]
                found = await run.commands([("XRANGE", stream, entry, entry) for entry in entries])
                held: list[tuple[str, str]] = []
                for entry, rows in zip(entries, found, strict=True):
                    fields = rows[0][1] if rows else []
                    named = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"session")
                    if named is None:  # trimmed away: nothing to offer again by this entry
                        await run.command("XACK", stream, "workers", entry)
                    else:
                        held.append((named.decode(), entry.decode()))
                answers = await run.run_many(
                    [
                        expire_call(self.part, self.settings, session, pool, self.by, entry_of_dead=entry)
                        for session, entry in held
                    ]
                )
                if any(answer.word == "HELD" for answer in answers):
                    return
                for entry, rows in zip(entries, found, strict=True):  # an entry of an offer that is over
                    if rows:
                        await run.command("XACK", stream, "workers", entry)
            await run.command("XGROUP", "DELCONSUMER", stream, "workers", grave)
        except NoGroupError:
            return  # nobody of this pool ever read
