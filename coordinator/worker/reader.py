"""The blocked reader of offers: wakes at once, and never takes more than there is room for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from coordinator import clock
from coordinator.errors import CoordinatorError, FencedError, StoreUnavailableError
from coordinator.policy import backoff
from coordinator.store import reads
from coordinator.store.connect import Blocking
from coordinator.store.faults import NoGroupError
from coordinator.worker.offer import Offer
from coordinator.worker.placement import suits

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Reader"]

BLOCK_MS = 1000
FULL_SECONDS = 0.1
PASSES = 3
"""Times that a worker passes on a session that it declined itself, so that others see it first."""
PASS_ON_SECONDS = 2.0
"""For so long a worker passes on an offer that suits another one better."""
LOOK_SECONDS = 0.25
FORGET_SECONDS = 30.0
PASS_SECONDS = 0.05
DECLINED_SECONDS = 30.0


class Reader:
    """Reads one partition's offers to this worker's pool.

    Args:
        room: returns how many more offers the worker can take now.
        deliver: hands an offer to the worker.
    """

    def __init__(
        self, member: Membership, blocking: Blocking, room: Callable[[], int], deliver: Callable[[Offer], None]
    ) -> None:
        self._member, self._blocking = member, blocking
        self._room, self._deliver = room, deliver
        self._stream = member.part.keys.offers(member.settings.pool)
        self._known: dict[bytes, Offer] = {}
        self._declined: dict[str, tuple[int, float]] = {}
        self._passed: dict[str, float] = {}
        self._others: list[reads.InstanceRow] = []
        self._looked_at = float("-inf")
        self._fresh = False

    def declined(self, session_id: str) -> None:
        """This worker does not want that session."""
        passes, _ = self._declined.get(session_id, (0, 0.0))
        self._declined[session_id] = (passes, clock.now())

    def in_hand(self) -> int:
        """Offers that take up room."""
        while self._known:  # leases end in the order in which offers came
            entry = next(iter(self._known))
            if self._known[entry].in_hand:
                break
            del self._known[entry]
        return len(self._known)

    def answered(self, offer: Offer) -> None:
        """An offer takes up no room any more."""
        self._known.pop(offer.entry, None)

    def restart(self) -> None:
        """What this consumer was given may not have been seen: look at it again first."""
        self._fresh = False

    async def run(self) -> None:
        """Reads until cancelled."""
        failures = 0
        while True:
            room = self._room()
            if room < 1 or self._member.draining or self._member.joining:
                with anyio.move_on_after(FULL_SECONDS):
                    await self._member.room_event.wait()
                continue
            try:
                await self.step(room)
                failures = 0
            except NoGroupError:
                await self._make_group()
            except StoreUnavailableError:
                self._fresh = False
                await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                failures += 1

    async def _make_group(self) -> None:
        try:
            await self._blocking.command("XGROUP", "CREATE", self._stream, "workers", "0", "MKSTREAM")
        except CoordinatorError as error:
            if "BUSYGROUP" not in str(error):
                await anyio.sleep(PASS_SECONDS)

    async def step(self, room: int) -> None:
        """One read: first what was given to this consumer and never seen, then what is new."""
        instance = self._member.instance
        what: tuple[Any, ...] = ("BLOCK", BLOCK_MS) if self._fresh else ()
        answer = await self._blocking.command(
            "XREADGROUP", "GROUP", "workers", instance, "COUNT", room if self._fresh else 100, *what, "STREAMS", self._stream,
            ">" if self._fresh else "0",
        )  # fmt: skip
        entries = answer[0][1] if answer else []
        if not self._fresh:
            self._fresh = True
        for entry, fields in entries:
            if entry in self._known or self._member.instance != instance:
                continue
            if not fields:  # it ended meanwhile, and only its delivery is left
                await self._member.part.executor.command("XACK", self._stream, "workers", entry)
                continue
            named = {k.decode(): v for k, v in zip(fields[::2], fields[1::2], strict=True)}
            await self._take(Offer(self._member, entry, named))

    async def _passes_on(self, offer: Offer) -> bool:
        """Whether another instance with room suits it better, and has not been waited for in vain."""
        member, now = self._member, clock.now()
        wanted = (offer.requires, offer.restarted_since_ms)
        mine = suits(member.settings.labels, member.started_at_ms, *wanted)
        if mine == (True, True):
            return False
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at, rows = now, await reads.instances(member.part)
            self._others = [
                row
                for row in rows
                if row.state == "alive" and row.pool == member.settings.pool and row.owned < row.capacity
            ]
        if not any(suits(row.labels, row.started_at, *wanted) > mine for row in self._others):
            return False
        self._passed = {session: at for session, at in self._passed.items() if now - at < FORGET_SECONDS}
        return now - self._passed.setdefault(offer.session_id, now) < PASS_ON_SECONDS

    async def _take(self, offer: Offer) -> None:
        passes, at = self._declined.get(offer.session_id, (PASSES, 0.0))
        try:
            if self._room() < 1 or self._member.draining:
                await offer.decline("no room", counts=False)
            elif await self._passes_on(offer):
                await offer.decline("another instance suits it better", counts=False)
                await anyio.sleep(PASS_SECONDS)
            elif passes < PASSES and clock.now() - at < DECLINED_SECONDS:
                self._declined[offer.session_id] = (passes + 1, at)
                await offer.decline("declined before", counts=False)
                await anyio.sleep(PASS_SECONDS)
            else:
                self._known[offer.entry] = offer
                self._deliver(offer)
        except (FencedError, StoreUnavailableError):
            self._fresh = False
