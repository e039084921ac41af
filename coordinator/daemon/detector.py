"""Looks at a partition and declares who is silent: heartbeat -> detect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.failpoints import reach
from coordinator.policy import Candidate, Observation, Suspect, horizon, released, unfit_to_judge, vote
from coordinator.settings import Settings
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.scripts import Answer

__all__ = ["Detector", "Look"]

log = structlog.get_logger()

BREAKER_PATIENCE = 15
"""Times ``dead_after`` after which an open mass breaker lets everybody go, room or not."""
UNFIT_PATIENCE = 5
"""Times ``dead_after`` for which a slow coordinator withholds its judgement."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found to do; times in ms of the server's clock.

    Attributes:
        buried: instances declared dead in this look.
        graves, leases: what is due.
        reason: why nobody is declared, '' without a hold.
        known: False when the partition must be made first.
    """

    now_ms: int
    next_ms: int
    reason: str = ""
    transfers_held: bool = False
    buried: tuple[str, ...] = ()
    graves: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()
    known: bool = True


@dataclass(slots=True)
class Detector:
    """Remembers what it saw of each suspect, on this process's own clock.

    Attributes:
        loop_lag: returns by how many seconds the own loop woke too late.
        withheld: told why nobody is declared, once each time that it begins.
        dead_after: of each instance, in seconds: while a setting is rolled out workers may have another one than this process.
        unfit: why this coordinator does not judge just now, '' when it may.
    """

    part: StorePartition
    settings: Settings
    by: str
    loop_lag: Callable[[], float]
    withheld: Callable[[str], None] = lambda reason: None
    seen: dict[str, Observation] = field(default_factory=dict)
    dead_after: Mapping[str, float] = field(default_factory=dict)
    unfit: str = ""
    _held: str = ""
    _unfit_since: float = 0.0
    _unwatched: frozenset[Suspect] = frozenset()
    _breaker_told: int = 0
    _connections_count: bool = True

    @property
    def lost_after(self) -> float:
        """Seconds since the last beat after which a lost connection counts; 0 where it cannot."""
        return self.settings.lost_connection_after if self._connections_count else 0.0

    async def step(self) -> Look:
        """One look; declares whoever is dead by both clocks.

        Raises:
            StoreUnavailableError: the store did not answer; nothing is known.
        """
        s, lost_after = self.settings, self.lost_after
        least = min(self.dead_after.values(), default=s.dead_after)
        began = clock.now()
        answer = await self.part.executor.run(
            calls.scan(
                self.part.keys,
                max_scan_gap_ms=round(s.max_scan_gap * 1000),
                hold_ms=round(s.dead_after * 1000),
                horizon_ms=round(horizon(least, s.max_scan_gap, lost_after) * 1000),
                due_ms=max(0, round((least - lost_after) * 1000)) if lost_after else 0,
                breaker_min=s.breaker_min,
                breaker_permille=round(s.breaker_share * 1000),
                breaker_window_ms=round(s.breaker_window * 1000),
            )
        )
        seen_at = clock.now()
        reach("after_scan")
        if answer.word == "UNKNOWN":
            return Look(0, 0, known=False)
        suspects = [Suspect.parse(line) for line in answer.items("suspects")]
        now_ms = answer.int("now_ms")
        silent, doubtful, self.seen = vote(
            suspects, self.seen, now_ms, seen_at, s.dead_after, lost_after, self.dead_after
        )
        self._tell_of_hold(answer)
        self._tell_of_clocks([s for s in suspects if s.deadline_ms <= now_ms and s not in silent])
        buried: list[str] = []
        if answer.word == "OK" and (silent or doubtful) and self._fit(seen_at - began, seen_at):
            dead = dict.fromkeys(silent, "silence") | dict.fromkeys(
                await self._without_connection(doubtful), "lost_connection"
            )
            if since_ms := answer.int("breaker_since_ms"):
                dead = await self._released(dead, now_ms, since_ms, {suspect.instance for suspect in suspects})
            buried = await self._declare(dead)
        return Look(
            now_ms,
            answer.int("next_ms"),
            answer.text("reason") if answer.word == "HELD" else "",
            answer.int("transfers_held") == 1,
            tuple(buried),
            tuple(answer.items("graves")),
            tuple(answer.items("leases")),
        )

    async def _without_connection(self, doubtful: list[Suspect]) -> list[Suspect]:
        """Those to whose presence connection nobody listens any more: one command for all."""
        if not doubtful:
            return []
        channels = [self.part.keys.mailbox(suspect.instance) for suspect in doubtful]
        try:
            told = await self.part.executor.command("PUBSUB", "NUMSUB", *channels)
        except StoreUnavailableError as error:
            if error.kind not in ("permission", "unsupported"):
                raise
            self._connections_count = False
            log.warning(
                "lost_connection_unavailable", partition=self.part.keys.partition, reason=error.detail,
                consequence="the dead are found by silence",
            )  # fmt: skip
            return []
        return [suspect for suspect, listeners in zip(doubtful, told[1::2], strict=True) if int(listeners) == 0]

    async def _released(
        self, dead: dict[Suspect, str], now_ms: int, since_ms: int, suspects: set[str]
    ) -> dict[Suspect, str]:
        """While the mass breaker is open: nobody until it is confirmed, then as many as the survivors have room for."""
        s = self.settings
        if self._breaker_told != since_ms:
            self._breaker_told = since_ms
            log.error("mass_breaker_opened", partition=self.part.keys.partition, suspects=len(suspects))
        open_for = (now_ms - since_ms) / 1000
        if open_for < s.dead_after or not dead:
            return {}
        if open_for > s.dead_after * BREAKER_PATIENCE:  # never stuck for ever: their calls wait for workers as offers
            return dead
        rows = {row.id: row for row in await reads.instances(self.part)}
        room: Counter[str] = Counter()
        for row in rows.values():
            if row.state == "alive" and row.id not in suspects:
                room[row.pool] += max(0, row.capacity - row.owned)
        waiting = int(await self.part.executor.command("ZCARD", self.part.keys.leases))
        candidates = [
            Candidate(suspect, rows[suspect.instance].pool, rows[suspect.instance].owned)
            for suspect in dead
            if suspect.instance in rows
        ]
        gone = released(candidates, {pool: slots - waiting for pool, slots in room.items()})
        return {suspect: dead[suspect] for suspect in gone}

    def _fit(self, round_trip: float, now: float) -> bool:
        why = unfit_to_judge(self.loop_lag(), round_trip, self.settings.max_scan_gap)
        if not why:
            self.unfit = ""
            return True
        if not self.unfit:
            self._unfit_since = now
            log.warning("declaration_withheld", partition=self.part.keys.partition, reason=why)
            self.withheld("slow_judge")
        self.unfit = why
        if now - self._unfit_since > UNFIT_PATIENCE * self.settings.dead_after:  # bounded: slow is not wrong for ever
            log.warning("declaration_in_spite_of", partition=self.part.keys.partition, reason=why)
            return True
        return False

    def _tell_of_hold(self, answer: Answer) -> None:
        reason = answer.text("reason") or "hold" if answer.word == "HELD" else ""
        if reason and reason != self._held:
            seconds = (answer.int("hold_until_ms") - answer.int("now_ms")) / 1000
            log.warning("hold_started", partition=self.part.keys.partition, reason=reason, seconds=seconds)
        elif self._held and not reason:
            log.info("hold_ended", partition=self.part.keys.partition, reason=self._held)
        self._held = reason

    def _tell_of_clocks(self, unwatched: list[Suspect]) -> None:
        """Whose deadline passed on the server's clock, while this coordinator has not watched them for long enough."""
        fresh = [suspect for suspect in unwatched if suspect not in self._unwatched]
        if fresh and not self._held:
            names = [suspect.instance for suspect in fresh[:10]]
            log.warning(
                "declaration_withheld", partition=self.part.keys.partition, instances=names,
                reason="the deadline passed on the server's clock and not yet on this one's",
            )  # fmt: skip
            self.withheld("two_clocks")
        self._unwatched = frozenset(unwatched)

    async def _declare(self, dead: dict[Suspect, str]) -> list[str]:
        s = self.settings
        answers = await self.part.executor.run_many(
            [
                calls.declare(
                    self.part.keys,
                    instance=suspect.instance,
                    deadline_ms=suspect.deadline_ms,
                    max_scan_gap_ms=round(s.max_scan_gap * 1000),
                    cause=cause,
                    by=self.by,
                    lost_after_ms=round(s.lost_connection_after * 1000),
                    breaker_window_ms=round(s.breaker_window * 1000),
                )
                for suspect, cause in dead.items()
            ]
        )
        reach("after_declare")
        buried = []
        for (suspect, cause), answer in zip(dead.items(), answers, strict=True):
            if answer.word == "OK":
                buried.append(suspect.instance)
                log.warning(
                    "instance_declared_dead", instance=suspect.instance, cause=cause, sessions=answer.int("owned"),
                    partition=self.part.keys.partition,
                )  # fmt: skip
        return buried
