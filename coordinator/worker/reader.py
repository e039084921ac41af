"""The blocked reader of offers: wakes at once, and never takes more than there is room for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.store import reads
from coordinator.worker.offer import Offer
from coordinator.worker.offer_loop import OfferLoop
from coordinator.worker.placement import suits

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Reader"]

BLOCK_MS = 1000
PASSES = 3
"""Times that a worker passes on a session that it declined itself, so that others see it first."""
PASS_ON_SECONDS = 2.0
"""For so long a worker passes on an offer that suits another one better."""
LOOK_SECONDS = 0.25
FORGET_SECONDS = 30.0
PASS_SECONDS = 0.05
DECLINED_SECONDS = 30.0
UNABLE_SECONDS = 30.0
"""For so long a worker leaves a session that it cannot serve to others; then it looks again whether it can."""
LONGEST_PAUSE_SECONDS = 1.0
"""Between two times that it gives the same session back unseen."""


class Reader:
    """Reads one partition's offers to this worker's pool, in its turn.

    Attributes:
        fresh: nothing was given to this consumer that it has not seen.

    Args:
        loop: returns the blocked read that it takes turns at.
        room: returns how many more offers the worker can take now.
        deliver: hands an offer to the worker.
    """

    def __init__(
        self,
        member: Membership,
        loop: Callable[[], OfferLoop],
        room: Callable[[], int],
        deliver: Callable[[Offer], None],
    ) -> None:
        self._member, self._find_loop = member, loop
        self._room, self._deliver = room, deliver
        self._known: dict[bytes, Offer] = {}
        self._declined: dict[str, tuple[int, float]] = {}
        self._passed: dict[str, float] = {}
        self._unable: dict[str, tuple[float, float]] = {}
        self._others: list[reads.InstanceRow] = []
        self._looked_at = float("-inf")
        self.fresh = False
        self._reading = False
        self._blocked: anyio.CancelScope | None = None
        self._unblocked = anyio.Event()

    @property
    def _loop(self) -> OfferLoop:
        return self._find_loop()

    def begin(self) -> None:
        """Takes offers from now on."""
        self._reading = True
        self._loop.add(self)

    def end(self) -> None:
        """Takes none any more; a blocked read is cut off. Safe to repeat."""
        if self._reading:
            self._reading = False
            self._loop.remove(self)
        if self._blocked is not None:
            self._blocked.cancel()

    async def stop(self) -> None:
        """As `end`, and when it returns no read of this worker's is blocked: Redis serves whoever blocked first. Safe to repeat."""
        self.end()
        if self._blocked is not None:
            await self._unblocked.wait()

    def wake(self) -> None:
        """There may be room for another."""
        if self._reading:
            self._loop.wake()

    def declined(self, session_id: str) -> None:
        """This worker does not want that session."""
        passes, _ = self._declined.get(session_id, (0, 0.0))
        self._declined[session_id] = (passes, clock.now())

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks something that the session needs."""
        now = clock.now()
        self._unable = {known: since for known, since in self._unable.items() if now - since[0] < UNABLE_SECONDS}
        self._unable[session_id] = now, PASS_SECONDS

    def _gives_back(self, offer: Offer) -> bool:
        """Whether it is a session that this worker could not serve a while ago: then it goes back after a pause that doubles.

        The pause keeps workers that all lack the same from passing it round and round; the reader does not wait for it.
        """
        since, pause = self._unable.get(offer.session_id, (float("-inf"), 0.0))
        if clock.now() - since >= UNABLE_SECONDS:
            return False
        self._unable[offer.session_id] = since, min(2 * pause, LONGEST_PAUSE_SECONDS)
        self._known[offer.entry] = offer
        self._member.start(self._give_back, offer, pause)
        return True

    async def _give_back(self, offer: Offer, pause: float) -> None:
        await anyio.sleep(pause)
        try:
            await offer.decline("this worker cannot serve it", counts=False)
        except (FencedError, StoreUnavailableError):
            self._known.pop(offer.entry, None)
            self.restart()

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
        self.fresh = False

    @property
    def room(self) -> int:
        """How many offers this worker can take now."""
        return 0 if self._member.draining or self._member.joining else self._room()

    async def step(self) -> None:
        """One read: first what was given to this consumer and never seen, then what is new."""
        instance = self._member.instance
        answer = await (self._wait(instance) if self.fresh else self._look(instance))
        for entry, fields in answer[0][1] if answer else ():
            if entry in self._known or self._member.instance != instance:
                continue
            if not fields:  # it ended meanwhile, and only its delivery is left
                await self._member.part.executor.command("XACK", self._loop.stream, "workers", entry)
                continue
            named = {k.decode(): v for k, v in zip(fields[::2], fields[1::2], strict=True)}
            await self._take(Offer(self._member, entry, named))

    async def _wait(self, instance: str) -> Any:
        """What is new; when it is cut off, what was given meanwhile."""
        self._unblocked = anyio.Event()
        try:
            with anyio.CancelScope() as self._blocked:
                return await self._loop.blocking.command(
                    "XREADGROUP", "GROUP", "workers", instance, "COUNT", self.room, "BLOCK", BLOCK_MS, "STREAMS",
                    self._loop.stream, ">",
                )  # fmt: skip
        finally:
            self._blocked = None
            self._unblocked.set()
        return await self._look(instance) if self._member.draining else None

    async def _look(self, instance: str) -> Any:
        """What this consumer was given and has not answered."""
        answer = await self._member.part.executor.command(
            "XREADGROUP", "GROUP", "workers", instance, "COUNT", 100, "STREAMS", self._loop.stream, "0"
        )
        self.fresh = True
        return answer

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
            elif self._gives_back(offer):
                return
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
            self.fresh = False
