"""Coordinators and workers as processes of their own, which a test kills, stops and continues."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.redis_users import as_user
from tests.waiting import wait_until


def _empty_file() -> str:
    handle, name = tempfile.mkstemp(prefix="recovery-errors-")
    os.close(handle)
    return name


class Process:
    """A child whose output lines that are JSON documents are read as they come.

    Args:
        args: a Python module and its arguments.
        program: another command instead.
        environment: added to this process's; STDERR is a file for its standard error.
    """

    def __init__(self, *args: str, program: Sequence[str] = (), **environment: str) -> None:
        own = "STDERR" not in environment
        self._errors = Path(environment.pop("STDERR", "") or _empty_file())
        with self._errors.open("wb") as file:
            self._start([*program] or [sys.executable, "-m", *args], file, environment)
        self._own_errors = self._errors if own else None
        self.lines: list[dict[str, Any]] = []
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _start(self, command: Sequence[str], errors: Any, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
        )

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As `subprocess.Popen.returncode`."""
        return self._process.poll()

    def told(self, what: str) -> list[dict[str, Any]]:
        """All lines of a kind so far."""
        while not self._queue.empty():
            line = self._queue.get()
            if line.startswith(b"{"):  # what it prints for people is not for us
                self.lines.append(json.loads(line))
        return [line for line in self.lines if line["what"] == what]

    def wait_for(self, what: str, count: int = 1, timeout: float = 20.0) -> list[dict[str, Any]]:
        """The lines of a kind, as soon as there are so many.

        Raises:
            AssertionError: they did not come in time, or it has ended without them.
        """

        def came() -> bool:
            ended = not self.alive
            if ended:
                self._reader.join()
            there = len(self.told(what)) >= count
            assert there or not ended, f"it ended with {self.exit_status} before {what!r}: {self.errors()[-2000:]}"
            return there

        wait_until(came, timeout, f"{count} lines {what!r}, of {self.lines[-3:]}")
        return self.told(what)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def errors(self) -> str:
        """What it wrote to standard error; not after `close`, unless that goes into a file of the test's."""
        return self._errors.read_text(errors="replace")

    def write(self, text: str) -> None:
        """To its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def close(self) -> None:
        if self.alive:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if self._own_errors is not None:
            self._own_errors.unlink(missing_ok=True)


@contextmanager
def coordinator(url: str, *, fail_point: str = "") -> Iterator[Process]:
    """A coordinator process, which reaches the server as its own user."""
    process = Process(
        "coordinator",
        "run",
        "--redis-url",
        as_user(url, "coordinator"),
        "--http-port",
        "0",
        "--log-format",
        "json",
        COORDINATOR_FAIL_POINT=fail_point,
    )
    try:
        yield process
    finally:
        process.close()


@contextmanager
def worker(url: str, name: str, *calls: str, capacity: int = 500, mode: str = "serve") -> Iterator[Process]:
    """A worker process that opens ``calls``; it reaches the server as its own user."""
    process = Process("tests.acceptance.worker_process", as_user(url, "worker"), name, str(capacity), mode, *calls)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.close()
