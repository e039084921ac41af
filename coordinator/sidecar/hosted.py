"""A worker that the sidecar stands for: its instance, its life and the proof of life."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

import anyio
import anyio.abc
import structlog

from coordinator.errors import ConfigurationError, FencedError, NameInUseError
from coordinator.settings import Settings
from coordinator.sidecar.event_queue import EventQueue
from coordinator.sidecar.handovers import HostedHandovers
from coordinator.sidecar.hosting import Hosting
from coordinator.sidecar.presence import Presence
from coordinator.sidecar.problems import SetUpWronglyError
from coordinator.sidecar.proof import HealthCheck, ProcessMark, ProcessWatch
from coordinator.sidecar.schemas import Health, Register
from coordinator.worker.drain import DrainReport
from coordinator.worker.instance import Instance
from coordinator.worker.offer import Offer
from coordinator.worker.runtime import WorkerRuntime
from coordinator.worker.session import Session

__all__ = ["Hosted", "hash_of"]

log = structlog.get_logger()


def hash_of(token: str) -> str:
    """The form in which the store keeps a worker's token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Hosted:
    """One registered worker.

    Args:
        settings: the sidecar's.
        runtime: the sidecar's, shared by all workers.
        asked: what the worker said of itself.
        instances: ids by partition under which it lives already, when another sidecar stood for it before.
        token_hash: hash of the token that it has already; without it the worker gets a new token.
        proven: another program watches its process and calls `end`.
        process: the mark by which its process must be recognised.
        addresses: the addresses on which the sidecar listens.

    Attributes:
        token: the token of a new worker; '' for a worker that has its token already.
        queue: the events for the worker.
        presence: its open streams and polls, and its pings.
        handovers: offers to it, and what happens to its sessions.
        handle: the instance id by which its URLs name it.
        ended: why its life is over; '' while it goes on.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: WorkerRuntime,
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
        hosting = Hosting(addresses, self._mark, asked.health, asked.lets_go, asked.stream_end)
        own = {
            "name": asked.name,
            "pool": asked.pool or settings.pool,
            "capacity": settings.capacity if asked.capacity is None else asked.capacity,
            "labels": {**settings.labels, **asked.labels},
            "address": asked.address or settings.address,
            "tenant": asked.tenant or settings.tenant,
        }
        self.queue = EventQueue()
        self.handovers = HostedHandovers(
            self.queue,
            ended=lambda: bool(self.ended),
            has_stream=lambda: self.presence.has_stream,
            lets_go=asked.lets_go,
        )
        self.worker = Instance(
            settings.model_copy(update=own), observer=self.handovers, runtime=runtime, token_hash=self.token_hash, instances=instances,
            hosting=hosting.text() if addresses else "",
        )  # fmt: skip
        self.presence = Presence(
            self.worker, self.queue, ended=lambda: bool(self.ended), end=self.end, has_proof=self._has_proof,
            taken_up=bool(instances), stream_is_life=asked.stream_end == "exit",
        )  # fmt: skip
        self.handle = ""
        self.ended = ""
        self._has_token = False
        self._over, self._gone = anyio.Event(), anyio.Event()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None]) -> None:
        """Joins, says so, and lives until it ends or is cancelled.

        Raises:
            CoordinatorError: it could not join; after it has joined, ``ended`` tells of its end.
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
                    self.presence.wait_for_stream()
                    started()
                    await self._until_over()
        except NameInUseError as error:  # it was fenced, and another worker took its name meanwhile
            if not self.handle:
                raise
            self._end(str(error))
        except Exception as error:
            if self.handle:
                self._end(f"the sidecar cannot go on with it: {error}")
            elif joining and isinstance(error, ConfigurationError):  # its caller cannot correct that
                raise SetUpWronglyError(str(error)) from error
            raise
        finally:
            self.presence.close()
            if self.handle and not self.ended:
                self._end("the sidecar ends")
            self._gone.set()

    async def _until_over(self) -> None:
        try:
            await self._over.wait()
        except anyio.get_cancelled_exc_class():
            if not self._over.is_set() and self.worker.settings.stands_for_others:
                # The sidecar fails, which does not end its workers.
                self.worker.abandon()
                self.ended = "the sidecar failed"
                self._over.set()
            raise

    async def end(self, cause: Literal["exited", "wedged"], reason: str) -> None:
        """The worker is dead, and the store is told at once, in every partition."""
        if self.ended:
            return
        self.ended = reason
        log.info("worker_ended", instance=self.handle, cause=cause, reason=reason)
        await self.worker.end(cause, reason)
        self._end(reason)

    async def leave(self) -> None:
        """The sidecar ends: what the worker still owns is offered to other workers, and the worker is told."""
        self._end("the sidecar ends")

    @property
    def is_idle(self) -> bool:
        """Whether it is unused: it owns no session, and no stream reads its events."""
        return not self.worker.sessions and not self.presence.is_attached

    async def withdraw(self, reason: str) -> None:
        """Ends a worker that is not needed; its name is free when this returns."""
        self._end(reason)
        await self._gone.wait()

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason
        self._over.set()
        self.queue.put("ended", reason=self.ended)
        self.handovers.close()

    async def drain(self, timeout: float, reason: str) -> DrainReport:
        """Hands over what it owns; returns early, with the report so far, when its worker ends."""
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

    # -- what its requests need of several parts -----------------------------------------------------------------------

    def take_stream(self, stream: object, peer: ProcessWatch | None) -> None:
        """Replaces an older stream by a newer one, which is told again what was not answered.

        Args:
            peer: the process that reads it, None when it cannot be seen; when it ends no stream will be attached again.
        """
        self.presence.take_stream(stream, peer)
        self.handovers.tell_again()

    async def poll(self, wait: float, most: int) -> list[Offer]:
        """Returns offers that were not delivered yet; waits for the first at most so many seconds."""
        with self.presence.attached(), anyio.move_on_after(wait):
            return await self.handovers.next_offers(most)
        return []

    # -- its identity --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether everything about its end is done and stated."""
        return self._over.is_set()

    @property
    def is_proven(self) -> bool:
        """Whether there is proof just now that its worker lives."""
        return not self.ended and (self._has_proof or self.presence.is_attached)

    def knows(self, token: str) -> bool:
        """Whether that is the worker's token."""
        if not hmac.compare_digest(hash_of(token), self.token_hash):
            return False
        self._has_token = True
        return True

    def asks(self) -> Hosted:
        """A request of the worker came, so the answer to its registration has arrived."""
        self._has_token = True
        return self

    def never_had_its_token(self, pid: int | None) -> bool:
        """Whether this process registers again because the answer to its registration never came: its token was never used."""
        return pid is not None and pid == self.asked.pid and not self._has_token and self.is_idle

    def session(self, session_id: str, epoch: int | None = None) -> Session:
        """Returns a session that the worker owns.

        Args:
            epoch: the epoch that the worker believes to hold; one from before a renewal is accepted too.

        Raises:
            FencedError: the worker does not own the session, or not under that epoch.
        """
        session = self.worker.owned(session_id)
        if session is None:
            raise FencedError(session_id, epoch, f"{self.handle} does not own it")
        if epoch is not None and not session.first_epoch <= epoch <= session.epoch:
            raise FencedError(session_id, epoch, f"it has epoch {session.epoch}")
        return session
