"""Registers an instance, begins anew when it was declared dead, and states its end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, NameInUseError, StoreUnavailableError
from coordinator.ids import new_instance_id
from coordinator.settings import Settings
from coordinator.store import calls, lookups, reads
from coordinator.store.deployment import check_partition, prepare
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import text, whole
from coordinator.worker import loss_reasons
from coordinator.worker.ledger import Ledger
from coordinator.worker.sealer import Place, Sealer
from coordinator.worker.session import Session
from coordinator.worker.succession import NameWait
from coordinator.worker.trust_window import TrustWindow

__all__ = ["LifeListener", "Registration", "new_pulse"]

log = structlog.get_logger()
T = TypeVar("T")

RETRY_SECONDS = 0.05


def new_pulse(settings: Settings) -> TrustWindow:
    """The trust window of an instance that has not beaten yet."""
    return TrustWindow(settings.trust_window, settings.store_timeout + settings.safety_margin)


class LifeListener(Protocol):
    """Is told of the lives of this worker."""

    def renamed(self) -> None:
        """It has another id, which is not registered yet."""

    def joined(self) -> None:
        """It is registered."""

    def joined_again(self) -> None:
        """It is registered under another id than before."""


class Registration:
    """One per membership.

    Args:
        lives: is told of this worker's lives.
        patience: seconds for which a store that does not answer is asked again.
        token_hash, hosting: kept with the instance, for the process that stands for it.

    Attributes:
        asked_to_join: whether the store may know the instance.
    """

    def __init__(
        self,
        part: StorePartition,
        settings: Settings,
        ledger: Ledger[Session],
        lives: LifeListener,
        *,
        patience: float,
        token_hash: str = "",
        hosting: str = "",
    ) -> None:
        self._patience = patience
        self._part, self._settings, self._ledger, self._lives = part, settings, ledger, lives
        self._token_hash, self._hosting = token_hash, hosting
        self._registered = ""
        self.asked_to_join = False

    async def join(self, patience: float | None = None) -> None:
        """Registers under the present id, and makes the partition if it does not exist yet.

        Args:
            patience: seconds for which it asks again for the name of a predecessor that beats; default long enough for a hold to
                end. A silent predecessor is waited for until its trust window is over, however long that is.

        Raises:
            NameInUseError: another live process beats under the same name.
            FencedError: this id is dead.
            ConfigurationError: the store was made for another program.
            StoreUnavailableError: the store did not answer.
        """
        s, ledger = self._settings, self._ledger
        wait = NameWait(clock.now(), 2 * s.dead_after + 1 if patience is None else patience, s.dead_after)
        predecessor = ""
        ledger.joining = True
        while True:
            sent = clock.now()
            call = calls.join(
                self._part.keys, instance=ledger.instance, name=s.name, pool=s.pool, capacity=s.capacity,
                labels=json.dumps(s.labels), address=s.address, dead_after=s.own_dead_after,
                trust=s.own_trust_window, predecessor=predecessor, token_hash=self._token_hash,
                hosting=self._hosting, past=ledger.past, tenant=s.tenant, again=self._registered == ledger.instance,
            )  # fmt: skip
            self.asked_to_join = True
            answer = await self.patiently(partial(self._part.executor.run, call))
            match answer:
                case calls.Unknown():
                    await self._make()
                case calls.JoinAgain():
                    predecessor = answer.predecessor
                case calls.FencedInstance():
                    raise FencedError(detail=f"{ledger.instance} is dead ({answer.cause})")
                case calls.NameInUse():
                    if wait.is_over(clock.now(), answer.retry):
                        raise NameInUseError(s.name, answer.instance)
                    await anyio.sleep(min(answer.retry, s.heartbeat_interval))
                case calls.JoinOk():
                    break
        self._registered = ledger.instance
        ledger.joined(self._part.executor.server, answer.lineage, answer.now_ms, sent)
        self._lives.joined()

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer; a store that refuses is not asked twice.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        began = clock.now()
        while True:
            try:
                return await ask()
            except StoreUnavailableError as error:
                if clock.now() - began > self._patience or error.kind in ("auth", "permission", "unsupported"):
                    raise
                await anyio.sleep(RETRY_SECONDS)

    async def _make(self) -> None:
        s = self._settings
        await prepare(self._part, partitions=s.partitions, hold=s.dead_after, previous=self._ledger.past.lineage)

    async def check_store(self) -> None:
        """Checks that the server and the rights suffice, and compares the number of partitions with the stored one.

        Raises:
            ConfigurationError: they do not, or the numbers differ.
            StoreUnavailableError: the store did not answer.
        """
        without_info = self._settings.without_info
        await self.patiently(lambda: check_partition(self._part, "worker", without_info=without_info))
        await self.patiently(self._make)

    async def start_over(self, reason: str) -> None:
        """Begins a new life under a new id: the old id is dead, and what it owned is lost.

        Raises:
            NameInUseError: another live process has the name by now.
        """
        ledger, partition = self._ledger, self._part.keys.partition
        log.warning("instance_fenced", instance=ledger.instance, reason=reason, partition=partition)
        ledger.trust_window.over = True
        for session in list(ledger.sessions.values()):
            session.lose(loss_reasons.instance_dead(ledger.instance, reason))
        ledger.begin_anew(new_instance_id(self._settings.name), new_pulse(self._settings))
        self._lives.renamed()
        while True:
            try:
                await self.join()
                break
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS * 4)
        log.info("instance_joined_again", instance=ledger.instance, partition=partition)
        self._lives.joined_again()

    async def take_up(self, own: Callable[..., Any], sealer: Sealer) -> None:
        """Takes up what the store says that this instance owns: another process stood for it before.

        Args:
            own: see ``OwnedSessions.own``.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        instance = self._ledger.instance
        for session_id in await self.patiently(partial(lookups.owned_by, self._part, instance)):
            record = await self.patiently(partial(reads.record, self._part, session_id))
            if record is not None and text(record.get("owner")) == instance and whole(record.get("epoch")):
                epoch, tenant = whole(record["epoch"]), text(record.get("tenant"))
                stored = record.get("data", b""), text(record.get("encoding"))
                own(
                    session_id, epoch, *sealer.open_own(Place(session_id, tenant, epoch), *stored),
                    pool=text(record.get("pool")), tenant=tenant, requires=text(record.get("requires")),
                    opened_at_ms=whole(record.get("opened_at")), sequence=whole(record.get("checkpoint")),
                )  # fmt: skip

    async def as_opened(self, session_id: str) -> lookups.Opening:
        """Returns how a session was opened, by its record.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        return await self.patiently(partial(lookups.opening_of, self._part, session_id))

    async def leave(self, cause: str, reason: str, fall_silent: Callable[[], Awaitable[None]]) -> None:
        """States that this instance ends now; what it still owns is offered to other workers at once.

        Args:
            fall_silent: ends its beats and reads, before the end is stated.

        Raises:
            StoreUnavailableError: the store did not answer; the silence of this instance will tell.
        """
        ledger = self._ledger
        ledger.has_left = ledger.trust_window.over = True  # belief ends before the right does
        for session in list(ledger.sessions.values()):
            session.lose(loss_reasons.instance_ends(ledger.instance, reason))
        await fall_silent()
        await self._part.executor.run(
            calls.certify(self._part.keys, instance=ledger.instance, cause=cause, by=ledger.instance, reason=reason)
        )
