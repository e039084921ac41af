"""The drain of all workers that a sidecar stands for: one at a time, however often it is asked for, and its progress."""

from __future__ import annotations

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.schemas import Drained, Moved
from coordinator.worker.drain import DrainReport

__all__ = ["SidecarDrain"]

log = structlog.get_logger()


class SidecarDrain:
    """Starts at most once. A later request gets the drain that is under way, or its result."""

    def __init__(self, registry: Registry, tasks: anyio.abc.TaskGroup) -> None:
        self._registry, self._tasks = registry, tasks
        self._reports: dict[str, DrainReport] = {}
        self._workers: list[Hosted] = []
        self._done = anyio.Event()
        self.started = False

    def start(self, timeout: float, reason: str) -> None:
        """Begins the drain, unless it has begun."""
        if self.started:
            return
        self._tasks.start_soon(self._drain_all, timeout, reason)
        self.started = self._registry.closing = True
        log.info("drain_asked", workers=len(self._registry.workers), timeout=timeout, reason=reason)

    async def done(self) -> None:
        """Returns when the drain is over."""
        await self._done.wait()

    async def _drain_all(self, timeout: float, reason: str) -> None:
        async def drain(hosted: Hosted) -> None:
            self._reports[hosted.handle] = await hosted.drain(timeout, reason)

        ends = clock.now() + timeout
        with anyio.move_on_after(timeout):  # workers of a sidecar before this one have calls, too
            await self._registry.all_taken_up()
        self._workers, timeout = self._registry.workers, max(0.0, ends - clock.now())
        async with anyio.create_task_group() as tasks:
            for hosted in self._workers:
                tasks.start_soon(drain, hosted)
        self._done.set()

    def progress(self) -> Drained:
        """The progress of the drain; without one, the sessions that a drain would hand over."""
        rows = []
        for hosted in self._workers or self._registry.workers:
            report, left = self._reports.get(hosted.handle), len(hosted.worker.sessions)
            state = "drained" if report else "draining" if hosted.worker.is_draining else "serving"
            row = Moved(instance=hosted.handle, state=state, left=left)
            if report:
                row.handed_over, row.failed = report.handed_over, report.failed
                row.silence_ms = {session: clock.in_ms(seconds) for session, seconds in report.silence.items()}
                row.released, row.closed = list(report.released), list(report.closed)
            rows.append(row)
        return Drained(draining=self.started, done=self._done.is_set(), workers=rows)
