"""A call in the hands of a child process, which its parent, the worker, owns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import structlog

from coordinator import clock
from coordinator.bounds import check_json, check_reason, check_seconds
from coordinator.child.frames import Frame, data_of, error_of, frame, parse, with_data
from coordinator.errors import (
    CoordinatorError,
    DataTooLargeError,
    FencedError,
    InvalidDataError,
    SessionGoneError,
    StoreUnavailableError,
    first_error,
)
from coordinator.eventloop import check_event_loop
from coordinator.forked import in_a_child, let_go_of
from coordinator.printable import told

__all__ = ["ChildSession"]

log = structlog.get_logger()

ANSWER_SECONDS = 6.0
"""Longest wait for the parent's answer: it waits four seconds for a store where each try hangs."""
CONNECT_SECONDS = 2.0
LAST_SECONDS = 1.0
"""Longest time in which this process says what is still to be said as it leaves."""
BYTES = 256 * 1024
UNORDERED = ("hello", "alive", "busy")
"""What may be said before data that is staged; everything else has the newest data before it."""
PARENT_ENDED = "its worker ended, or let go of this process"
STANDSTILL_SECONDS = 2.0
"""The parent says where the call stands with each beat; if it says nothing for so long, it stands still, or this process did."""


class ChildSession:
    """One call that the parent process owns: an asynchronous context manager, inside which this process serves the call.

    Leaving it normally closes the call. Leaving it by an error or a cancellation offers the call to other workers, and so does the end
    of this process. This process says regularly that it lives, from its event loop: when that stops for ``wedged_after``, the call
    goes to other workers. No instance, no heartbeat and no connection to Redis belong to it.

    Args:
        address: the parent's, as ``(await worker.channel()).address`` gives it.
        session_id: the call.
        wait: seconds in which the parent is to own the call, or to have an offer of it (`owned`).

    Attributes:
        id, epoch: of the call; the epoch rises when the call is renewed after lost writes.
        pool, tenant, recovered, planned, gap, data_age, previous_owner, cause, attempt: as `coordinator.Session` has them.
        opened_at_ms, began: when the call was first opened, by the server's clock, and as `coordinator.clock.now` has it here.
        lost: set when the worker no longer has the call; final. ``lost_reason`` says why. Stop the media, and do not hang up.
        ended: set when this process closed or released it.
        letting_go: an async function without arguments that is awaited before the call is given to an heir: for the last checkpoint.
            See `coordinator.Session`.
    """

    def __init__(self, address: str, session_id: str, wait: float = 3.0) -> None:
        self.id, self._address, self._wait = session_id, str(address), check_seconds("wait", wait)
        self.epoch = self.attempt = self.opened_at_ms = 0
        self.pool = self.tenant = self.previous_owner = self.cause = self.lost_reason = ""
        self.recovered = self.planned = False
        self.gap = self.data_age = 0.0
        self.began = clock.now()
        self.lost, self.ended = anyio.Event(), anyio.Event()
        self.letting_go: Callable[[], Awaitable[object]] | None = None
        self._raw, self._encoding, self._limit = b"", "bytes", 0
        self._until, self._told_at, self._may_speak = float("-inf"), float("-inf"), False
        self._is_owned = self._over = self._closing = self._writes = False
        self._alive_every = self._told_every = 1.0
        self._said: Frame | None = None
        self._changed = anyio.Event()
        self._answers: dict[int, asyncio.Future[Frame]] = {}
        self._asked = self._busy = 0
        self._lock = threading.Lock()
        self._buffer = b""
        self._outgoing: deque[Frame] = deque()
        self._staged: tuple[bytes, str] | None = None
        self._sock: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard: deque[Frame] = deque()
        self._refused: CoordinatorError | None = None

    # -- beginning and end ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Joins the parent.

        Raises:
            SessionGoneError: the parent neither owns the call nor has an offer of it, or cannot be reached, within ``wait``.
            SessionHeldError: another process serves the call.
            InvalidIdError: nothing was asked.
        """
        check_event_loop("ChildSession")
        self._loop = asyncio.get_running_loop()
        self._event, self._wake = asyncio.Event(), asyncio.Event()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        in_a_child(sock, let_go_of)
        try:
            await asyncio.wait_for(self._loop.sock_connect(sock, self._address), CONNECT_SECONDS)
        except (OSError, TimeoutError) as error:
            sock.close()
            raise SessionGoneError(self.id, f"its worker cannot be reached: {error or 'no answer'}") from error
        self._sock = sock
        in_a_child(self, ChildSession._forked)
        self._loop.add_reader(sock, self._drain)
        self._task = self._loop.create_task(self._live(sock), name=f"channel of {self.id}")
        self._say({"do": "hello", "session": self.id, "wait": self._wait})
        try:
            with anyio.move_on_after(self._wait + CONNECT_SECONDS):
                await self._until_changed(lambda: self._said is not None)
            if self._said is None:
                raise self._refused or SessionGoneError(self.id, self.lost_reason or "its worker does not answer")
        except BaseException:
            await self._hang_up()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if not self._is_owned:
                return
            with contextlib.suppress(CoordinatorError):  # told, and carried out by the parent
                if error is None:
                    await self.close()
                else:
                    with anyio.move_on_after(ANSWER_SECONDS, shield=True):
                        cause = first_error(error) if isinstance(error, BaseExceptionGroup) else error
                        await self.release(f"the process that served it raised {type(cause).__name__}")
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(
                LAST_SECONDS
            ):  # what was asked for is carried out, though nobody waits for the answer
                await self._until_changed(lambda: not (self._outgoing or self._staged or self._writes))
            self._end("it was left")
            if self._task is not None:
                await asyncio.wait([self._task])
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _forked(self) -> None:
        """A child that this process forks has nothing."""
        self._over, self._until, self._may_speak = True, float("-inf"), False
        self._lock = threading.Lock()  # the thread that had it may be missing here
        self.lost_reason = self.lost_reason or "it is the call of the process that forked this one"
        with contextlib.suppress(RuntimeError):  # a task that waits for it waits on an event loop that is gone
            self.lost.set()

    async def leave(self) -> None:
        """Leaves the worker without a word: as the end of this process, unless the call is over or was never owned. Safe to repeat."""
        await self._hang_up()

    @property
    def is_owned(self) -> bool:
        """Whether the worker owns the call, or has owned it; False while it only has an offer of it."""
        return self._is_owned

    @property
    def max_data_bytes(self) -> int:
        """The most bytes of recovery data; 0 before it joined."""
        return self._limit

    async def owned(self) -> None:
        """Says that this process is prepared, and waits until the worker owns the call. Returns at once where it does already.

        A worker's ``prepare`` that waits for `coordinator.worker.channel.Coming.prepared` ends here. Safe to repeat.

        Raises:
            SessionGoneError: the worker did not get the call.
        """
        if not self._is_owned:
            self._say({"do": "prepared"})
            await self._until_changed(lambda: self._is_owned)
        if not self._is_owned:
            raise self._refused or SessionGoneError(self.id, self.lost_reason or "its worker did not get it")

    # -- what this process may believe ---------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """True while no other worker can have adopted the call: as its owner says, asked for at this moment. From any thread."""
        self._drain()
        return not self._over and not self._closing and clock.now() < self._until

    @property
    def may_speak(self) -> bool:
        """True when `held`, and also in doubt as long as the only reason is a store that does not answer. From any thread."""
        if self.held:
            return True
        fresh = clock.now() - self._told_at < max(STANDSTILL_SECONDS, 2 * self._told_every)
        return self._may_speak and fresh and not self._over and not self._closing

    @property
    def recovery_data(self) -> Any:
        """The newest recovery data that this process has written or received, in the form in which it was given."""
        return json.loads(self._raw) if self._encoding == "json" else self._raw

    def _drain(self) -> None:
        """Reads what the parent has said until now: from the event loop, and from whoever asks whether the call is held."""
        with self._lock:
            sock = self._sock
            while sock is not None and not self._over:
                try:
                    some = sock.recv(BYTES)
                except (BlockingIOError, InterruptedError):
                    return
                except OSError:
                    some = b""
                if not some:
                    self._end(PARENT_ENDED)
                    return
                *lines, self._buffer = (self._buffer + some).split(b"\n")
                for line in lines:
                    try:
                        self._hear(parse(line))
                    except (ValueError, KeyError, TypeError) as error:
                        log.error("channel_unreadable", session=self.id, error=told(error))
                        self._end("its worker cannot be understood")
                        return

    def _hear(self, said: Frame) -> None:
        match said.get("is"):
            case "trust":
                self._until, self._may_speak = said["until"] or float("-inf"), said["speak"]
                self._told_at, self.epoch = said["at"], said["epoch"]
            case "coming" | "owned" as what:
                self._said, self._is_owned = said, what == "owned"
                self._raw, self._encoding = data_of(said)
                for name, value in said["about"].items():
                    setattr(self, name, value)
                self.recovered = self.recovered or what == "coming"  # an offer is of a call that another worker had
                self._limit = said["limit"]
                self._alive_every, self._told_every = said["alive_every"], said["told_every"]
            case "refused":
                self._refused = error_of(said)
                self._end(str(self._refused))
            case "lost":
                self._end(said["reason"])
            case "letting_go" | "answer":
                self._heard.append(said)
        self._ring()

    def _ring(self) -> None:
        """Has the event loop look at what was heard, whichever thread this is."""
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits there
            self._loop.call_soon_threadsafe(self._event.set)

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over, self._until, self._may_speak = True, float("-inf"), False
        self.lost_reason = self.lost_reason or reason
        self._ring()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _until_changed(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._over:
            await self._changed.wait()

    async def _live(self, sock: socket.socket) -> None:
        """Everything that goes on beside the program, until the call is over here."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, sock)
                tasks.start_soon(self._say_alive)
                while not self._over:
                    await self._event.wait()
                    self._event.clear()
                    while self._heard:
                        said = self._heard.popleft()
                        if said["is"] == "answer":
                            self._answered(said)
                        else:
                            tasks.start_soon(self._last_words, said["n"])
                    self._change()
                tasks.cancel_scope.cancel()
        finally:
            self._loop.remove_reader(sock)
            self._end("its event loop ends")
            if not self._closing:
                self.lost.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(FencedError(self.id, self.epoch, self.lost_reason))
            self._change()

    async def _say_alive(self) -> None:
        await self._until_changed(lambda: self._is_owned)
        while not self._over:
            self._say({"do": "alive"})
            await anyio.sleep(self._alive_every)

    async def _last_words(self, number: int) -> None:
        failure = ""
        try:
            if self.letting_go is not None:
                await self.letting_go()
        except Exception as error:  # noqa: BLE001 - the program's own code; the parent logs it
            failure = told(error)
        self._say({"do": "said", "n": number, "failure": failure})

    # -- what it asks for ----------------------------------------------------------------------------------------------

    async def checkpoint(self, data: Mapping[str, Any] | bytes) -> None:
        """As `coordinator.Session.checkpoint`. Safe to repeat.

        Raises:
            FencedError: the worker no longer owns the call; final.
            StoreUnavailableError: no answer for six seconds; the data may have been written.
            DataTooLargeError, InvalidDataError, KeyUnknownError: nothing was written.
        """
        raw, encoding = self._encoded(data)
        with self._lock:
            self._staged = None
        await self._ask(with_data({"do": "checkpoint"}, raw, encoding))
        self._raw, self._encoding = raw, encoding

    def stage(self, data: Mapping[str, Any] | bytes) -> None:
        """As `coordinator.Session.stage`: returns at once, and only the newest data is written. From any thread.

        Raises:
            FencedError: the worker no longer owns the call.
            DataTooLargeError, InvalidDataError: nothing is kept.
        """
        raw, encoding = self._encoded(data)
        self._check()
        with self._lock:
            self._staged = self._raw, self._encoding = raw, encoding
        self._stir()

    async def resumed(self) -> None:
        """As `coordinator.Session.resumed`. Safe to repeat.

        Raises:
            FencedError, StoreUnavailableError: as `checkpoint`.
        """
        await self._ask({"do": "resumed"})

    async def close(self) -> None:
        """Ends the call: it is offered to no worker. Safe to repeat.

        This process stops holding it as soon as this is called. The parent carries it out, also where this raises.

        Raises:
            FencedError: another worker has the call, and it goes on there.
            StoreUnavailableError: no answer yet; the call is closed later.
        """
        await self._end_as({"do": "close"})

    async def release(self, reason: str = "") -> None:
        """Gives the call up, with its newest data, to be offered to other workers. The parent carries it out, also where this raises.

        Args:
            reason: as for `coordinator.Session.release`.

        Raises:
            FencedError, StoreUnavailableError: as `close`.
            InvalidValueError: invalid reason; the call is not given up.
        """
        await self._end_as({"do": "release", "reason": check_reason(reason)})

    async def _end_as(self, ask: Frame) -> None:
        if self._closing:
            return
        self._check()
        self._closing = True
        self.ended.set()
        if ask["do"] == "release":  # belief ends before the right does
            self.lost_reason = self.lost_reason or "it was given up here"
            self.lost.set()
        await self._ask(ask, final=True)
        self._end("it ended here")

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Inside this block a planned handover waits for a better moment, as long as its deadline allows."""
        self._busy += 1
        if self._busy == 1:
            self._say({"do": "busy", "on": True})
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._say({"do": "busy", "on": False})

    def _encoded(self, data: Mapping[str, Any] | bytes) -> tuple[bytes, Literal["json", "bytes"]]:
        """As `coordinator.worker.data.encode`, which the parent asks once more."""
        if isinstance(data, bytes | bytearray | memoryview):
            raw, encoding = bytes(data), "bytes"
        elif isinstance(data, Mapping):
            try:
                raw, encoding = (
                    json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(),
                    "json",
                )
            except (TypeError, ValueError, RecursionError):
                raise InvalidDataError("recovery data is not JSON-able, or nested too deep") from None
            raw = check_json("recovery data", raw)
        else:
            raise InvalidDataError(f"recovery data must be a mapping or bytes, not {type(data).__name__}")
        if self._limit and len(raw) > self._limit:
            raise DataTooLargeError(len(raw), self._limit)
        return raw, "json" if encoding == "json" else "bytes"

    def _check(self) -> None:
        if not self._is_owned:
            raise SessionGoneError(self.id, self.lost_reason or "its worker does not own it yet")
        if self._over or self._closing:
            raise FencedError(self.id, self.epoch, self.lost_reason or "it ended here")

    async def _ask(self, ask: Frame, *, final: bool = False) -> Frame:
        if not final:
            self._check()
        self._asked += 1
        number: int = self._asked
        answer: asyncio.Future[Frame] = self._loop.create_future()
        self._answers[number] = answer
        self._say({**ask, "n": number})
        try:
            said = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except TimeoutError:
            raise StoreUnavailableError(
                "timeout", f"its worker, process {os.getppid()} or another, does not answer"
            ) from None
        finally:
            self._answers.pop(number, None)
        if "error" in said:
            error = error_of(said)
            if isinstance(error, FencedError):
                self._end(error.detail)
            raise error
        return said

    def _answered(self, said: Frame) -> None:
        answer = self._answers.get(said["n"])
        if answer is not None and not answer.done():
            answer.set_result(said)

    def _say(self, said: Frame) -> None:
        with self._lock:
            staged, self._staged = (None, self._staged) if said["do"] in UNORDERED else (self._staged, None)
            if staged is not None:
                self._outgoing.append(with_data({"do": "stage"}, *staged))
            self._outgoing.append(said)
        self._stir()

    def _stir(self) -> None:
        """Has the event loop say what is to be said, whichever thread this is."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _write(self, sock: socket.socket) -> None:
        """Says everything in order, the newest staged data last."""
        while not self._over:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing or self._staged:
                self._writes = True
                with self._lock:
                    said = self._outgoing.popleft() if self._outgoing else None
                    if said is None and self._staged is not None:
                        said, self._staged = with_data({"do": "stage"}, *self._staged), None
                if said is not None:
                    try:
                        await self._loop.sock_sendall(sock, frame(said))
                    except OSError:
                        self._end(PARENT_ENDED)
                        return
            self._writes = False
            self._change()
