"""A slow walk over the session records that finds what an index lost (the scar is asynq's issue 1144).

A fixed number of records a step, so that its cost does not grow with the number of sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from coordinator import clock
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition

__all__ = ["Sweeper"]

log = structlog.get_logger()

COUNT = 100
"""Records a step, more or less: what SCAN takes as a hint."""


@dataclass(slots=True)
class Sweeper:
    """Where the walk is, and which owners nobody knew when it last came by."""

    part: StorePartition
    settings: Settings
    cursor: bytes = b"0"
    unknown_since: dict[str, float] = field(default_factory=dict)

    async def step(self) -> int:
        """Looks at some records and repairs the indexes of those that disagree.

        Returns:
            How many records were repaired.

        Raises:
            StoreUnavailableError: the store did not answer; the walk goes on from here.
        """
        keys, run = self.part.keys, self.part.executor
        prefix = keys.session_prefix
        self.cursor, found = await run.command("SCAN", self.cursor, "MATCH", f"{prefix}*", "COUNT", COUNT)
        ids = [key.decode()[len(prefix) :] for key in found]
        rows = await run.commands([("HMGET", keys.session(i), "state", "owner") for i in ids])
        records = [(i, (s or b"").decode(), (o or b"").decode()) for i, (s, o) in zip(ids, rows, strict=True)]
        looks = [look for r in records for look in self._looks(*r)]
        answers = await run.commands(looks)
        wrong, at = [], 0
        for session, state, owner in records:
            n = len(self._looks(session, state, owner))
            if n and not self._agrees(state, owner, answers[at : at + n]):
                wrong.append((session, owner))
            at += n
        for session, owner in wrong:
            answer = await run.run(
                calls.repair(keys, session=session, owner=owner, dead_after_ms=round(self.settings.dead_after * 1000))
            )
            if answer.text("repaired"):
                log.warning("index_repaired", session=session, instance=owner, indexes=answer.text("repaired"))
        return len(wrong)

    def _looks(self, session: str, state: str, owner: str) -> list[tuple[Any, ...]]:
        keys = self.part.keys
        if state in ("active", "handing_over"):
            return [
                ("SISMEMBER", keys.owned(owner), session),
                ("HGET", keys.instance(owner), "state"),
                ("ZSCORE", keys.instances, owner),
                ("ZSCORE", keys.graves, owner),
                *([("ZSCORE", keys.leases, session)] if state == "handing_over" else []),
            ]
        if state == "offered":
            return [("ZSCORE", keys.leases, session), ("ZSCORE", keys.orphans, session)]
        return [("ZSCORE", keys.dead_letters, session)] if state == "dead_lettered" else []

    def _agrees(self, state: str, owner: str, answers: list[Any]) -> bool:
        if state not in ("active", "handing_over"):
            return all(answer is not None for answer in answers)
        indexed, known, beats, grave, *lease = answers
        if known is None:  # it may be about to register again, after lost writes
            since = self.unknown_since.setdefault(owner, clock.now())
            if clock.now() - since < 2 * self.settings.dead_after:
                return True
        else:
            self.unknown_since.pop(owner, None)
        listed = grave is not None if known in (b"dead", None) else beats is not None
        return bool(indexed) and listed and all(answer is not None for answer in lease)

    async def tidy(self) -> None:
        """Takes out of the indexes what ended by its expiry: dead letters, and names of instances that are gone.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        keys, run = self.part.keys, self.part.executor
        oldest = await run.command("ZRANGE", keys.dead_letters, 0, COUNT)
        exist = await run.commands([("EXISTS", keys.session(i.decode())) for i in oldest])
        if gone := [i for i, there in zip(oldest, exist, strict=True) if not there]:
            await run.command("ZREM", keys.dead_letters, *gone)
        _, names = await run.command("HSCAN", keys.names, 0, "COUNT", COUNT)
        pairs = list(zip(names[::2], names[1::2], strict=True))
        exist = await run.commands([("EXISTS", keys.instance(i.decode())) for _, i in pairs])
        if left := [name for (name, _), there in zip(pairs, exist, strict=True) if not there]:
            await run.command("HDEL", keys.names, *left)
