"""Announces the instances of a worker to a supervisor or a sidecar, which then watches this process.

The program that watches sees the end of the process in any case, and certifies the instances within milliseconds. Without it a worker
lives as well, and lost connections tell of its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import structlog

from coordinator import clock
from coordinator.forked import in_a_child, let_go_of
from coordinator.policy import backoff
from coordinator.printable import told
from coordinator.settings import Settings

__all__ = ["Announcer"]

log = structlog.get_logger()

ANSWER_SECONDS = 1.0
"""Time for an answer, which comes from this machine."""
LONGEST_PAUSE_SECONDS = 2.0
REFUSED_SECONDS = 30.0
"""Pause between two announcements to a watcher that refused."""
MOST_BYTES = 65536
ACCEPTED = 204
BUSY = (408, 429)


class _NotWatchedError(Exception):
    """Why the process is not watched now, in one sentence; ``refused`` when the watcher answered so."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Announcer:
    """Announces one worker, again whenever its ids change and whenever the other side was started again.

    Args:
        path: the watcher's unix socket.
        instances: returns the ids of the worker, by partition.

    Attributes:
        token_hash: registered with each instance: only a program with the token may have them certified.
        accepted: whether the other side has agreed to watch.
    """

    def __init__(self, path: str, instances: Callable[[], Sequence[str]]) -> None:
        self._path, self._instances = path, instances
        self._token = secrets.token_urlsafe(32)
        self.token_hash = hashlib.sha256(self._token.encode()).hexdigest()
        self._process = os.getpid()
        self._changed = anyio.Event()
        self._told: str | None = None
        self.accepted = False

    @classmethod
    def of(cls, settings: Settings, instances: Callable[[], Sequence[str]]) -> Announcer | None:
        """The watcher that the settings or the environment name; None for none."""
        path = settings.watcher_socket or os.environ.get("RECOVERY_SOCKET", "")
        return cls(path, instances) if path and path != "none" else None

    def changed(self) -> None:
        """The worker has another id."""
        self._changed.set()

    async def announce(self) -> None:
        """Announces once, before the worker registers: then its name is free, and no moment is missed. Never raises."""
        try:
            async with self._announced():
                return
        except _NotWatchedError as error:
            self._tell(str(error))
        except Exception as error:  # noqa: BLE001 - a worker lives without it, too
            self._tell(told(error))

    async def left(self) -> None:
        """The worker has ended, and its process need not be watched any more. Never raises."""
        if not self.accepted or os.getpid() != self._process:
            return
        self._instances = tuple
        with anyio.CancelScope(shield=True):
            await self.announce()

    async def run(self) -> None:
        """Announces, and again, until cancelled. Never raises; a child that this process forks announces nothing."""
        failures = 0
        while os.getpid() == self._process:
            self._changed, began, refused = anyio.Event(), clock.now(), False
            try:
                async with self._announced() as connection:
                    self._tell("")
                    await self._until_over(connection)
            except _NotWatchedError as error:
                self._tell(str(error))
                refused = error.refused
            except Exception as error:  # noqa: BLE001 - a worker lives without it, too
                self._tell(told(error))
            failures = 0 if clock.now() - began > LONGEST_PAUSE_SECONDS else failures + 1
            pause = backoff(failures, random.random(), most=LONGEST_PAUSE_SECONDS)  # noqa: S311 - jitter
            with anyio.move_on_after(REFUSED_SECONDS if refused else pause):
                await self._changed.wait()

    def _tell(self, reason: str) -> None:
        """Logs the reason each time that it changes."""
        if reason == self._told:
            return
        before, self._told = self._told, reason
        if not reason:
            log.info("exit_watched", socket=self._path)
        elif not before:  # else it is the same reason in other words
            log.warning(
                "exit_not_watched", socket=self._path, reason=reason, consequence="lost connections tell of its end"
            )

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[anyio.abc.ByteStream]:
        """A connection on which the announcement was accepted.

        Raises:
            _NotWatchedError: the announcement was not accepted.
        """
        import h11  # here, as in `_ask`: a worker that is not watched speaks no HTTP

        try:
            with anyio.fail_after(ANSWER_SECONDS) as limit:
                async with await anyio.connect_unix(self._path) as connection:
                    in_a_child(connection, _leave_to_parent)
                    await self._ask(connection)
                    limit.deadline = float("inf")
                    yield connection
        except TimeoutError:
            raise _NotWatchedError(f"no answer within {ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise _NotWatchedError(error.strerror or type(error).__name__) from None
        except (
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            anyio.EndOfStream,
            h11.RemoteProtocolError,
        ) as error:
            raise _NotWatchedError(f"no answer: {type(error).__name__}") from None

    async def _ask(self, connection: anyio.abc.ByteStream) -> None:
        import h11

        body = json.dumps({"instances": list(self._instances())}).encode()
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", "watcher"), ("Worker-Token", self._token), ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]  # fmt: skip
        request = http.send(h11.Request(method="POST", target="/v1/watched", headers=headers))
        await connection.send(
            (request or b"") + (http.send(h11.Data(body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        )
        status, said = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(await connection.receive(MOST_BYTES))
                except anyio.EndOfStream:
                    http.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                said += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        if status != ACCEPTED:
            refused = 400 <= status < 500 and status not in BUSY
            raise _NotWatchedError(f"it answered {status}: {_detail(said)}", refused=refused)
        self.accepted = True

    async def _until_over(self, connection: anyio.abc.ByteStream) -> None:
        """Returns when the other side closes the connection, as when it ends, or the worker has another id."""
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                try:
                    while True:
                        await connection.receive(MOST_BYTES)
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    tasks.cancel_scope.cancel()

            tasks.start_soon(read)
            await self._changed.wait()
            tasks.cancel_scope.cancel()


def _leave_to_parent(connection: anyio.abc.ByteStream) -> None:
    let_go_of(connection.extra(anyio.abc.SocketAttribute.raw_socket))  # noqa: S610 - not Django's


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])[:200]
    except (ValueError, LookupError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace")
