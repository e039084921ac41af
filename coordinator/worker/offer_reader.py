"""The blocked reader of offers: wakes at once, and never takes more than there is room for."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, InvalidDataError, KeyUnknownError, StoreUnavailableError
from coordinator.policy import LACKS_KEY, OTHER_TENANT
from coordinator.settings import Settings
from coordinator.states import InstanceState
from coordinator.store import calls, lookups, offer_stream, reads
from coordinator.store.entries import BrokenEntry, OfferEntry, parse_offer
from coordinator.store.executor import StorePartition
from coordinator.store.scripts import R, ScriptCall
from coordinator.store.setting_aside import set_aside, set_aside_member
from coordinator.store.shapes import session_id, text
from coordinator.store.usual import BATCH
from coordinator.worker.adoption import Adoption
from coordinator.worker.ledger import Ledger
from coordinator.worker.offer import Offer
from coordinator.worker.offer_turns import OfferTurns
from coordinator.worker.offers_in_hand import OffersInHand
from coordinator.worker.placement import Apart, Share, has_a_small_part, suits
from coordinator.worker.reluctance import Reluctance
from coordinator.worker.sealer import Sealer
from coordinator.worker.session import Session
from coordinator.worker.wait import Wait
from coordinator.worker.writes import Writes

__all__ = ["OfferReader"]

log = structlog.get_logger()

BLOCK_SECONDS = 1.0
PASS_ON_SECONDS = 2.0
"""How long a worker passes on an offer that suits another one better."""
LOOK_SECONDS = 0.25
FORGET_SECONDS = 30.0
PASS_SECONDS = 0.05
"""Pause between two times that the reader gives the same session back unseen."""
BURST_SECONDS = 0.25
"""How long after an offer was read more may follow from the same source."""
SPREAD_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
KEEPS_A_LEASE = 6
"""How often within one lease a reader looks after the offers in hand."""


def _about(pause: float) -> float:
    """Returns that pause, half to one and a half times.

    Redis serves the client that blocked first. If the pause were as long as a blocked read, this worker's own would be the
    oldest each time.
    """
    return pause * (0.5 + random.random())  # noqa: S311 - jitter


class OfferReader:
    """Reads one partition's offers to this worker's pool, in its turn.

    Attributes:
        fresh: this consumer has seen all that it was given.
        spread_seconds: for how long it leaves the rest of a death's calls to other workers after it took its share.

    Args:
        writes, adoption: run what is done with offers.
        reluctance: the sessions that this worker does not take again at once.
        start: runs a function as a task of the worker.
        watches_adopters: whether a session is offered to other workers when the code that adopted it fails.
        loop: returns the blocked read at which the reader takes turns.
        room: returns how many more offers the worker can take now.
        free: returns how many more sessions the worker could own.
        deliver: hands an offer to the worker.
        offers_in_hand: the offers that the worker has in hand, of all partitions.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        sealer: Sealer,
        ledger: Ledger[Session],
        *,
        writes: Writes[Session],
        adoption: Adoption,
        reluctance: Reluctance,
        start: Callable[..., None],
        watches_adopters: bool,
        loop: Callable[[], OfferTurns],
        room: Callable[[], int],
        free: Callable[[], int],
        deliver: Callable[[Offer], None],
        offers_in_hand: OffersInHand[Offer],
    ) -> None:
        self._part, self.settings, self.sealer, self.keys, self.ledger = part, settings, sealer, part.keys, ledger
        self._writes, self._adoption, self._reluctance = writes, adoption, reluctance
        self._start, self._watches_adopters = start, watches_adopters
        self._find_loop, self.offers_in_hand = loop, offers_in_hand
        self.spread_seconds = SPREAD_SECONDS
        self._room, self._free, self._deliver = room, free, deliver
        self._share, self._apart = Share(), Apart()
        self._paused_until = self._read_at = float("-inf")
        self._death = ""
        self._returning: set[Offer] = set()
        self._known: dict[bytes, Offer] = {}
        self._passed: dict[str, float] = {}
        self._keyless: set[str] = set()
        self._later: set[Offer] = set()
        self._others: list[reads.InstanceRow] = []
        self._looked_at = float("-inf")
        self.fresh = False
        self._reading = False
        self._blocked: anyio.CancelScope | None = None
        self._unblocked = anyio.Event()

    @property
    def _loop(self) -> OfferTurns:
        return self._find_loop()

    def begin(self) -> None:
        """Takes offers from now on."""
        self._reading = True
        self._loop.add(self)

    def end(self) -> None:
        """Takes no offers any more; a blocked read is cut off. Safe to repeat."""
        if self._reading:
            self._reading = False
            self._loop.remove(self)
        if self._blocked is not None:
            self._blocked.cancel()

    async def stop(self) -> None:
        """As `end`. When it returns, no read of this worker is blocked: Redis serves the client that blocked first. Safe to repeat."""
        self.end()
        if self._blocked is not None:
            await self._unblocked.wait()

    def wake(self) -> None:
        """There may be room for another offer."""
        if self._reading:
            self._loop.wake()

    # -- what offers ask of the instance that read them: see `coordinator.worker.offer.OfferActions` -------------------

    async def request(self, make: Callable[[], ScriptCall[R]]) -> R:
        """See ``Writes.request``."""
        return await self._writes.request(make)

    def dead(self, instance: str, reason: str) -> None:
        """See ``Writes.dead``."""
        self._writes.dead(instance, reason)

    async def adopt(self, session_id: str, epoch: int | None, request: str) -> Session | None:
        """See ``Adoption.adopt``."""
        return await self._adoption.adopt(session_id, epoch, request)

    async def take_over(self, session_id: str, request: str, wait: Wait) -> Session | None:
        """See ``Adoption.take_over``."""
        return await self._adoption.take_over(session_id, request, wait)

    def others_wait(self) -> bool:
        """Whether other offers wait behind the one that the program works on now."""
        return self.offers_in_hand.others_wait()

    def declined(self, session_id: str) -> None:
        """This worker does not want that session."""
        self._reluctance.declined(session_id)

    def cannot_serve(self, session_id: str) -> None:
        """This worker lacks something that the session needs."""
        self._reluctance.cannot_serve(session_id)

    def adopted(self, offer: Offer, session: Session, *tasks: asyncio.Task[Any] | None) -> None:
        """An offer was adopted. A session that may kill this worker is served alone for a while, if other workers have room."""
        if self._watches_adopters:
            session.watch_adopter(*tasks)
        if offer.planned:
            return
        pause = self._apart.took(offer.apart, offer.probation, clock.now())
        if pause and any(row.id != self.ledger.instance for row in self._others):
            self._paused_until = clock.now() + pause

    def answered(self, offer: Offer) -> None:
        """The offer takes up no room any more."""
        self._known.pop(offer.entry, None)
        if offer.given_at != math.inf:
            self.offers_in_hand.answered(offer)
        self.wake()

    # ------------------------------------------------------------------------------------------------------------------

    def _takes_later(self, offer: Offer) -> bool:
        """Whether the offer waits, without taking up room that others need."""
        pause = 0.0 if offer.planned else self._reluctance.pause_after_failing(offer.session_id)
        if not pause:
            return False
        self._known[offer.entry] = offer
        self._returning.add(offer)
        self._later.add(offer)
        self._start(self._deliver_later, offer, pause)
        return True

    async def _deliver_later(self, offer: Offer, pause: float) -> None:
        await anyio.sleep(pause)
        has_room = self._free() - self.in_hand() > 0
        self._returning.discard(offer)
        self._later.discard(offer)
        if not offer.in_hand:  # the lease ended meanwhile
            return
        if has_room and not self.ledger.draining:
            offer.read_at = clock.now()
            self._deliver(offer)
            return
        await self._give_back(offer, 0.0, "no room")

    def _gives_back(self, offer: Offer, reason: str = "this worker cannot serve it") -> bool:
        """Whether this worker could not serve the session a while ago. Then the offer goes back after a pause that doubles.

        The pause keeps workers that all lack the same thing from passing the offer round and round. The reader does not wait for
        it, and the offer takes up no room meanwhile.
        """
        pause = self._reluctance.pause_while_unable(offer.session_id)
        if pause is None:
            return False
        self._known[offer.entry] = offer
        self._returning.add(offer)
        self._later.add(offer)
        self._start(self._give_back, offer, _about(pause), reason)
        return True

    async def _give_back(self, offer: Offer, pause: float, reason: str) -> None:
        await anyio.sleep(pause)
        with self._going_back(offer):
            await offer.decline(reason, counts=False)

    @contextmanager
    def _going_back(self, offer: Offer) -> Iterator[None]:
        """Without an answer, or when this worker is dead, the offer is not ours to send back: everything is looked at anew."""
        try:
            yield
        except (FencedError, StoreUnavailableError):
            self._known.pop(offer.entry, None)
            self.restart()
        finally:
            self._returning.discard(offer)
            self._later.discard(offer)

    def in_hand(self) -> int:
        """Number of offers that take up room."""
        while self._known:  # leases end in the order in which offers came
            entry = next(iter(self._known))
            if self._known[entry].in_hand:
                break
            del self._known[entry]
        return sum(offer not in self._later for offer in self._known.values())

    async def keep(self) -> None:
        """Until cancelled: begins the leases of the offers in hand anew, and gives back those that the program does not get to."""
        while True:
            await anyio.sleep(self.settings.lease / KEEPS_A_LEASE)
            self.sealer.look()
            try:
                if self._paused_until > clock.now():
                    await self._look_for_others()
                await self._give_back_overdue()
                await self._keep_leases()
            except (FencedError, StoreUnavailableError):
                continue  # the leases end, and other workers get the offers

    async def _give_back_overdue(self) -> None:
        """Gives back what waits for too long.

        The oldest offer that the program has had for one lease without an answer counts as an attempt. The offers behind it, and
        those that the program was never given, go to other workers as though they had not been read.
        """
        lease, now = self.settings.lease, clock.now()
        continued = self.ledger.trust_window.continued(now)  # the program stood still as well
        idle = [
            o
            for o in self._known.values()
            if o.in_hand and not o.answering and not o.planned and o not in self._returning
        ]
        given = sorted((o for o in idle if o.given_at != math.inf), key=lambda o: o.given_at)
        late = bool(given) and now - max(given[0].given_at, self.offers_in_hand.progress, continued) > lease
        behind = given[1:] if late else []
        behind += [o for o in idle if o.given_at == math.inf and now - max(o.read_at, continued) > lease / 2]
        if late or behind:
            self.offers_in_hand.not_reached()
        if late:
            await given[0].decline(f"its worker did not answer within {lease:g} s")
        for offer in behind:
            await offer.decline("its worker did not get to it", counts=False)

    async def _keep_leases(self) -> None:
        known = [o for o in self._known.values() if o.in_hand and not o.planned]
        kept = sorted(known, key=self._returning.__contains__)[:BATCH]  # more may go back than fits in
        if not kept:
            return
        until = clock.now() + self.settings.lease
        answer = await self._part.executor.run(
            calls.extend_leases(
                self._part.keys, instance=self.ledger.instance, sessions=[o.session_id for o in kept],
                epochs=[str(o.epoch) for o in kept], lease=self.settings.lease,
            )
        )  # fmt: skip
        stand = set(answer.kept) if isinstance(answer, calls.ExtendLeasesOk) else set[str]()
        for offer in kept:
            if offer.session_id in stand:
                offer.kept_until(until)

    def restart(self) -> None:
        """The consumer may not have seen all that it was given: it looks at that again first."""
        self.fresh = False

    async def _look_for_others(self) -> None:
        """A reader that waits for other workers to take what is offered stops waiting if there are none."""
        await self._look_at_others(clock.now())
        if not any(row.id != self.ledger.instance for row in self._others):
            self._paused_until = clock.now()

    @property
    def room(self) -> int:
        """How many more offers this worker can take now."""
        if self.ledger.draining or self.ledger.joining or clock.now() < self._paused_until:
            return 0
        return self._room()

    @property
    def _count(self) -> int:
        """How many offers to read: first one alone, as it says how many there are for how much room."""
        fresh = clock.now() - self._read_at > BURST_SECONDS
        return min(self.room, 1 if fresh else max(1, self._share.left(self._death)))

    async def step(self) -> None:
        """Reads once: first what this consumer was given and never saw, then what is new."""
        instance = self.ledger.instance
        for entry, fields in await (self._wait(instance) if self.fresh else self._look(instance)):
            if entry in self._known or self.ledger.instance != instance:
                continue
            if not fields:  # the offer ended meanwhile, and only its delivery is left
                await offer_stream.acknowledge(self._part.executor, self._loop.stream, entry)
                continue
            try:
                offer = Offer(self, entry, await self._with_tenant(parse_offer(fields)))
                if not self._serves(offer.tenant):
                    self._leaves_to_others(offer)
                    continue
                offer.open_data()
            except KeyUnknownError as error:
                await self._lacks_key(offer, error)
                continue
            except (BrokenEntry, InvalidDataError) as error:
                await self._set_aside(entry, fields, error)
                continue
            if offer.session_id in self._keyless:  # the key has come
                self._keyless.discard(offer.session_id)
                self._reluctance.can_serve(offer.session_id)
            await self._take(offer)

    async def kept(self, session_id: str) -> lookups.Kept:
        """See `coordinator.worker.offer.OfferActions`."""
        return await lookups.kept_of(self._part, session_id)

    async def _with_tenant(self, told: OfferEntry) -> OfferEntry:
        """Adds the tenant from the record: an entry of an older program does not name it."""
        if told.tenant is not None:
            return told
        return replace(told, tenant=await lookups.tenant_of(self._part, told.session))

    async def _lacks_key(self, offer: Offer, error: KeyUnknownError) -> None:
        """Gives the offer back as it was; other workers come first."""
        self._adoption.lacks_key(error)
        self._keyless = {known for known in self._keyless if self._reluctance.is_unable(known)} | {offer.session_id}
        try:
            if not self._gives_back(offer, LACKS_KEY):
                await offer.cannot_serve(LACKS_KEY)
        except (FencedError, StoreUnavailableError):
            self.restart()

    def _serves(self, tenant: str) -> bool:
        """Whether this worker may own sessions of that tenant."""
        return self.settings.tenant in ("", tenant)

    def _leaves_to_others(self, offer: Offer) -> None:
        """Leaves a session of another tenant to its workers at once. Without any it waits one lease, and takes up no room."""
        self._known[offer.entry] = offer
        self._returning.add(offer)
        self._later.add(offer)
        self._start(self._leave_to_others, offer)

    async def _leave_to_others(self, offer: Offer) -> None:
        with self._going_back(offer):
            if clock.now() - self._looked_at > LOOK_SECONDS:
                await self._look_at_others(clock.now())
            if any(row.tenant in ("", offer.tenant) for row in self._others):
                await self._give_back(offer, _about(self._reluctance.pause_of_foreign(offer.session_id)), OTHER_TENANT)
            elif offer.planned:  # the owner goes on when the lease ends
                self._known.pop(offer.entry, None)
            else:
                await offer.delegate()

    async def _set_aside(self, entry: bytes, fields: Sequence[bytes], error: Exception) -> None:
        """Removes an entry that cannot be read. A living owner states its session again; otherwise the session is a dead letter."""
        keys, run = self._part.keys, self._part.executor
        about = dict(zip(fields[::2], fields[1::2], strict=False))
        session = session_id(about.get(b"session"))
        broken = error.broken if isinstance(error, BrokenEntry) else {"data": about.get(b"data", b"")}
        log.error("offer_unreadable", session=session, entry=text(entry), error=str(error))
        if session and broken:
            owner = (await lookups.owner_of(self._part, session)).owner  # in a handover the owner may live
            await run.run(
                set_aside(
                    keys,
                    kind="session",
                    name=session,
                    wanted="hash",
                    fault=str(error)[:200],
                    broken=broken,
                    owner=owner,
                )
            )
        await run.run(
            set_aside_member(keys, index=self._loop.stream.removeprefix(f"{keys.tag}:"), raw=entry, fields=fields)
        )

    async def _wait(self, instance: str) -> list[offer_stream.Entry]:
        """Waits for new entries; when it is cut off, returns what was given meanwhile."""
        self._unblocked = anyio.Event()
        try:
            with anyio.CancelScope() as self._blocked:
                return await offer_stream.wait_for(
                    self._loop.blocking, self._loop.stream, instance, self._count, BLOCK_SECONDS
                )
        finally:
            self._blocked = None
            self._unblocked.set()
        return await self._look(instance) if self.ledger.draining else []

    async def _look(self, instance: str) -> list[offer_stream.Entry]:
        """The entries that this consumer was given and has not answered."""
        entries = await offer_stream.given_before(self._part.executor, self._loop.stream, instance)
        self.fresh = True
        return entries

    async def _passes_on(self, offer: Offer) -> bool:
        """Whether another instance with room suits the offer better, and has not been waited for in vain."""
        now = clock.now()
        wanted = (offer.requires, offer.restarted_since_ms)
        mine = suits(self.settings.labels, self.ledger.started_at_ms, *wanted)
        small = has_a_small_part(0 if offer.planned else offer.died_with, self._free(), offer.room)
        if mine == (True, True) and not (offer.apart and self.ledger.sessions) and not small:
            return False
        if now - self._looked_at > LOOK_SECONDS:
            await self._look_at_others(now)
        risk = len(self.ledger.sessions) if offer.apart else 0  # sessions that would end too if it killed its worker
        theirs = [
            (
                suits(row.labels, row.started_at, *wanted),
                -row.owned if offer.apart else 0,
                row.capacity - row.owned >= offer.died_with,
            )
            for row in self._others
            if row.id != self.ledger.instance and row.tenant in ("", offer.tenant)
        ]
        if not any(one > (mine, -risk, not small) for one in theirs):
            return False
        self._passed = {session: at for session, at in self._passed.items() if now - at < FORGET_SECONDS}
        return now - self._passed.setdefault(offer.session_id, now) < PASS_ON_SECONDS

    async def _look_at_others(self, now: float) -> None:
        """Looks up which instances live in this pool and have room."""
        self._looked_at, rows = now, await reads.instances(self._part)
        self._others = [
            row
            for row in rows
            if row.state == InstanceState.ALIVE and row.pool == self.settings.pool and row.owned < row.capacity
        ]

    def _keeps_apart(self, offer: Offer) -> bool:
        """Whether the session may have killed its owner, and this worker has enough of those. It goes back when one is cleared."""
        now = clock.now()
        in_hand = [
            one.apart for one in self._known.values() if one.apart and one.in_hand and one not in self._returning
        ]
        if self._apart.may_take(offer.apart, in_hand, now):
            return False
        self._known[offer.entry] = offer
        self._returning.add(offer)
        self._start(
            self._give_back,
            offer,
            min(LONGEST_PAUSE_SECONDS, self._apart.clear_at(now) - now + PASS_SECONDS),
            "kept apart",
        )
        return True

    async def _take(self, offer: Offer) -> None:
        if not offer.planned and offer.died_with:
            self._death = offer.previous_owner
            self._share.seen(self._death, offer.died_with, self._free(), offer.room)
        try:
            if self._room() < 1 or self.ledger.draining:
                await offer.decline("no room", counts=False)
            elif self._gives_back(offer) or self._keeps_apart(offer):
                return
            elif await self._passes_on(offer):
                await offer.decline("another instance suits it better", counts=False)
                await anyio.sleep(PASS_SECONDS)
            elif self._reluctance.passes(offer.session_id):
                await offer.decline("declined before", counts=False)
                await anyio.sleep(PASS_SECONDS)
            elif self._takes_later(offer):
                return
            else:
                self._known[offer.entry] = offer
                self._deliver(offer)
                self._read_at = clock.now()
                if not offer.planned and self._share.took(offer.previous_owner):
                    self._paused_until = max(self._paused_until, self._read_at + self.spread_seconds)
        except (FencedError, StoreUnavailableError):
            self.fresh = False
