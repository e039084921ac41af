"""A worker that the sidecar stands for: its instance, its proof of life, and what it is to be told."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import anyio
import anyio.abc
import structlog

from coordinator.errors import ConfigurationError, FencedError, NameInUseError
from coordinator.settings import Settings
from coordinator.sidecar.hosting import Hosting
from coordinator.sidecar.outbox import Outbox
from coordinator.sidecar.problems import SetUpWronglyError
from coordinator.sidecar.proof import HealthCheck, ProcessMark, ProcessWatch
from coordinator.sidecar.wire import Health, Register, shown
from coordinator.worker.awake import move_on_after_awake
from coordinator.worker.drain import DrainReport
from coordinator.worker.hub import Hubs
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session
from coordinator.worker.worker import Worker

__all__ = ["Hosted", "hash_of"]

log = structlog.get_logger()

FIRST_ATTACH_SECONDS = 5.0
"""For a new worker to open its stream, when it gave no other proof of life."""
OFFERS_IN_HAND = 64
"""Offers that are read for a worker and not answered yet, at most."""
LETTING_GO_SECONDS = 1.0
"""For a worker that lets go itself to do so; then the sidecar does."""


def hash_of(token: str) -> str:
    """What the store keeps of a worker's token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Hosted:
    """One registered worker.

    Args:
        settings: of the sidecar.
        hubs: of the sidecar, shared by all workers.
        asked: what the worker said of itself.
        instances: ids under which it lives already, by partition, when another sidecar stood for it before.
        token_hash: of the token by which it is known then; without it there is a new token.
        proven: somebody else watches its process and calls `end`.
        process: by which its process must be known again.
        addresses: where the sidecar listens.

    Attributes:
        token: of a new worker; '' for one that has it already.
        handle: the instance id by which its URLs name it.
        ended: why it is over; '' as long as it is not.
    """

    def __init__(
        self,
        settings: Settings,
        hubs: Hubs,
        asked: Register,
        *,
        instances: dict[int, str] | None = None,
        token_hash: str = "",
        proven: bool = False,
        process: ProcessMark | None = None,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self.token = "" if token_hash else secrets.token_urlsafe(32)
        self.token_hash = token_hash or hash_of(self.token)
        self.asked = asked
        self._mark = process or (ProcessMark.of(asked.pid) if asked.pid is not None else None)
        self._has_proof = proven or asked.pid is not None or asked.health is not None
        hosting = Hosting(addresses, self._mark, asked.health, asked.lets_go)
        own = {
            "name": asked.name,
            "pool": asked.pool or settings.pool,
            "capacity": settings.capacity if asked.capacity is None else asked.capacity,
            "labels": {**settings.labels, **asked.labels},
            "address": asked.address or settings.address,
            "tenant": asked.tenant or settings.tenant,
        }
        self.worker = Worker.hosted(
            settings.model_copy(update=own), self, hubs, token_hash=self.token_hash, instances=instances,
            hosting=hosting.text() if addresses else "",
        )  # fmt: skip
        self.outbox = Outbox()
        self.handle = ""
        self.ended = ""
        self._pings = 0
        self._attached = 0
        self._ever_attached = False
        self._taken_up, self._has_token = bool(instances), False
        self._attached_again: anyio.Event | None = None
        self._over, self._gone = anyio.Event(), anyio.Event()
        self._stream: object | None = None
        self._peer: ProcessWatch | None = None
        self._offers: OrderedDict[str, Offer] = OrderedDict()
        self._undelivered: set[str] = set()
        self._arrived: anyio.Event | None = None
        self._standing: tuple[str, bool] | None = None
        self._letting_go: dict[str, anyio.Event] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None]) -> None:
        """Joins, says so, and lives until it ends or is cancelled.

        Raises:
            CoordinatorError: it could not join; once it has, its end is told by ``ended``.
        """
        joining = False
        try:
            with ExitStack() as stack:
                pid = self.asked.pid
                process = stack.enter_context(ProcessWatch(pid, mark=self._mark)) if pid is not None else None
                joining = True
                async with self.worker as worker:
                    self.handle = worker.id
                    if process is not None:
                        worker.start(self._watch_process, process)
                    if self.asked.health is not None:
                        worker.start(self._watch_health, self.asked.health)
                    if not self._has_proof:
                        worker.start(self._wait_for_stream)
                    started()
                    await self._until_over()
        except NameInUseError as error:  # it was fenced, and its name went to another meanwhile
            if not self.handle:
                raise
            self._end(str(error))
        except Exception as error:
            if self.handle:
                self._end(f"the sidecar cannot go on with it: {error}")
            elif joining and isinstance(error, ConfigurationError):  # nothing that its caller could do about
                raise SetUpWronglyError(str(error)) from error
            raise
        finally:
            self._watch_peer(None)
            if self.handle and not self.ended:
                self._end("the sidecar ends")
            self._gone.set()

    async def _until_over(self) -> None:
        try:
            await self._over.wait()
        except anyio.get_cancelled_exc_class():
            if not self._over.is_set() and self.worker.settings.stands_for_others:
                # The sidecar fails, which is not its workers' end.
                self.worker.abandon()
                self.ended = "the sidecar failed"
                self._over.set()
            raise

    async def end(self, cause: Literal["exited", "wedged"], reason: str) -> None:
        """Its worker is dead: the store is told at once, in every partition."""
        if self.ended:
            return
        self.ended = reason
        log.info("worker_ended", instance=self.handle, cause=cause, reason=reason)
        await self.worker.end(cause, reason)
        self._end(reason)

    async def leave(self) -> None:
        """The sidecar ends: what the worker still owns is offered to others, and it is told."""
        self._end("the sidecar ends")

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it: it owns nothing, and nobody reads what it is told."""
        return not self.worker.sessions and not self._attached

    async def withdraw(self, reason: str) -> None:
        """It is not needed: its name is free when this returns."""
        self._end(reason)
        await self._gone.wait()

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason
        self._over.set()
        self.outbox.put("ended", reason=self.ended)
        if self._arrived is not None:
            self._arrived.set()

    async def drain(self, timeout: float, reason: str) -> DrainReport:
        """Hands over what it owns; ends early, with what it did, when its worker ends."""
        report = DrainReport()
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                nonlocal report
                report = await self.worker.drain(timeout, reason)
                tasks.cancel_scope.cancel()

            tasks.start_soon(run)
            await self._over.wait()
            tasks.cancel_scope.cancel()
        return report

    async def _watch_process(self, process: ProcessWatch) -> None:
        await process.ended()
        await self.end("exited", f"process {self.asked.pid} ended")

    async def _watch_health(self, health: Health) -> None:
        await HealthCheck(health).failed()
        await self.end("exited", f"{health.failures} health checks failed in a row")

    async def _wait_for_stream(self) -> None:
        """Ends the worker, unless a stream or a poll is opened in time; at once when whoever read the last one has ended."""
        if self._attached:  # again, before this task had its first turn
            return
        grace, why = self.worker.settings.trust_window, "its stream ended"
        if not self._ever_attached:
            grace, why = max(grace, FIRST_ATTACH_SECONDS), "it never opened its stream"
            if self._taken_up:  # it may trust itself for so long, as far as it knows without a sidecar
                grace = max(grace, self.worker.settings.own_trust_window)
        attached = self._attached_again = anyio.Event()
        async with move_on_after_awake(grace) as waiting:
            if self._peer is None:
                await attached.wait()
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end_of_peer, self._peer, waiting)
                    await attached.wait()
                    tasks.cancel_scope.cancel()
        if not attached.is_set():
            await self.end("exited", why)

    @staticmethod
    async def _end_of_peer(peer: ProcessWatch, waiting: anyio.CancelScope) -> None:
        await peer.ended()
        waiting.cancel()

    def _watch_peer(self, peer: ProcessWatch | None) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = peer

    # -- attachment ----------------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While a stream or a poll is open: proof of life, and somebody to be given offers."""
        self._attach(1)
        try:
            yield
        finally:
            self._attach(-1)

    def _attach(self, change: int) -> None:
        self._attached += change
        self._ever_attached = True
        if self._attached_again is not None:
            self._attached_again.set()
        if not self._has_proof and not self._attached and not self.ended:
            self.worker.start(self._wait_for_stream)
        self.worker.take_offers(OFFERS_IN_HAND if self._attached else 0)

    def take_stream(self, stream: object, peer: ProcessWatch | None) -> None:
        """A newer stream takes the place of an older one, and is told again what was not answered.

        Args:
            peer: the process that reads it, None when it cannot be seen; when it ends nobody will attach again.
        """
        self._stream = stream
        self._watch_peer(peer)
        self.outbox.wake()  # the older one sees that its turn is over
        self._pings = 0
        self._standing = None
        for session_id, offer in list(self._offers.items()):
            if offer.in_hand:
                self._undelivered.discard(session_id)
                self._tell_offer(offer)

    def leave_stream(self, stream: object) -> None:
        """That stream ended."""
        if self._stream is stream:
            self._stream = None

    def is_stream(self, stream: object) -> bool:
        """Whether it is the newest."""
        return self._stream is stream

    def alive(self) -> None:
        """The worker answered a ping."""
        self._pings = 0
        self.worker.asks_again()

    @property
    def trust_ms(self) -> int:
        """For how long it may rely on what it owns, from now on, without hearing more."""
        return max(0, math.floor(self.worker.trust_left * 1000))

    @property
    def alone_ms(self) -> int:
        """For how long, from now on, when this sidecar is no more: another one is to have its chance to be started."""
        return max(0, math.floor(self.worker.alone_left * 1000))

    @property
    def trust(self) -> dict[str, int]:
        """Both, as events tell them."""
        return {"trust_ms": self.trust_ms, "alone_ms": self.alone_ms}

    def tick(self) -> None:
        """Once a heartbeat: a ping on the stream, its standing when it changed, and the verdict on a frozen worker."""
        if self.ended or not self.handle:
            return
        worker = self.worker
        standing = "held" if all(s.held for s in worker.sessions) and self.trust_ms else "in_doubt"
        if (standing, worker.may_speak) != self._standing:
            self._standing = (standing, worker.may_speak)
            self.outbox.put(standing, sessions=sorted(s.id for s in worker.sessions), may_speak=worker.may_speak)
            self.outbox.drop("held" if standing == "in_doubt" else "in_doubt", "")
        if self._stream is None or not self._attached:
            return
        self._pings += 1
        if self._pings * worker.settings.heartbeat_interval > worker.settings.wedged_after:
            worker.start(self.end, "wedged", f"it answered no ping for {worker.settings.wedged_after:g} s")
            return
        self.outbox.put("ping", "", ping=self._pings, **self.trust)

    # -- offers --------------------------------------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """The library read an offer."""
        self._offers = OrderedDict((s, o) for s, o in self._offers.items() if o.in_hand)
        self._offers[offer.session_id] = offer
        if self._stream is not None and self._attached:
            self._tell_offer(offer)
        else:
            self._undelivered.add(offer.session_id)
        if self._arrived is not None:
            arrived, self._arrived = self._arrived, None
            arrived.set()

    def _tell_offer(self, offer: Offer) -> None:
        offer.given()
        self.outbox.put("offer", offer.session_id, **self.describe(offer))

    @staticmethod
    def describe(offer: Offer) -> dict[str, Any]:
        """An offer, without its session's id."""
        return {
            "epoch": offer.epoch,
            "attempt": offer.attempt,
            "cause": offer.cause,
            "planned": offer.planned,
            "previous_owner": offer.previous_owner,
            "requires": list(offer.requires),
            **(shown(offer.raw_data, offer.encoding) if offer.raw_data else {}),
        }

    async def poll(self, wait: float, most: int) -> list[Offer]:
        """Offers that were not delivered yet; waits for the first."""
        with self.attached(), anyio.move_on_after(wait):
            while not self.ended:
                arrived = self._arrived = self._arrived or anyio.Event()
                ready = [o for s, o in self._offers.items() if s in self._undelivered and o.in_hand][:most]
                if ready:
                    self._undelivered.difference_update(o.session_id for o in ready)
                    for offer in ready:
                        offer.given()
                    return ready
                await arrived.wait()
        return []

    def offer_of(self, session_id: str) -> Offer | None:
        """The offer of a session that it was given and that still stands."""
        offer = self._offers.get(session_id)
        return offer if offer is not None and offer.in_hand else None

    def answered(self, session_id: str) -> None:
        """It adopted or declined."""
        self._offers.pop(session_id, None)
        self._undelivered.discard(session_id)
        self.outbox.drop("offer", session_id)

    # -- what the library tells ----------------------------------------------------------------------------------------

    def session_lost(self, session: Session) -> None:
        """A session is no longer its own."""
        self.outbox.drop("letting_go", session.id)
        heir = {"heir": session.heir} if session.heir else {}
        self.outbox.put("lost", session.id, epoch=session.epoch, reason=session.lost_reason, **heir)

    def session_renewed(self, session: Session) -> None:
        """A session has a new epoch after lost writes."""
        self.outbox.put("renewed", session.id, epoch=session.epoch)

    def joined_again(self, instance: str) -> None:
        """It was fenced, and is another instance now."""
        self.outbox.put("joined", instance=instance)

    def draining(self, timeout: float) -> None:
        """It is to hand over what it owns."""
        self.outbox.put("drain", timeout_ms=round(timeout * 1000))

    async def before_letting_go(self, session: Session, heir: str) -> None:
        """An heir waits: the worker lets go first if it said that it does."""
        if not self.asked.lets_go or self._stream is None or not self._attached:
            return
        if session.id in self._letting_go:  # the heir asks until it has it; the worker is asked once
            await self._letting_go[session.id].wait()
            return
        self._letting_go[session.id] = gone = anyio.Event()
        self.outbox.put("letting_go", session.id, epoch=session.epoch, heir=heir)
        try:
            async with move_on_after_awake(LETTING_GO_SECONDS):
                await gone.wait()
        finally:
            del self._letting_go[session.id]
            gone.set()

    def let_go(self, session_id: str) -> bool:
        """The worker stopped speaking for it; False when nobody asked."""
        gone = self._letting_go.get(session_id)
        if gone is None:
            return False
        gone.set()
        return True

    # -- who it is -----------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether everything about its end is done and told."""
        return self._over.is_set()

    @property
    def is_proven(self) -> bool:
        """Whether there is proof just now that its worker lives."""
        return not self.ended and (self._has_proof or self._attached > 0)

    def knows(self, token: str) -> bool:
        """Whether that is its token."""
        if not hmac.compare_digest(hash_of(token), self.token_hash):
            return False
        self._has_token = True
        return True

    def asks(self) -> Hosted:
        """A request of its worker's came: the answer to its registration did, too."""
        self._has_token = True
        return self

    def never_had_its_token(self, pid: int | None) -> bool:
        """Whether this process registers again since the answer to its registration never came: nobody has used the token."""
        return pid is not None and pid == self.asked.pid and not self._has_token and self.is_idle

    def session(self, session_id: str, epoch: int | None = None) -> Session:
        """A session that it owns.

        Args:
            epoch: that the worker believes to hold; one from before a renewal is good too.

        Raises:
            FencedError: it is not its own, or not under that epoch.
        """
        session = self.worker.owned(session_id)
        if session is None:
            raise FencedError(session_id, epoch, f"{self.handle} does not own it")
        if epoch is not None and not session.first_epoch <= epoch <= session.epoch:
            raise FencedError(session_id, epoch, f"it has epoch {session.epoch}")
        return session
