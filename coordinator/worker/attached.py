"""A session of another instance on this machine, written by a child process of its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio

from coordinator import clock
from coordinator.errors import FencedError, SessionGoneError, StoreUnavailableError
from coordinator.settings import Settings
from coordinator.store import calls
from coordinator.store.executor import StorePartition
from coordinator.store.fence import Fence, Runner
from coordinator.store.scripts import Answer, Call
from coordinator.worker.data import RecoveryData, encode

__all__ = ["AttachedSession"]


class AttachedSession:
    """Writes under the owner's epoch; ``held`` follows the owner's heartbeat as the store saw it.

    Attributes:
        id, epoch: as the parent told.
        tenant: of the session.
        lost: set when the store said that the owner no longer has it.
    """

    def __init__(self, part: StorePartition, settings: Settings, session_id: str, epoch: int, owner: str) -> None:
        self.id, self.epoch, self.owner, self.tenant = session_id, epoch, owner, ""
        self.lost = anyio.Event()
        self._part, self._settings = part, settings
        self._trusted_until = 0.0
        self._sequence = 0

    @classmethod
    async def attach(cls, part: StorePartition, settings: Settings, session_id: str, epoch: int) -> AttachedSession:
        """Looks the owner up.

        Raises:
            SessionGoneError: there is no such session.
            FencedError: it has another epoch by now.
            StoreUnavailableError: the store did not answer.
        """
        owner, stored, sequence, tenant = await part.executor.command(
            "HMGET", part.keys.session(session_id), "owner", "epoch", "checkpoint", "tenant"
        )
        if stored is None:
            raise SessionGoneError(session_id)
        if int(stored) != epoch or not owner:
            raise FencedError(session_id, epoch, f"the store has epoch {int(stored)}")
        session = cls(part, settings, session_id, epoch, owner.decode())
        session._sequence = int(sequence or 0)
        session.tenant = (tenant or b"").decode()
        await session.look()
        return session

    @property
    def held(self) -> bool:
        """True while nobody else can have adopted it."""
        return not self.lost.is_set() and clock.now() < self._trusted_until

    async def look(self) -> None:
        """Asks how long the owner may be relied on."""
        sent = clock.now()
        answer = await self._part.executor.run(
            calls.trust(self._part.keys, session=self.id, instance=self.owner, epoch=self.epoch)
        )
        if answer.word == "FENCED":
            self.lost.set()
            return
        beat_age = (answer.int("dead_after_ms") - answer.int("remaining_ms")) / 1000
        self._trusted_until = sent + self._settings.trust_window - beat_age

    async def watch(self) -> None:
        """Looks once a heartbeat interval, until it is lost."""
        while not self.lost.is_set():
            with contextlib.suppress(StoreUnavailableError):  # in doubt when the trust is over
                await self.look()
            await anyio.sleep(self._settings.heartbeat_interval)

    @property
    def fence(self) -> Fence:
        """As ``Session.fence``, for its owner."""
        return Fence(self._part.keys, self.id, self.owner, self.epoch)

    async def fenced(self, make: Callable[[Fence], Call], runner: Runner) -> Answer:
        """As ``Session.fenced``; what is to be stated again after lost writes is stated by the owner.

        Raises:
            FencedError: the owner no longer has it, or under a new epoch, with which to attach again; final.
            StoreUnavailableError: the store did not answer, or is in a hold; it may have been written.
        """
        if self.lost.is_set():
            raise FencedError(self.id, self.epoch, "its owner no longer has it")
        answer = await runner.run(make(self.fence))
        if answer.word == "FENCED":
            self.lost.set()
            raise FencedError(self.id, self.epoch, "its owner no longer has it")
        if answer.word in ("RESYNC", "UNKNOWN"):
            raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
        return answer

    async def checkpoint(self, data: RecoveryData) -> None:
        """Writes newer recovery data as the owner.

        Raises:
            FencedError: the owner no longer has it; final.
            StoreUnavailableError: the store did not answer, or is in a hold.
        """
        raw, encoding = encode(data, self._settings.max_data_bytes)
        self._sequence += 1
        answer = await self._part.executor.run(
            calls.checkpoint(
                self._part.keys, session=self.id, instance=self.owner, epoch=self.epoch, sequence=self._sequence, data=raw,
                encoding=encoding,
            )
        )  # fmt: skip
        if answer.word == "FENCED":
            self.lost.set()
            raise FencedError(self.id, self.epoch, "its owner no longer has it")
        if answer.word == "OLD":
            self._sequence = answer.int("checkpoint")
            await self.checkpoint(data)
        elif answer.word != "OK":
            raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
