"""Workers that beat for themselves: their processes are watched from here, and the end of one certifies its instances."""

from __future__ import annotations

import contextlib
import hmac
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.policy import backoff
from coordinator.printable import told, trace
from coordinator.sidecar.line import HeldLine
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.proof import ProcessWatch
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition

__all__ = ["Watched"]

log = structlog.get_logger()

MOST = 10_000
PATIENCE_SECONDS = 60.0
"""Time for the store to take a certificate; after it the silence has told of the end."""
SETTLE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Announced:
    """What one worker announced.

    Attributes:
        token_hash: hash of the token that only the worker knows; the record of each of its instances has the hash too.
        process: its process; its line where the process cannot be seen.
        instances: its ids, by partition.
        left: the worker has ended, and its process lives on.
        replaced: something newer tells of its end, and this says nothing any more.
        done: its end is stated.
    """

    token_hash: str
    process: ProcessWatch | HeldLine
    instances: tuple[str, ...]
    left: anyio.Event = field(default_factory=anyio.Event)
    replaced: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)

    @property
    def goes_on(self) -> bool:
        """Whether its end will still be seen: a line may have been ended from this side."""
        over = self.process.is_over if isinstance(self.process, HeldLine) else self.process.has_ended
        return not over and not self.left.is_set()

    async def ended(self) -> None:
        """Returns when the worker has ended, its process or line has, or when this counts no more."""
        async with anyio.create_task_group() as tasks:

            async def wait(what: Callable[[], Awaitable[object]]) -> None:
                await what()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait, self.process.ended)
            tasks.start_soon(wait, self.left.wait)
            tasks.start_soon(wait, self.replaced.wait)


class Watched:
    """Processes that workers themselves announced, over the unix socket.

    No program can have another's instance certified: the instance must have been registered with the announcer's own token.

    Args:
        parts: all partitions.
        tasks: in which processes are watched.
        by: the name that signs certificates.
        how_ended: tells how a process ended, '' when that is unknown; for a parent, which sees exit statuses.
    """

    def __init__(
        self,
        parts: Sequence[StorePartition],
        tasks: anyio.abc.TaskGroup,
        by: str,
        how_ended: Callable[[int], str] = lambda pid: "",
    ) -> None:
        self._parts, self._tasks, self._by, self._how_ended = parts, tasks, by, how_ended
        self._announced: dict[str, _Announced] = {}

    def __len__(self) -> int:
        return len(self._announced)

    def announce(self, token_hash: str, instances: Sequence[str], process: ProcessWatch | HeldLine | None) -> None:
        """From now on the end of ``process`` is the end of ``instances``. Safe to repeat: the newest list counts.

        Args:
            token_hash: hash of the token with which the instances register, or have registered.
            instances: ids, one a partition; none when the worker has ended and its process lives on.
            process: this closes it; a line where the process cannot be seen; None for one that holds a line already.

        Raises:
            Problem: 403 there is nothing to watch, 409 the token is another process's, 422 the number of ids, 429 too many.
        """
        known = self._announced.get(token_hash)
        try:
            if not instances:
                if known is not None:
                    known.left.set()
                _close(process)
                return
            if len(instances) != len(self._parts):
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"instances: {len(instances)} ids for {len(self._parts)} partitions: each partition needs one",
                )
            if known is not None and known.goes_on and process is not None and known.process.pid != process.pid:
                raise Problem(HTTPStatus.CONFLICT, f"process {known.process.pid} announced itself with this token")
            if known is None and len(self._announced) >= MOST:
                raise Problem(HTTPStatus.TOO_MANY_REQUESTS, f"{MOST} processes are watched already")
            if process is None and (known is None or not known.goes_on):
                raise Problem(
                    HTTPStatus.FORBIDDEN,
                    "the asking process cannot be seen: hold a line over the unix socket (POST /v1/watched/line)",
                )
        except Problem:
            _close(process)
            raise
        if known is not None and known.goes_on:
            if process is None or isinstance(known.process, ProcessWatch):
                _close(process)
                if known.instances != tuple(instances):
                    log.info("worker_announced", pid=known.process.pid, instances=list(instances))
                    known.instances = tuple(instances)
                return
            known.replaced.set()
        assert process is not None  # noqa: S101 - without one it goes on
        self._announced[token_hash] = announced = _Announced(token_hash, process, tuple(instances))
        log.info("worker_announced", pid=process.pid, instances=list(instances), by=_by(process))
        self._tasks.start_soon(self._watch, announced)

    async def settle(self) -> None:
        """Returns when the end of every process that has ended is stated, or a few seconds later."""
        with anyio.move_on_after(SETTLE_SECONDS):
            for announced in [one for one in self._announced.values() if one.process.has_ended]:
                await announced.done.wait()

    async def _watch(self, announced: _Announced) -> None:
        try:
            with contextlib.closing(announced.process):
                await announced.ended()
                if announced.replaced.is_set() or not (announced.left.is_set() or announced.process.has_ended):
                    return  # a newer line is held, or this side ended it
                reason = "it left" if announced.left.is_set() else self._how(announced.process)
                async with anyio.create_task_group() as tasks:
                    for part, instance in zip(self._parts, announced.instances, strict=True):
                        tasks.start_soon(self._certify_patiently, part, instance, announced.token_hash, reason)
        except Exception as error:  # noqa: BLE001 - the others go on
            log.error("watch_failed", instances=list(announced.instances), error=told(error), exception=trace(error))
        finally:
            if self._announced.get(announced.token_hash) is announced:
                del self._announced[announced.token_hash]
            announced.done.set()

    def _how(self, process: ProcessWatch | HeldLine) -> str:
        if isinstance(process, HeldLine):
            return "its line ended"
        pid = process.pid
        return self._how_ended(pid) or (f"process {pid} ended" if pid else "its process ended")

    async def _certify_patiently(self, part: StorePartition, instance: str, token_hash: str, reason: str) -> None:
        began, failures = clock.now(), 0
        while True:
            try:
                await self._certify(part, instance, token_hash, reason)
                return
            except StoreUnavailableError as error:
                if clock.now() - began > PATIENCE_SECONDS:
                    log.warning("exit_not_certified", instance=instance, reason=reason, error=str(error))
                    return
                await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                failures += 1

    async def _certify(self, part: StorePartition, instance: str, token_hash: str, reason: str) -> None:
        registered = await lookups.said_by(part, instance, "token_hash")
        if registered is None:  # the instance ended before it had registered, or it is forgotten already
            return
        if not hmac.compare_digest(registered["token_hash"].encode(), token_hash.encode()):
            log.warning(
                "exit_not_certified", instance=instance, reason=reason, error="the instance is not the announcer's own"
            )
            return
        answer = await part.executor.run(
            calls.certify(part.keys, instance=instance, cause="exited", by=self._by, reason=reason)
        )
        if isinstance(answer, calls.CertifyOk):
            log.info("exit_certified", instance=instance, reason=reason, sessions=answer.owned)


def _close(process: ProcessWatch | HeldLine | None) -> None:
    if process is not None:
        process.close()


def _by(process: ProcessWatch | HeldLine) -> str:
    return "line" if isinstance(process, HeldLine) else "process"
