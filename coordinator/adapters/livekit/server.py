"""An agent server whose jobs are sessions: what a worker that dies was serving goes on at one that lives."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import structlog
from livekit.agents import AgentServer
from livekit.agents.job import RunningJobInfo

from coordinator import (
    CoordinatorError,
    DataTooLargeError,
    DrainingError,
    FencedError,
    Offer,
    Session,
    Worker,
    clock,
)
from coordinator.adapters.livekit import inside
from coordinator.adapters.livekit.job_record import JobRecord
from coordinator.adapters.livekit.warm_processes import CALM_SECONDS, WarmProcesses, share_of
from coordinator.printable import told, trace
from coordinator.worker.channel import Channel

__all__ = ["ADDRESS", "RecoveringServer"]

log = structlog.get_logger()

ADDRESS = "COORDINATOR_CHANNEL"
"""The environment variable that tells job processes where their worker is."""
DEFAULT_POOL = "livekit"
GONE_SECONDS = 30.0
"""Time for a job process to end by itself, with its program's callbacks, after its call moved; a frozen one does not end."""
PREPARED_SECONDS = 10.0
LOOK_SECONDS = 0.2
MOST_WARM = 2 * (os.cpu_count() or 1)
"""Most job processes that are started ahead for the calls of a death."""


class _Job:
    """A job that runs in a process of this server."""

    def __init__(self, info: RunningJobInfo) -> None:
        self.info, self.ended = info, anyio.Event()
        self.process: Any = None
        self.failed = False

    def ends(self, *, failed: bool) -> None:
        """Its process has ended, or never began."""
        self.failed = failed
        self.ended.set()


