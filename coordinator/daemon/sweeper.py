"""A slow walk over all keys that finds what an index lost (the scar is asynq's issue 1144), and what no program uses any more.

A fixed number of keys a step, so that its cost does not grow with the number of sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from coordinator import clock
from coordinator.daemon.tidier import Tidier
from coordinator.settings import Settings
from coordinator.states import LIVING, InstanceState
from coordinator.store import calls, walk
from coordinator.store.executor import StorePartition
from coordinator.store.faults import ScriptError
from coordinator.store.shapes import text_if_any

__all__ = ["Sweeper"]

log = structlog.get_logger()

MOST_BETWEEN_SECONDS = 2.0
"""Between two steps so much counts at most: if they are further apart there was a pause."""
COUNT = 100
"""Keys a step, more or less."""


@dataclass(slots=True)
class Sweeper:
    """Where the walk is, and what was amiss when it last came by. An instance that is about to register again gets time for it.

    Attributes:
        unknown_since: owners without a record, and instances that no index names, with the own clock's time.
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
        """Looks at some keys and repairs the indexes that disagree with a record. Safe to repeat.

        Returns:
            How many records were repaired.

        Raises:
            StoreUnavailableError: the store did not answer; the walk goes on from here.
        """
        self._count_no_pause()
        keys = self.part.keys
        step = await walk.next_keys(self.part, self.cursor, COUNT)
        self.cursor = step.cursor
        repaired = await self._sessions(step.sessions) + await self._instances(step.instances)
        self._tidier.met(step.pools, events=step.events)
        await walk.records_that_parse(
            self.part, [keys.meta, keys.detector]
        )  # scripts fall back on something else without these
        if step.over:  # an instance that was not met in the whole walk is gone
            self.unknown_since = {who: since for who, since in self.unknown_since.items() if who in self._met}
            self._met.clear()
        return repaired

    def _count_no_pause(self) -> None:
        """Leaves out time in which this process stood still, or the store was away: no instance could register then."""
        now = clock.now()
        pause = now - self._stepped - min(MOST_BETWEEN_SECONDS, self.settings.dead_after)
        self._stepped = now
        if pause > 0:
            self.unknown_since = {who: since + pause for who, since in self.unknown_since.items()}

    async def _sessions(self, ids: list[str]) -> int:
        keys = self.part.keys
        rows = await walk.records_that_parse(self.part, [keys.session(i) for i in ids])
        records = [
            (i, text_if_any(row["state"]) or "", text_if_any(row["owner"]) or "")
            for i in ids
            if (row := rows.get(keys.session(i))) is not None
        ]
        wrong = []
        for (session, _, owner), found in zip(records, await walk.indexed(self.part, records), strict=True):
            if found.refused:  # a key of another type is left alone, and holds up no other session
                log.error(
                    "record_unreadable", kind="session", name=session, error=found.refused, partition=keys.partition
                )
            elif found.needed and not self._agrees(owner, found):
                wrong.append((session, owner))
        for session, owner in wrong:
            try:
                answer = await self.part.executor.run(
                    calls.repair(keys, session=session, owner=owner, dead_after=self.settings.dead_after)
                )
            except ScriptError as error:
                log.error("index_not_repaired", session=session, instance=owner, error=str(error))
                continue
            if isinstance(answer, calls.RepairOk) and answer.repaired:
                log.warning("index_repaired", session=session, instance=owner, indexes=answer.repaired)
        return len(wrong)

    def _agrees(self, owner: str, found: walk.Indexed) -> bool:
        """Whether the indexes agree with a session's record."""
        if found.owner_state is None:
            return found.listed
        if not found.owner_state:  # its owner may be about to register again, after lost writes
            if not self._long_unknown(owner):
                return True
        else:
            self.unknown_since.pop(owner, None)
        gone = found.owner_state in ("", InstanceState.DEAD)
        return found.listed and (found.buried if gone else found.beats)

    def _long_unknown(self, instance: str) -> bool:
        self._met.add(instance)
        since = self.unknown_since.setdefault(instance, clock.now())
        return clock.now() - since >= 2 * self.settings.dead_after

    async def _instances(self, ids: list[str]) -> int:
        """Gives a deadline to instances that live by their record and have no heartbeat entry: they beat, or they are dead."""
        await walk.records_that_parse(self.part, [self.part.keys.instance(i) for i in ids])
        repaired = 0
        for found in await walk.instances_indexed(self.part, ids):
            if found.state not in LIVING or found.listed or not self._long_unknown(found.instance):
                continue
            repaired += await walk.give_deadline(self.part, found.instance, self.settings.dead_after)
            self.unknown_since.pop(found.instance, None)
            log.warning("index_repaired", instance=found.instance, indexes="instances")
        return repaired

    async def tidy(self) -> None:
        """Takes out what ended: see `Tidier`. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        await self._tidier.step()
