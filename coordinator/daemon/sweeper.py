"""A slow walk over all keys that finds what an index lost (the scar is asynq's issue 1144), and what nobody uses any more.

A fixed number of keys a step, so that its cost does not grow with the number of sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from coordinator import clock
from coordinator.daemon.tidier import Tidier, text_of
from coordinator.settings import Settings
from coordinator.states import LIVING, SERVED, InstanceState, SessionState
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.faults import ScriptError
from coordinator.store.mending import broken_in, fields_of, look, set_aside
from coordinator.store.shapes import text

__all__ = ["Sweeper"]

log = structlog.get_logger()

MOST_BETWEEN_SECONDS = 2.0
"""Between two steps so much counts at most: if they are further apart there was a pause."""
COUNT = 100
"""Keys a step, more or less: what SCAN takes as a hint."""


@dataclass(slots=True)
class Sweeper:
    """Where the walk is, and what was amiss when it last came by: whoever is about to register again gets time for it.

    Attributes:
        unknown_since: owners that nobody knew, and instances that no index names, with the own clock's time.
    """

    part: StorePartition
    settings: Settings
    cursor: bytes = b"0"
    unknown_since: dict[str, float] = field(default_factory=dict)
    _met: set[str] = field(default_factory=set)
    _stepped: float = float("inf")
    _tidier: Tidier = field(init=False)

    def __post_init__(self) -> None:
        self._tidier = Tidier(self.part)

    async def step(self) -> int:
        """Looks at some keys and repairs the indexes of those that disagree.

        Returns:
            How many records were repaired.

        Raises:
            StoreUnavailableError: the store did not answer; the walk goes on from here.
        """
        self._count_no_pause()
        keys, run = self.part.keys, self.part.executor
        self.cursor, found = await run.command("SCAN", self.cursor, "MATCH", f"{keys.tag}:*", "COUNT", COUNT)
        by_kind: dict[str, list[str]] = {"session": [], "instance": [], "offers": [], "events": []}
        for raw in found:
            kind, _, name = (text_of(raw) or "").removeprefix(f"{keys.tag}:").partition(":")
            if kind in by_kind:
                by_kind[kind].append(name)
        repaired = await self._sessions(by_kind["session"]) + await self._instances(by_kind["instance"])
        self._tidier.met(by_kind["offers"], events=bool(by_kind["events"]))
        await self._sound([keys.meta, keys.detector])  # scripts fall back on something else where these are broken
        if self.cursor == b"0":  # a walk is over: whoever was not met in it is gone
            self.unknown_since = {who: since for who, since in self.unknown_since.items() if who in self._met}
            self._met.clear()
        return repaired

    def _count_no_pause(self) -> None:
        """Time in which this process stood still, or the store was away, was not given to anybody to register again."""
        now = clock.now()
        pause = now - self._stepped - min(MOST_BETWEEN_SECONDS, self.settings.dead_after)
        self._stepped = now
        if pause > 0:
            self.unknown_since = {who: since + pause for who, since in self.unknown_since.items()}

    async def _sessions(self, ids: list[str]) -> int:
        keys, run = self.part.keys, self.part.executor
        rows = await self._sound([keys.session(i) for i in ids])
        records = [
            (i, text_of(row["state"]) or "", text_of(row["owner"]) or "")
            for i in ids
            if (row := rows.get(keys.session(i))) is not None
        ]
        answers = await run.outcomes([look for r in records for look in self._looks(*r)])
        wrong, at = [], 0
        for session, state, owner in records:
            n = len(self._looks(session, state, owner))
            mine = answers[at : at + n]
            at += n
            if n and all(self._readable("session", session, a) for a in mine) and not self._agrees(state, owner, mine):
                wrong.append((session, owner))
        for session, owner in wrong:
            try:
                answer = await run.run(
                    calls.repair(
                        keys, session=session, owner=owner, dead_after_ms=round(self.settings.dead_after * 1000)
                    )
                )
            except ScriptError as error:
                log.error("index_not_repaired", session=session, instance=owner, error=str(error))
                continue
            if isinstance(answer, calls.RepairOk) and answer.repaired:
                log.warning("index_repaired", session=session, instance=owner, indexes=answer.repaired)
        return len(wrong)

    async def _sound(self, records: list[str]) -> dict[str, dict[str, bytes | None]]:
        """Key -> fields of those records that parse; the others are set aside."""
        run = self.part.executor
        answers = await run.outcomes(look(records))
        sound, broken = {}, []
        for key, there, values in zip(records, answers[::2], answers[1::2], strict=True):
            if (one := broken_in(key, there, values)) is not None:
                broken.append(one)
            elif not isinstance(values, Exception):
                sound[key] = dict(zip(fields_of(key), values, strict=True))
        for one in broken:
            await set_aside(run, one)
        return sound

    def _readable(self, kind: str, name: str, answer: Any) -> bool:
        """Whether there is an answer; a key of another type than ours is left alone, and stops nobody."""
        if isinstance(answer, Exception):
            log.error("record_unreadable", kind=kind, name=name, error=str(answer), partition=self.part.keys.partition)
        return not isinstance(answer, Exception)

    def _looks(self, session: str, state: str, owner: str) -> list[tuple[Any, ...]]:
        keys = self.part.keys
        if state in SERVED:
            return [
                ("SISMEMBER", keys.owned(owner), session),
                ("HGET", keys.instance(owner), "state"),
                ("ZSCORE", keys.instances, owner),
                ("ZSCORE", keys.graves, owner),
                *([("ZSCORE", keys.leases, session)] if state == SessionState.HANDING_OVER else []),
            ]
        if state == SessionState.OFFERED:
            return [("ZSCORE", keys.leases, session), ("ZSCORE", keys.orphans, session)]
        return [("ZSCORE", keys.dead_letters, session)] if state == SessionState.DEAD_LETTERED else []

    def _agrees(self, state: str, owner: str, answers: list[Any]) -> bool:
        if state not in SERVED:
            return all(answer is not None for answer in answers)
        indexed, known, beats, grave, *lease = answers
        if known is None:  # it may be about to register again, after lost writes
            if not self._long_unknown(owner):
                return True
        else:
            self.unknown_since.pop(owner, None)
        listed = grave is not None if known is None or text(known) == InstanceState.DEAD else beats is not None
        return bool(indexed) and listed and all(answer is not None for answer in lease)

    def _long_unknown(self, instance: str) -> bool:
        self._met.add(instance)
        since = self.unknown_since.setdefault(instance, clock.now())
        return clock.now() - since >= 2 * self.settings.dead_after

    async def _instances(self, ids: list[str]) -> int:
        """Instances that live by their record and whose heartbeats nobody watches get a deadline: they beat, or they are dead."""
        keys, run = self.part.keys, self.part.executor
        await self._sound([keys.instance(i) for i in ids])
        looks = await run.outcomes(
            [
                look
                for i in ids
                for look in (
                    ("HGET", keys.instance(i), "state"),
                    ("ZSCORE", keys.instances, i),
                    ("ZSCORE", keys.graves, i),
                )
            ]
        )
        repaired = 0
        for i, state, beats, grave in zip(ids, looks[::3], looks[1::3], looks[2::3], strict=True):
            if text(state) not in LIVING or beats is not None or grave is not None:
                continue
            if not self._long_unknown(i):
                continue
            seconds, _ = await run.command("TIME")
            deadline_ms = int(seconds) * 1000 + round(self.settings.dead_after * 1000)
            repaired += int(await run.command("ZADD", keys.instances, "NX", deadline_ms, i))
            self.unknown_since.pop(i, None)
            log.warning("index_repaired", instance=i, indexes="instances")
        return repaired

    async def tidy(self) -> None:
        """Takes out what ended: see `Tidier`.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        await self._tidier.step()
