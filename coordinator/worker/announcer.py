"""Announces the instances of a worker to a supervisor or a sidecar, which then sees its end.

The announcement is a request that stays open, the line: nothing but the end of this process ends it from this side, and where the
other side cannot see the process, as from another container, that tells of the end. The other side certifies the instances within
milliseconds. Without it a worker lives as well, and lost connections tell of its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import secrets
import socket
from collections.abc import Callable, Sequence

import anyio
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
LINE, WATCHED = "/v1/watched/line", "/v1/watched"
OPEN, DONE, UNKNOWN = 200, 204, 404
ANNOUNCED = ((LINE, OPEN), (WATCHED, DONE))
"""Each path and its answer, the first that is known there: older watchers know no line, and watch the processes that they can see."""
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
        self._changed, self._answered = anyio.Event(), anyio.Event()
        self._line: socket.socket | None = None
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

    async def announced(self) -> None:
        """Returns when the first announcement was answered, or in a second: before the worker registers its name is free then."""
        with anyio.move_on_after(ANSWER_SECONDS):
            await self._answered.wait()

    async def left(self) -> None:
        """The worker has ended, and its process need not be watched any more. Never raises; call it when `run` was cancelled."""
        if os.getpid() != self._process:
            return
        try:
            if self.accepted:
                with anyio.CancelScope(shield=True):
                    await self._say(())
        except Exception as error:  # noqa: BLE001 - the worker has said in the store that it left
            log.debug("good_bye_not_said", socket=self._path, error=told(error))
        finally:
            self._hang_up()

    async def run(self) -> None:
        """Announces, and again, until cancelled. Never raises; a child that this process forks announces nothing.

        When it is cancelled the line stays, until `left` has said good-bye.
        """
        failures = 0
        while os.getpid() == self._process:
            began, refused = clock.now(), False
            try:
                await self._hold()
            except Exception as error:  # noqa: BLE001 - a worker lives without it, too
                reason = _reason(error)
                self._tell(str(reason))
                refused = reason.refused
            self._hang_up()
            self._answered.set()
            failures = 0 if clock.now() - began > LONGEST_PAUSE_SECONDS else failures + 1
            await self._pause(failures, refused=refused)

    async def _pause(self, failures: int, *, refused: bool) -> None:
        """Before the next trial; a new id ends it."""
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

    # -- the line ------------------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Announces the worker, and holds the line until the other side ends it.

        It is not given up for an answer that is late: the other side may have the announcement by then, and its end would be this
        process's.

        Raises:
            _NotWatchedError: the announcement was not accepted.
            OSError, h11.RemoteProtocolError: nobody listens there, or somebody who speaks otherwise.
        """
        known = self._ids()
        late = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._is_late)
        try:
            line = await self._announce(known)
        finally:
            late.cancel()
        self.accepted = True
        self._tell("")
        self._answered.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_ended, line, tasks.cancel_scope)
            await self._keep_told(known)

    async def _announce(self, known: Sequence[str]) -> socket.socket:
        for target, wanted in ANNOUNCED:
            self._hang_up()
            self._line = line = _unconnected()
            status, said = await self._ask(line, target, known)
            if status == wanted:
                break
            if status != UNKNOWN or target == WATCHED:
                raise _refusal(status, said)
        return line

    def _ids(self) -> tuple[str, ...]:
        self._changed = anyio.Event()
        return tuple(self._instances())

    def _is_late(self) -> None:
        self._tell(f"no answer within {ANSWER_SECONDS:g} s")

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    @staticmethod
    async def _until_ended(line: socket.socket, scope: anyio.CancelScope) -> None:
        try:
            while await asyncio.get_running_loop().sock_recv(line, MOST_BYTES):
                pass
        except OSError:
            pass
        scope.cancel()

    async def _keep_told(self, known: tuple[str, ...]) -> None:
        """Tells the other side of each new id, until cancelled."""
        failures = 0
        while True:
            instances = self._ids()
            if instances == known:
                await self._changed.wait()
                continue
            try:
                await self._say(instances)
            except Exception as error:  # noqa: BLE001 - as in `run`
                reason = _reason(error)
                self._tell(str(reason))
                failures += 1
                await self._pause(failures, refused=reason.refused)
            else:
                self._tell("")
                known, failures = instances, 0

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _say(self, instances: Sequence[str]) -> None:
        """Announces the newest ids on a connection of its own.

        Raises:
            _NotWatchedError, OSError, TimeoutError, h11.RemoteProtocolError: that was not accepted.
        """
        with _unconnected() as connection, anyio.fail_after(ANSWER_SECONDS):
            status, said = await self._ask(connection, WATCHED, instances)
        if status != DONE:
            raise _refusal(status, said)

    async def _ask(self, connection: socket.socket, target: str, instances: Sequence[str]) -> tuple[int, bytes]:
        """Status and body of the answer; an answer that stays open has none."""
        import h11  # here: a worker that is not watched speaks no HTTP

        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, self._path)
        body = json.dumps({"instances": list(instances)}).encode()
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", "watcher"), ("Worker-Token", self._token), ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]  # fmt: skip
        request = http.send(h11.Request(method="POST", target=target, headers=headers))
        request = (request or b"") + (http.send(h11.Data(body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        await loop.sock_sendall(connection, request)
        status, said = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await loop.sock_recv(connection, MOST_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                if status == OPEN:
                    return status, b""
            elif isinstance(event, h11.Data):
                said += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return status, said


def _unconnected() -> socket.socket:
    """A socket that a child which this process forks does not keep open."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    in_a_child(made, let_go_of)
    made.setblocking(False)
    return made


def _refusal(status: int, said: bytes) -> _NotWatchedError:
    refused = 400 <= status < 500 and status not in BUSY
    return _NotWatchedError(f"it answered {status}: {_detail(said)}", refused=refused)


def _reason(error: Exception) -> _NotWatchedError:
    """Why the process is not watched, in one sentence."""
    if isinstance(error, _NotWatchedError):
        return error
    if isinstance(error, TimeoutError):
        return _NotWatchedError(f"no answer within {ANSWER_SECONDS:g} s")
    if isinstance(error, OSError):
        return _NotWatchedError(error.strerror or type(error).__name__)
    if type(error).__name__ == "RemoteProtocolError":
        return _NotWatchedError(f"no answer: {type(error).__name__}")
    return _NotWatchedError(told(error))


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])[:200]
    except (ValueError, LookupError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace")
