"""Looks at a partition and declares silent instances dead: heartbeat -> detect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from coordinator import clock
from coordinator.clock import in_ms, in_seconds
from coordinator.errors import StoreUnavailableError
from coordinator.failpoints import reach
from coordinator.policy import (
    Candidate,
    Observation,
    Suspect,
    clock_step_ms,
    earliest,
    horizon,
    lost_counts_after,
    released,
    unfit_to_judge,
    vote,
    watch,
)
from coordinator.settings import Settings
from coordinator.states import InstanceState
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.offer_stream import offers_waiting
from coordinator.store.past import Past
from coordinator.store.pruning import prune
from coordinator.store.shapes import instance_id, session_id
from coordinator.store.suspects import awaited_of, later_suspects, listeners_of, without_a_record
from coordinator.store.usual import BATCH, MOST_SUSPECTS

__all__ = ["Detector", "Look", "no_others"]

log = structlog.get_logger()

BREAKER_PATIENCE = 15
"""Times ``dead_after`` after which an open mass breaker releases all silent instances, room or not."""
MOST_AWAITED = 2000
"""Handovers and offers at most, those with the latest leases, of which it looks whether an heir waits."""
OTHER_PRIMARY_PATIENCE = 30.0
"""Seconds for which a replaced server that takes itself for the primary withholds deaths by silence; Sentinels need ten."""
UNFIT_PATIENCE = 5
"""Times ``dead_after`` for which a slow coordinator withholds its judgement."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found to do; times in ms of the server's clock.

    Attributes:
        buried: instances declared dead in this look.
        graves, leases: what is due.
        reason: why no instance is declared dead, '' without a hold.
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


async def no_others() -> tuple[str, ...]:
    """For a store of which no Sentinel names the primary."""
    return ()


