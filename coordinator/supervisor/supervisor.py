"""The composition root of ``coordinator supervise``: one child after another, each an instance of its own."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.abc
import structlog

from coordinator.errors import ConfigurationError, SessionHeldError, first_error
from coordinator.settings import Settings
from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.schemas import Register
from coordinator.sidecar.sidecar import Sidecar
from coordinator.supervisor.child import Child, Exit, become_subreaper, hide_memory, reap_strays
from coordinator.supervisor.environment import for_child
from coordinator.supervisor.told import telling
from coordinator.worker.awake import sleep_awake
from coordinator.worker.session import Session

__all__ = ["Supervisor"]

log = structlog.get_logger()

PASSED_ON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCONT)
ENDS = (signal.SIGTERM, signal.SIGINT)
KILL_SECONDS = 5.0
"""Pause between SIGTERM and SIGKILL, for a child whose calls all have other owners."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
GOOD_SECONDS = 30.0
"""A child that has lived so long is started again without a pause."""


class Supervisor:
    """Runs a command as a worker.

    Args:
        settings: with a Redis URL; ``name``, ``pool``, ``capacity`` and so on are the worker's.
        command: program and arguments.
        sessions: ids of calls that the command serves without knowing of this project.
        restart: start the command again unless it ended by exit status 0 or was told to end.
        close_on_success: exit status 0 of the command means that its calls have ended.
        pass_env: variables that the command gets although they hold a secret.

    Raises:
        ConfigurationError: one of these variables is not set.
    """

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        sessions: Sequence[str] = (),
        *,
        restart: bool = False,
        close_on_success: bool = False,
        pass_env: Sequence[str] = (),
    ) -> None:
        self._environment, self._withheld = for_child(pass_env)
        self._settings, self._command, self._sessions = settings, list(command), list(sessions)
        self._restart, self._close_on_success = restart, close_on_success
        self._told_to_end = ""
        self._ended_by = 0
        self._starting = anyio.CancelScope()
        self._child: Child | None = None
        self._last: Child | None = None
        self._hosted: Hosted | None = None

    async def run(self) -> int:
        """Runs until the child has ended and is not to be started again. Returns its exit status.

        Raises:
            ConfigurationError: the command cannot be started.
            SessionHeldError: one of the calls has another owner.
            NameInUseError: another live worker has the name.
            StoreUnavailableError: the store did not answer.
        """
        if shutil.which(self._command[0]) is None:
            raise ConfigurationError(f"{self._command[0]!r} cannot be started: no such program")
        become_subreaper()
        hide_memory()
        if self._withheld:
            log.info("withheld_from_child", variables=self._withheld)
        status = 0
        with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
            path = str(Path(folder) / "sidecar.sock")
            sidecar = Sidecar(self._settings.model_copy(update={"http_socket": path}), parent=self)
            try:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._signals)
                    await tasks.start(sidecar.run_api)
                    tasks.start_soon(self._reap)
                    with anyio.CancelScope() as self._starting:
                        status = await self._again_and_again(sidecar, path)
                    if self._starting.cancelled_caught:
                        status = 128 + self._ended_by
                    tasks.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        return status

    async def _again_and_again(self, sidecar: Sidecar, path: str) -> int:
        pause, first = FIRST_PAUSE_SECONDS, True
        while True:
            began = anyio.current_time()
            hosted = self._hosted = await sidecar.registry.register(self._asked(), proven=True)
            sessions = await self._take(hosted, first=first)
            if self._sessions and not sessions:
                log.info("supervisor_ends", reason="all its calls have other owners by now")
                await hosted.end("exited", "it has no calls")
                return 1
            ended = await self._run_child(hosted, sessions, path)
            log.info("child_ended", instance=hosted.handle, how=ended.text, status=ended.status)
            await sidecar.watched.settle()
            if ended.status == 0 and self._close_on_success:
                for session in hosted.worker.sessions:
                    await session.close()
            await hosted.end("exited", ended.text)
            if not self._restart or self._told_to_end or ended.status == 0:
                return ended.status
            if anyio.current_time() - began > GOOD_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.info("child_restarts", seconds=pause)
            await anyio.sleep(pause)
            pause, first = min(2 * pause, LONGEST_PAUSE_SECONDS), False

    def _asked(self) -> Register:
        s = self._settings
        return Register.model_validate(
            {
                "name": s.name,
                "pool": s.pool,
                "capacity": s.capacity,
                "labels": s.labels,
                "address": s.address,
                "tenant": s.tenant,
            }
        )

    async def _take(self, hosted: Hosted, *, first: bool) -> list[Session]:
        """Opens the named calls, or adopts those that exist already."""
        taken = []
        for session_id in self._sessions:
            try:
                session: Session | None = await hosted.worker.open(session_id)
            except SessionHeldError as held:
                session = await hosted.worker.adopt(session_id, self._settings.lease)
                if session is None and first:
                    raise held from None
            if session is not None:
                taken.append(session)
        return taken

    async def _run_child(self, hosted: Hosted, sessions: list[Session], path: str) -> Exit:
        who = {
            "RECOVERY_SOCKET": path,
            "RECOVERY_INSTANCE": hosted.handle,
            "RECOVERY_WORKER_TOKEN": hosted.token,
        }
        with telling(sessions, Path(path).parent) as told:
            child = self._child = Child(self._command, {**self._environment, **who, **told})
            log.info("child_started", instance=hosted.handle, pid=child.pid, sessions=len(sessions))
            async with anyio.create_task_group() as tasks:
                if sessions:
                    tasks.start_soon(self._stop_when_lost, child, sessions)
                ended = await child.ended()
                tasks.cancel_scope.cancel()
        self._child, self._last = None, child
        return ended

    def how_ended(self, pid: int) -> str:
        """How the worker of this process id ended, if it is this child."""
        for child in (self._child, self._last):
            if child is not None and child.pid == pid and (ended := child.exit_so_far()) is not None:
                return ended.text
        return ""

    async def announced(self) -> None:
        """The worker beats for itself, perhaps under the same name: the instance made for it ends if it has no calls."""
        hosted = self._hosted
        if hosted is not None and not hosted.ended and not self._sessions and hosted.is_idle:
            await hosted.withdraw("its worker beats for itself")

    async def _stop_when_lost(self, child: Child, sessions: list[Session]) -> None:
        """Ends a child that knows nothing of this project when all its calls have other owners: it must not speak any more."""
        for session in sessions:
            await session.lost.wait()
        log.warning("child_stopped", pid=child.pid, reason=sessions[-1].lost_reason)
        self._told_to_end = self._told_to_end or "its calls have other owners"
        child.send(signal.SIGTERM)
        await sleep_awake(KILL_SECONDS)
        child.send(signal.SIGKILL)

    async def _signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*PASSED_ON, *ENDS) as signals:
            task_status.started()
            async with anyio.create_task_group() as tasks:
                async for number in signals:
                    if number not in ENDS:
                        self._pass_on(number)
                    elif self._told_to_end:
                        self._pass_on(number)  # a second one does not wait for the drain
                    else:
                        self._told_to_end, self._ended_by = signal.Signals(number).name, number
                        if self._child is None:  # it has not started, or is to be started again
                            log.info("supervisor_ends", reason=self._told_to_end)
                            self._starting.cancel()
                        tasks.start_soon(self._end, number)

    def _pass_on(self, number: int) -> None:
        if self._child is not None:
            self._child.send(number)

    async def _end(self, number: int) -> None:
        """Hands over what can be handed over while the child goes on serving, then passes the signal on."""
        hosted = self._hosted
        if hosted is not None and hosted.worker.sessions and await hosted.worker.others_live():
            await hosted.drain(self._settings.drain_timeout, signal.Signals(number).name)
        self._pass_on(number)

    async def _reap(self) -> None:
        with anyio.open_signal_receiver(signal.SIGCHLD) as signals:
            async for _ in signals:
                reap_strays(self._child.pid if self._child is not None else 0)
