"""Proof that a worker lives, other than its stream: its process, or a URL that it answers."""

from __future__ import annotations

import http.client
import os
import urllib.parse
from types import TracebackType

import anyio
import anyio.to_thread

from coordinator.errors import ConfigurationError
from coordinator.sidecar.wire import Health

__all__ = ["HealthCheck", "ProcessWatch"]


class ProcessWatch:
    """A process that this one can see; `pidfd_open(2)`, so a number that is used again does not deceive.

    Raises:
        ConfigurationError: there is no such process in sight.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._file = os.pidfd_open(pid)
        except OSError as error:
            raise ConfigurationError(f"pid {pid} is no process that the sidecar can see: {error.strerror}") from None

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
        """Watches no more."""
        os.close(self._file)


class HealthCheck:
    """A URL of this machine, asked again and again."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def failed(self) -> None:
        """Returns when it did not answer 2xx so many times in a row."""
        failures = 0
        while failures < self._health.failures:
            await anyio.sleep(self._health.interval_ms / 1000)
            well = await anyio.to_thread.run_sync(self._ask, abandon_on_cancel=True)
            failures = 0 if well else failures + 1

    def _ask(self) -> bool:
        url = urllib.parse.urlsplit(self._health.url)
        assert url.hostname is not None  # noqa: S101 - by its pattern
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=self._health.timeout_ms / 1000)
        try:
            connection.request("GET", url.path + (f"?{url.query}" if url.query else ""))
            return 200 <= connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
