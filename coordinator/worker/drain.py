"""Hands over all that a worker owns, each call while it goes on being served: make before break."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import structlog

from coordinator import clock
from coordinator.errors import CoordinatorError, FencedError, StoreUnavailableError
from coordinator.settings import Settings
from coordinator.worker.last_words import LAST_WORDS_SECONDS, last_words
from coordinator.worker.session import Session

__all__ = ["DrainReport", "Progress", "drain"]

log = structlog.get_logger()

RETRY_SECONDS = 0.1
RESERVE_SECONDS = 1.0
"""Part of the time-out that is kept for offering sessions that could not be handed over."""
LAST_MOMENT_SECONDS = 0.25
"""Part of the rest that is kept for letting a busy call go to an heir that waits for it."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain did.

    Attributes:
        handed_over: id -> the heir that serves it.
        silence: id -> seconds without a serving worker, as the owner measured them.
        released: ids that no worker took in time: they were offered as orphans.
        failed: id -> why the session could not be moved at all.
        closed: ids of calls that ended meanwhile.
    """

    handed_over: dict[str, str] = field(default_factory=dict)
    silence: dict[str, float] = field(default_factory=dict)
    released: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    closed: tuple[str, ...] = ()


class Drains(Protocol):
    """An instance in one partition, as far as its drain is concerned."""

    @property
    def instance(self) -> str:
        """Its id."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions that it owns, by id."""

    @property
    def is_taking(self) -> bool:
        """Whether a session is being opened or adopted."""

    def continued(self, now: float) -> float:
        """When its process last went on after standing still, in seconds of `coordinator.clock`; long ago when it did not."""

    async def begin_drain(self, lets_go_by: float, timeout: float, reason: str) -> None:
        """Takes nothing new from now on, and tells the store; busy sessions are let go at that time at the latest."""


class Progress:
    """When a call last found an heir, and how long to wait for the next one."""

    def __init__(self, deadline: float, patience: float, continued: Callable[[float], float]) -> None:
        self.deadline, self._patience, self._continued = deadline, patience, continued
        self._last = clock.now()

    def made(self) -> None:
        """A call moved."""
        self._last = clock.now()

    def left(self) -> float:
        """Seconds for which an heir may still be found."""
        now = clock.now()
        return max(0.0, min(self.deadline, max(self._last, self._continued(now)) + self._patience) - now)


async def drain(
    members: Sequence[Drains], settings: Settings, timeout: float, reason: str, *, patience: float = float("inf")
) -> DrainReport:
    """Tells the store that these members drain, hands over what they own, and offers the rest at the end.

    At most ``drain_concurrency`` calls are on offer at a time. A call that no worker takes is offered again until the time-out,
    and its owner serves it all the while.

    Args:
        members: one for each partition.
        settings: lease and concurrency.
        timeout: seconds in all.
        reason: for the events.
        patience: seconds in which no call finds an heir, after which the rest is offered as orphans.
    """

    def continued(now: float) -> float:
        return max((member.continued(now) for member in members), default=now)

    progress = Progress(clock.now() + max(0.0, timeout - RESERVE_SECONDS), patience, continued)
    for member in members:
        await member.begin_drain(progress.deadline - LAST_MOMENT_SECONDS, timeout, reason)
    names = [member.instance for member in members]
    log.info(
        "drain_started",
        instances=names,
        sessions=sum(len(member.sessions) for member in members),
        timeout=round(timeout, 3),
    )
    room = anyio.CapacityLimiter(settings.drain_concurrency)
    sessions: dict[Session, None] = {}
    async with anyio.create_task_group() as tasks:

        def begin() -> None:
            for session in [one for member in members for one in member.sessions.values() if one not in sessions]:
                sessions[session] = None
                tasks.start_soon(_hand_over, session, room, progress)

        begin()
        while any(member.is_taking for member in members) and progress.left():
            await anyio.sleep(RETRY_SECONDS)  # sessions that were being opened or adopted as it began
            begin()
        begin()
    report = await _release_rest(list(sessions))
    log.info(
        "drain_ended", instances=names, handed_over=len(report.handed_over), released=len(report.released), failed=len(report.failed),
        closed=len(report.closed),
    )  # fmt: skip
    return report


async def _hand_over(session: Session, room: anyio.CapacityLimiter, progress: Progress) -> None:
    """Offers one call until an heir has it, it ended, or the time is over.

    A busy call is offered when it is no longer busy, or so late that an heir waits for it when the time is over. It takes no other
    call's turn.
    """
    tries = 0
    await session.quiet(lambda: progress.deadline - LAST_MOMENT_SECONDS - session.lease)
    while not session.is_over and session.ending is None and progress.left():
        async with contextlib.nullcontext() if session.is_busy else room:
            try:
                await session.offer_handover()
            except FencedError:
                return
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            with anyio.move_on_after(min(session.lease + RETRY_SECONDS, progress.left())):
                await session.lost.wait()
        if session.lost.is_set() or clock.now() - session.asked_at < session.lease:  # an heir has it, or waits for it
            progress.made()
        tries += 1
        if tries == 1 and not session.is_over and not session.is_busy:
            log.warning("drain_waits", session=session.id, reason="no worker took the offer")


async def _release_rest(sessions: Sequence[Session]) -> DrainReport:
    released: list[str] = []
    failed: dict[str, str] = {}

    async def release(session: Session) -> None:
        try:
            await last_words(session, LAST_WORDS_SECONDS)
            if session.is_over:  # its program has ended it there, or another worker has it
                return
            await session.hand_back("the drain's time was over", "left")
            released.append(session.id)
        except CoordinatorError as error:
            if not session.heir:
                failed[session.id] = str(error)

    left = [s for s in sessions if not s.is_over]
    async with anyio.create_task_group() as tasks:
        for session in left:
            tasks.start_soon(release, session)
    lost = {s.id: s.lost_reason for s in sessions if s.lost.is_set() and not s.heir and s.ending is None}
    return DrainReport(
        handed_over={s.id: s.heir for s in sessions if s.heir},
        silence={s.id: s.silence for s in sessions if s.heir},
        released=tuple(released),
        failed={**lost, **failed},
        closed=tuple(s.id for s in sessions if s.closed.is_set() and s.id not in released),
    )
