"""Child processes of ``demo`` and ``bench``: none outlives the command that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

__all__ = ["ChildProcess", "CoordinatorProcess", "StartError", "free_port", "interruptible", "started"]


class StartError(Exception):
    """A child process ended before it was ready."""


@dataclass(slots=True)
class ChildProcess:
    """A process that this command started."""

    name: str
    process: anyio.abc.Process
    errors: IO[bytes] = field(repr=False)
    """Where its standard error goes."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as this process has noticed."""
        return self.process.returncode is None

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to say good-bye. Safe to repeat."""
        if self.alive:
            self.process.kill()

    def last_words(self, size: int = 2000) -> str:
        """The end of what it wrote to its standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - size))
        return self.errors.read().decode(errors="replace").strip()

    async def lines(self) -> AsyncIterator[str]:
        """Its standard output line by line, up to the end of it; a torn last line is left out."""
        if self.process.stdout is None:
            return
        stream = BufferedByteReceiveStream(self.process.stdout)
        while True:
            try:
                yield (await stream.receive_until(b"\n", 1 << 20)).decode()
            except (anyio.EndOfStream, anyio.IncompleteRead):
                return


@asynccontextmanager
async def started(
    name: str, module: str, args: Sequence[str], *, output: bool = False, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """Runs ``python -m module args`` until the block is left, and kills it there if it is still alive.

    The child ends too when this process ends, in any case.

    Args:
        name: its name in messages.
        module: the module to run.
        args: its arguments.
        output: whether its standard output is to be read by `ChildProcess.lines`.
        environment: added to this process's, without its ``COORDINATOR_*``.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("COORDINATOR_")}
    with tempfile.TemporaryFile() as errors:
        process = await anyio.open_process(
            [sys.executable, "-m", "coordinator.cli.child", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output else subprocess.DEVNULL,
            stderr=errors,
            env={**inherited, **(environment or {})},
            start_new_session=True,  # a terminal's Ctrl-C is for the command, which then ends them
        )
        child = ChildProcess(name, process, errors)
        try:
            yield child
        finally:
            with anyio.CancelScope(shield=True):
                child.kill()
                await process.wait()
                await process.aclose()


def free_port() -> int:
    """A port of the loopback interface that no process listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class CoordinatorProcess:
    """A ``coordinator run`` in a process of its own."""

    child: ChildProcess
    port: int

    @classmethod
    @asynccontextmanager
    async def run(cls, name: str, url: str, prefix: str, *flags: str) -> AsyncIterator[CoordinatorProcess]:
        """Runs one as long as the block lasts; it may not be ready yet."""
        port = free_port()
        arguments = ["run", "--redis-url", url, "--prefix", prefix, "--name", name]
        arguments += ["--http-host", "127.0.0.1", "--http-port", str(port), "--log-format", "json", *flags]
        async with started(name, "coordinator", arguments) as child:
            yield cls(child, port)

    async def ready(self) -> None:
        """Waits until it says that it is ready.

        Raises:
            StartError: it ended instead.
        """
        while not await anyio.to_thread.run_sync(partial(_answers_ok, f"http://127.0.0.1:{self.port}/readyz")):
            if not self.child.alive:
                raise StartError(f"{self.child.name} did not start: {self.child.last_words()}")
            await anyio.sleep(0.05)


def _answers_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own health check
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:  # not ready yet; the error is an open response
        error.close()
        return False
    except OSError:
        return False


@asynccontextmanager
async def interruptible() -> AsyncIterator[None]:
    """At SIGINT and SIGTERM leaves the block in order, so that all in it is cleaned up; then KeyboardInterrupt."""
    stopped = False

    async def watch(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stopped = True
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        yield
        tasks.cancel_scope.cancel()
    if stopped:
        raise KeyboardInterrupt
