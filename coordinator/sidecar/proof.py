"""Proof that a worker lives, other than its stream: its process, or a URL that it answers."""

from __future__ import annotations

import http.client
import os
import select
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread

from coordinator.clock import in_seconds
from coordinator.errors import ConfigurationError
from coordinator.sidecar.schemas import Health
from coordinator.worker.awake import watch_for_pauses

__all__ = ["HealthCheck", "ProcessEndedError", "ProcessMark", "ProcessWatch"]

SLICES = 10
LEAST_PAUSE_SECONDS = 0.1
START_TIME = 22
"""Field of ``/proc/PID/stat`` (proc_pid_stat(5)), counted from 1."""


class ProcessEndedError(ConfigurationError):
    """The named process has ended."""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """The mark that identifies a process, although process numbers are used again.

    Attributes:
        pid: the process number in ``namespace``.
        started: when the process was started, in clock ticks since the start of this machine.
        namespace: the namespace of process numbers.
    """

    pid: int
    started: int
    namespace: str

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """The mark of a process, as long as it lives; None when it cannot be seen."""
        try:
            rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if rest[0] in "ZX":
                return None
            return cls(pid, int(rest[START_TIME - 3]), str(Path("/proc/self/ns/pid").readlink()))
        except (OSError, ValueError, IndexError):
            return None

    @property
    def is_in_sight(self) -> bool:
        """Whether this process would see the marked process if it lived."""
        own = ProcessMark.of(os.getpid())
        return own is not None and own.namespace == self.namespace


class ProcessWatch:
    """Watches a process by its file descriptor, which a number that is used again does not deceive (`pidfd_open(2)`).

    Args:
        pid: the process number; 0 for a process without a number that can be seen here.
        file: the file descriptor of the process, when there is one already; this closes it.
        mark: the mark that the process must have.

    Raises:
        ProcessEndedError: the process has ended.
        ConfigurationError: this process cannot see whether it has ended.
    """

    def __init__(self, pid: int, file: int | None = None, mark: ProcessMark | None = None) -> None:
        self.pid = pid
        try:
            self._file = os.pidfd_open(pid) if file is None else file
        except OSError as error:
            if mark is not None and isinstance(error, ProcessLookupError):
                raise ProcessEndedError(f"process {pid} has ended") from None
            raise ConfigurationError(f"the sidecar cannot see a process with pid {pid}: {error.strerror}") from None
        if mark is None:
            return
        found = ProcessMark.of(pid)
        if self.has_ended or (found is not None and found != mark):
            self.close()
            raise ProcessEndedError(f"process {pid} has ended")
        if found is None:
            self.close()
            raise ConfigurationError(f"pid {pid} cannot be told from another process")

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by now."""
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        """Returns when it has ended."""
        await anyio.wait_readable(self._file)

    def __enter__(self) -> ProcessWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the watching."""
        os.close(self._file)


class HealthCheck:
    """Asks a URL of this machine again and again."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def failed(self) -> None:
        """Returns when it did not answer 2xx so many times in a row. A request in which this process stood still does not count."""
        failures, limit = 0, in_seconds(self._health.timeout_ms)
        while failures < self._health.failures:
            await anyio.sleep(in_seconds(self._health.interval_ms))
            async with watch_for_pauses(limit / SLICES) as pauses:
                well = await anyio.to_thread.run_sync(self._ask, abandon_on_cancel=True)
            if well:
                failures = 0
            elif pauses.longest <= max(limit / 2, LEAST_PAUSE_SECONDS):
                failures += 1

    def _ask(self) -> bool:
        url = urllib.parse.urlsplit(self._health.url)
        assert url.hostname is not None  # noqa: S101 - by its pattern
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=in_seconds(self._health.timeout_ms))
        try:
            connection.request("GET", url.path + (f"?{url.query}" if url.query else ""))
            return 200 <= connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