class RecoveringServer(AgentServer):
    """LiveKit's ``AgentServer``, whose calls go on at another worker of the same agent when this one dies, drains or stands still.

    Each job is a session with the job's id, in the pool that is named like the agent. In the entrypoint, `recover` (or `LiveKitCall`)
    keeps what the heir needs. Everything else is as in the base class: arguments, ``rtc_session``, ``cli.run_app``.

    Args:
        recovery: settings of the `coordinator.Worker`, by their names in lower case, such as ``{"name": "agents-1"}``.
            What is not given comes from the environment (``COORDINATOR_REDIS_URL`` and so on).
        recovery_load_threshold: the load from which on no call of another worker is taken. By default one is taken at a time above
            ``load_threshold``, since its caller would hear nobody else.
    """

    def __init__(
        self,
        *arguments: Any,
        recovery: dict[str, Any] | None = None,
        recovery_load_threshold: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._recovery_load_threshold = recovery_load_threshold
        self._recovery = dict(recovery or {})
        self._worker: Worker[Any] | None = None
        self._channel: Channel | None = None
        self._jobs: dict[str, _Job] = {}
        self._running: dict[Any, _Job] = {}
        self._launch: Callable[[RunningJobInfo], Awaitable[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._warm: WarmProcesses | None = None
        self._drains = False

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """See the base class. A server that is not registered (the console) serves as without this project.

        Raises:
            ConfigurationError: a setting does not fit.
            StoreUnavailableError: Redis did not answer at the start.
        """
        if unregistered:
            await super().run(devmode=devmode, unregistered=True)
            return
        async with Worker(**{"pool": self._agent_name or DEFAULT_POOL, **self._recovery}) as worker:
            self._worker, self._channel = worker, await worker.channel()
            os.environ[ADDRESS] = (
                self._channel.address
            )  # before there is a fork server, whose environment stays as it is
            self.once("worker_started", self._begin)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._serve)
                    tasks.start_soon(self._follow_drain, worker)
                    await super().run(devmode=devmode)
                    tasks.cancel_scope.cancel()
            finally:
                self._worker = None

    def _begin(self) -> None:
        self._launch = inside.begin_launching_by(self, self._launch_new)
        self._warm = WarmProcesses(inside.reserve_of(self), MOST_WARM)
        self._proc_pool.on("process_job_launched", self._process_launched)
        self._proc_pool.on("process_closed", self._process_closed)

    # -- new jobs ------------------------------------------------------------------------------------------------------

    async def _launch_new(self, info: RunningJobInfo, launch: Callable[[RunningJobInfo], Awaitable[None]]) -> None:
        """A job that LiveKit dispatched here: it begins at once, and its session is opened beside that."""
        if info.fake_job or self._worker is None:
            await launch(info)
            return
        self._jobs[info.job.id] = job = _Job(info)
        task = asyncio.create_task(self._open(job), name=f"open {info.job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await launch(info)
        except BaseException:  # no process begins: another worker may have one
            job.ends(failed=True)
            raise

    async def _open(self, job: _Job) -> None:
        try:
            await self._open_session(job)
        except BaseException:
            self._forget(job)
            raise

    async def _open_session(self, job: _Job) -> None:
        """Opens the session, again and again while the store is away: a call does not wait for its protection."""
        info, said, pause = job.info, "", 0.1
        data = {"livekit": inside.record_of(info).as_json()}
        while (worker := self._worker) is not None and (job.failed or not job.ended.is_set()):
            try:
                if await worker.receive(info.job.id, data) is not None:
                    return
                log.error("job_unprotected", job=info.job.id, reason="another worker has the session of this id")
                break
            except CoordinatorError as error:
                if said != (said := told(error)):  # once, as it may take long
                    log.error("job_unprotected", job=info.job.id, error=said)
                if isinstance(error, ValueError | FencedError | DataTooLargeError | DrainingError) or self.draining:
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        if self._jobs.get(job.info.job.id) is job:
            del self._jobs[job.info.job.id]

    # -- jobs of others ------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        worker = self._worker
        assert worker is not None  # noqa: S101 - inside `run`
        while self._launch is None:  # it begins to take jobs
            await anyio.sleep(0.01)
        await worker.serve(self._handler, prepare=self._prepare, prepare_timeout=PREPARED_SECONDS, ready=self._ready)

    def _ready(self) -> int:
        return inside.can_launch(self, self._recovery_load_threshold)

    @asynccontextmanager
    async def _prepare(self, offer: Offer[Any]) -> AsyncIterator[None]:
        """A job process joins the room. In a handover it does so under another identity, and before the owner lets go."""
        channel, launch = self._channel, self._launch
        assert channel is not None  # noqa: S101 - inside `run`
        assert launch is not None  # noqa: S101
        data = offer.recovery_data
        record = JobRecord.from_json(data.get("livekit") if isinstance(data, dict) else None)
        if offer.planned:
            record = record.moved()
        else:
            self._hurry(offer)
        info = inside.running_job(self, record)
        with channel.expects(offer) as coming:
            self._jobs[info.job.id] = job = _Job(info)
            try:
                await launch(info)
                log.info("job_recovers", job=info.job.id, planned=offer.planned, identity=record.identity)
                if offer.planned:
                    await coming.prepared()
                yield
            finally:
                self._forget(job)

    def _hurry(self, offer: Offer[Any]) -> None:
        """The processor is for calls whose callers hear nothing; job processes in reserve are started after that."""
        worker, warm = self._worker, self._warm
        if worker is None or warm is None:
            return
        begins = not warm.hurries(clock.now())
        free = worker.settings.capacity - len(worker.sessions)
        warm.took(offer.previous_owner, share_of(offer.died_with, free, offer.room), clock.now())
        inside.keep_warm(self, warm.wanted(clock.now()))
        if begins:
            task = asyncio.create_task(self._until_calm(warm), name="job processes in reserve")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _until_calm(self, warm: WarmProcesses) -> None:
        while warm.hurries(clock.now()):
            await asyncio.sleep(CALM_SECONDS / 10)
        inside.keep_warm(self, warm.wanted(clock.now()))

    async def _handler(self, session: Session[Any]) -> None:
        """Until the job's process has ended: its own end is told over the channel."""
        job = self._jobs.get(session.id)
        if job is None and not session.recovered:  # the job was over before its session was open
            return
        if job is None:
            await session.release("no job process serves it")
            return
        try:
            await job.ended.wait()
        finally:
            self._forget(job)
            if not job.ended.is_set():
                self._end_soon(job)
        if job.failed:
            raise RuntimeError("its job process ended with an error")

    def _end_soon(self, job: _Job) -> None:
        """The call is over here, and its process ends by itself, unless it stands still."""
        task = asyncio.create_task(self._end(job), name=f"end {job.info.job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, job: _Job) -> None:
        with anyio.move_on_after(GONE_SECONDS):
            await job.ended.wait()
        process = job.process
        if process is None or job.ended.is_set():
            return
        log.warning(
            "job_process_killed", job=job.info.job.id, reason="its call is over here, and it did not end by itself"
        )
        try:
            await (process.kill() if hasattr(process, "kill") else process.aclose())
        except Exception as error:  # noqa: BLE001 - it may end meanwhile
            log.error("job_process_not_killed", job=job.info.job.id, exception=trace(error))

    def _process_launched(self, process: Any) -> None:
        """A job of this id may run in two processes for a moment: the one of before stands still, or has not left yet."""
        info = process.running_job
        job = self._jobs.get(info.job.id) if info is not None else None
        if job is not None and job.info is info:
            self._running[process] = job
            job.process = process
            if process not in self._proc_pool.processes:  # it has ended already
                self._process_closed(process)

    def _process_closed(self, process: Any) -> None:
        if (job := self._running.pop(process, None)) is not None:
            job.ends(failed=bool(getattr(process, "exitcode", 0)))

    # -- ends ----------------------------------------------------------------------------------------------------------

    async def _handle_termination(self, msg: Any) -> None:
        """LiveKit ended the job: its call is over."""
        for session in self._worker.sessions if self._worker is not None else ():
            if session.id == msg.job_id:
                try:
                    await session.close()
                except CoordinatorError as error:
                    log.warning("job_not_closed", job=msg.job_id, error=told(error))
        await super()._handle_termination(msg)

    async def _follow_drain(self, worker: Worker[Any]) -> None:
        """A worker that was told to drain from outside takes no new jobs either: nobody would protect them."""
        while not worker.is_draining:
            await anyio.sleep(LOOK_SECONDS)
        if not self.draining:
            self._draining = True
            with contextlib.suppress(Exception):  # its connection to LiveKit may be away; it says so as it comes back
                await self._update_worker_status()

    async def drain(self, *arguments: Any, **more: Any) -> None:
        """Hands every call to other workers, and then waits for what is left as the base class does."""
        if self._worker is not None and not self._drains:
            self._drains = self._draining = True
            await self._update_worker_status()
            await self._worker.drain(reason="the agent server drains")
            self._draining = False  # else the base class takes this for its own drain, and waits for nothing
        await super().drain(*arguments, **more)

    async def aclose(self) -> None:
        """Offers what is still served to other workers: job processes are ended after that."""
        if self._worker is not None and self._worker.sessions:
            await self._worker.drain(timeout=0.5, reason="the agent server closes")
        await super().aclose()
