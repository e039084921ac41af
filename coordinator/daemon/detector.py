"""Looks at a partition and declares who is silent: heartbeat -> detect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from coordinator import clock
from coordinator.failpoints import reach
from coordinator.policy import Observation, Suspect, horizon, unfit_to_judge, vote
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.scripts import Answer

__all__ = ["Detector", "Look"]

log = structlog.get_logger()


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
    """

    part: StorePartition
    settings: Settings
    by: str
    loop_lag: Callable[[], float]
    seen: dict[str, Observation] = field(default_factory=dict)
    _held: str = ""
    _unfit: str = ""

    async def step(self) -> Look:
        """One look; declares whoever is dead by both clocks.

        Raises:
            StoreUnavailableError: the store did not answer; nothing is known.
        """
        s = self.settings
        began = clock.now()
        answer = await self.part.executor.run(
            calls.scan(
                self.part.keys,
                max_scan_gap_ms=round(s.max_scan_gap * 1000),
                hold_ms=round(s.dead_after * 1000),
                horizon_ms=round(horizon(s.dead_after, s.max_scan_gap) * 1000),
            )
        )
        seen_at = clock.now()
        reach("after_scan")
        if answer.word == "UNKNOWN":
            return Look(0, 0, known=False)
        suspects = [Suspect.parse(line) for line in answer.items("suspects")]
        now_ms = answer.int("now_ms")
        dead, self.seen = vote(suspects, self.seen, now_ms, seen_at, s.dead_after)
        self._tell_of_hold(answer)
        buried: list[str] = []
        if answer.word == "OK" and dead and self._fit(seen_at - began):
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

    def _fit(self, round_trip: float) -> bool:
        why = unfit_to_judge(self.loop_lag(), round_trip, self.settings.max_scan_gap)
        if why and why != self._unfit:
            log.warning("declaration_withheld", partition=self.part.keys.partition, reason=why)
        self._unfit = why
        return not why

    def _tell_of_hold(self, answer: Answer) -> None:
        reason = answer.text("reason") or "hold" if answer.word == "HELD" else ""
        if reason and reason != self._held:
            seconds = (answer.int("hold_until_ms") - answer.int("now_ms")) / 1000
            log.warning("hold_started", partition=self.part.keys.partition, reason=reason, seconds=seconds)
        elif self._held and not reason:
            log.info("hold_ended", partition=self.part.keys.partition, reason=self._held)
        self._held = reason

    async def _declare(self, dead: list[Suspect]) -> list[str]:
        answers = await self.part.executor.run_many(
            [
                calls.declare(
                    self.part.keys,
                    instance=suspect.instance,
                    deadline_ms=suspect.deadline_ms,
                    max_scan_gap_ms=round(self.settings.max_scan_gap * 1000),
                    by=self.by,
                )
                for suspect in dead
            ]
        )
        reach("after_declare")
        buried = []
        for suspect, answer in zip(dead, answers, strict=True):
            if answer.word == "OK":
                buried.append(suspect.instance)
                log.warning(
                    "instance_declared_dead", instance=suspect.instance, cause="silence", sessions=answer.int("owned"),
                    partition=self.part.keys.partition,
                )  # fmt: skip
        return buried