@dataclass(slots=True)
class Detector:
    """Remembers what it saw of each suspect, on this process's own clock.

    Attributes:
        loop_lag: returns by how many seconds the own loop woke too late.
        withheld: called with the reason for which no instance is declared dead, once each time that it begins.
        dead_after, lost_connection_after: of each instance, in seconds. Workers behind a sidecar are given longer than others,
            and while a setting is rolled out workers may have another value than this process.
        watched: since when each living instance's deadline stands still, as the gauges see it.
        past: what is remembered of the partition, whatever became of its data.
        unfit: why this coordinator does not judge just now, '' when it may.
        other_primaries: returns servers, beside the one that the Sentinels name, that take themselves for the primary and
            at which an instance beats.
        page: suspects that one look names at most; the others are read page by page.
        breaker_patience: times ``dead_after`` after which an open mass breaker releases all, room or not.
    """

    part: StorePartition
    settings: Settings
    by: str
    loop_lag: Callable[[], float]
    withheld: Callable[[str], None] = lambda reason: None
    seen: dict[str, Observation] = field(default_factory=dict)
    dead_after: Mapping[str, float] = field(default_factory=dict)
    lost_connection_after: Mapping[str, float] = field(default_factory=dict)
    watched: Mapping[str, Observation] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    unfit: str = ""
    other_primaries: Callable[[], Awaitable[tuple[str, ...]]] = no_others
    page: int = MOST_SUSPECTS
    breaker_patience: float = BREAKER_PATIENCE
    _others_since: float = float("inf")
    _others_told: bool = False
    _looked: tuple[int, float] = (0, 0.0)
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
        """Looks once, and declares the instances that are dead by both clocks. Safe to repeat.

        Raises:
            StoreUnavailableError: the store did not answer; nothing is known.
        """
        s, lost_after = self.settings, self.lost_after
        first = min(self.dead_after, key=lambda one: self.dead_after[one], default="")
        least = self.dead_after.get(first, s.dead_after)
        lost_first = lost_after and self.lost_connection_after.get(first, lost_after)
        ahead = horizon(least, s.max_scan_gap, lost_first)
        due = max(0.0, least - lost_first) if lost_first else 0.0
        answer, began, seen_at = await self._scan(ahead, due)
        reach("after_scan")
        if isinstance(answer, calls.Unknown):
            return Look(0, 0, known=False)
        stepped = clock_step_ms(self._looked, (answer.now_ms, seen_at))  # from the question before to the answer now
        if stepped > in_ms(s.max_scan_gap):  # only an answer tells: a request may wait while the server stands still
            answer, began, seen_at = await self._scan(ahead, due, (self._looked[0], stepped))
            if isinstance(answer, calls.Unknown):
                return Look(0, 0, known=False)
        suspects = [one for line in answer.suspects if (one := Suspect.parse(line)) is not None]
        now_ms = answer.now_ms
        self._looked = now_ms, began
        if len(answer.suspects) >= self.page:
            suspects += await later_suspects(self.part, now_ms + in_ms(ahead), self.page)
        before = earliest(suspects, self.seen, self.watched)
        silent, doubtful, self.seen = vote(
            suspects, before, now_ms, seen_at, s.dead_after, lost_after, self.dead_after, self.lost_connection_after
        )
        held = isinstance(answer, calls.ScanHeld)
        self._tell_of_hold(answer)
        counted = set(silent)
        self._tell_of_clocks([s for s in suspects if s.deadline_ms <= now_ms and s not in counted])
        buried: list[str] = []
        if not held and (silent or doubtful) and self._fit(seen_at - began, seen_at):
            dead = dict.fromkeys(silent, "silence") | dict.fromkeys(
                await self._without_connection(doubtful), "lost_connection"
            )
            if since_ms := answer.breaker_since_ms:
                dead = await self._released(dead, now_ms, since_ms, {suspect.instance for suspect in suspects})
            buried = await self._declare(dead)
        return Look(
            now_ms,
            answer.next_ms,
            answer.reason if held else "",
            answer.transfers_held,
            tuple(buried),
            tuple(one for one in answer.graves if instance_id(one.encode())),
            tuple(one for one in answer.leases if session_id(one.encode())),
        )

    async def _scan(
        self, ahead: float, due: float, stepped: tuple[int, int] = (0, 0)
    ) -> tuple[calls.ScanReply, float, float]:
        """The answer of one scan, and when it was asked for and came, by this process's own clock."""
        s = self.settings
        another_primary = await self._sees_another_primary()
        began = clock.now()
        answer = await self.part.executor.run(
            calls.scan(
                self.part.keys,
                max_scan_gap=s.max_scan_gap,
                hold=s.dead_after,
                horizon=ahead,
                most_suspects=self.page,
                seen_ms=stepped[0],
                stepped=in_seconds(stepped[1]),
                due=due,
                breaker_min=s.breaker_min,
                breaker_share=s.breaker_share,
                breaker_window=s.breaker_window,
                another_primary=another_primary,
                past=self.past,
            )
        )
        if not isinstance(answer, calls.Unknown):
            self.past.agree(answer.lineage, answer.now_ms)
            self.past.saw(answer.highest_epoch)
        return answer, began, clock.now()

    async def _sees_another_primary(self) -> bool:
        """Whether an instance may beat at a server that was replaced and does not know it; for a limited time, and logged."""
        others, now = await self.other_primaries(), clock.now()
        if not others:
            self._others_since = float("inf")
            return False
        if self._others_since > now:
            self._others_since, self._others_told = now, False
            log.warning("another_primary", partition=self.part.keys.partition, servers=list(others))
        if now - self._others_since < OTHER_PRIMARY_PATIENCE:
            return True
        if not self._others_told:
            self._others_told = True
            log.warning(
                "declaration_in_spite_of", partition=self.part.keys.partition,
                reason=f"these take themselves for the primary, too: {', '.join(others)}",
            )  # fmt: skip
        return False

    def learn(self, rows: Iterable[reads.InstanceRow]) -> None:
        """Remembers of all instances how long each is given, and since when its deadline stands still."""
        s, living = self.settings, [row for row in rows if row.state != InstanceState.DEAD and row.dead_after_ms]
        self.dead_after = {row.id: in_seconds(row.dead_after_ms) for row in living}
        self.lost_connection_after = {
            row.id: lost_counts_after(s.lost_connection_after, in_seconds(row.trust_ms), s.safety_margin)
            for row in living
        }
        self.watched = watch(self.watched, {row.id: row.deadline_ms for row in living}, clock.now())

    def forget(self) -> None:
        """Forgets what was seen: the store did not answer, so it says nothing of the time since."""
        self.seen.clear()
        self.watched = {}

    async def _without_connection(self, doubtful: list[Suspect]) -> list[Suspect]:
        """The suspects whose presence connection is gone; one command for all."""
        if not doubtful:
            return []
        try:
            listeners = await listeners_of(self.part, [suspect.instance for suspect in doubtful])
        except StoreUnavailableError as error:
            if error.kind not in ("permission", "unsupported"):
                raise
            self._connections_count = False
            log.warning(
                "lost_connection_unavailable", partition=self.part.keys.partition, reason=error.detail,
                consequence="the dead are found by silence",
            )  # fmt: skip
            return []
        return [suspect for suspect, many in zip(doubtful, listeners, strict=True) if not many]

    async def _leave_out_who_never_lived(self, suspects: list[str]) -> None:
        """Takes members without a record out of the index: the breaker counted them, and is judged anew."""
        ghosts = await without_a_record(self.part, suspects)
        for first in range(0, len(ghosts), BATCH):
            members = ghosts[first : first + BATCH]
            await self.part.executor.run(prune(self.part.keys, index="instances", members=members, counted=True))

    async def _released(
        self, dead: dict[Suspect, str], now_ms: int, since_ms: int, suspects: set[str]
    ) -> dict[Suspect, str]:
        """The deaths to declare while the mass breaker is open: none until it is confirmed, then as many as there is room for."""
        s = self.settings
        if self._breaker_told != since_ms:
            self._breaker_told = since_ms
            log.error("mass_breaker_opened", partition=self.part.keys.partition, suspects=len(suspects))
            await self._leave_out_who_never_lived(sorted(suspects))
        open_for = in_seconds(now_ms - since_ms)
        if open_for < s.dead_after or not dead:
            return {}
        if (
            open_for > s.dead_after * self.breaker_patience
        ):  # it does not last for ever: the calls wait for workers as offers
            return dead
        rows = {row.id: row for row in await reads.instances(self.part)}
        room: Counter[str] = Counter()
        for row in rows.values():
            if row.state == InstanceState.ALIVE and row.id not in suspects:
                room[row.pool] += max(0, row.capacity - row.owned)
        known = [suspect for suspect in dead if suspect.instance in rows]
        waiting = await offers_waiting(self.part, {*room, *(rows[suspect.instance].pool for suspect in known)})
        awaited = await awaited_of(self.part, MOST_AWAITED)
        candidates = [
            Candidate(suspect, row.pool, row.owned, awaited[suspect.instance])
            for suspect in known
            if (row := rows[suspect.instance])
        ]
        gone = released(candidates, {pool: room[pool] - waiting[pool] for pool in waiting})
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
        if (
            now - self._unfit_since > UNFIT_PATIENCE * self.settings.dead_after
        ):  # bounded: a slow coordinator may judge again
            log.warning("declaration_in_spite_of", partition=self.part.keys.partition, reason=why)
            return True
        return False

    def _tell_of_hold(self, answer: calls.ScanOk | calls.ScanHeld) -> None:
        reason = answer.reason or "hold" if isinstance(answer, calls.ScanHeld) else ""
        if reason and reason != self._held:
            seconds = in_seconds(answer.hold_until_ms - answer.now_ms)
            log.warning("hold_started", partition=self.part.keys.partition, reason=reason, seconds=seconds)
        elif self._held and not reason:
            log.info("hold_ended", partition=self.part.keys.partition, reason=self._held)
        self._held = reason

    def _tell_of_clocks(self, unwatched: list[Suspect]) -> None:
        """Logs instances whose deadline passed on the server's clock, but which this process has not watched for long enough."""
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
                    max_scan_gap=s.max_scan_gap,
                    cause=cause,
                    by=self.by,
                    lost_after=s.lost_connection_after,
                    breaker_window=s.breaker_window,
                )
                for suspect, cause in dead.items()
            ]
        )
        reach("after_declare")
        buried = []
        for (suspect, cause), answer in zip(dead.items(), answers, strict=True):
            if isinstance(answer, calls.DeclareOk):
                buried.append(suspect.instance)
                log.warning(
                    "instance_declared_dead", instance=suspect.instance, cause=cause, sessions=answer.owned,
                    partition=self.part.keys.partition,
                )  # fmt: skip
        return buried
