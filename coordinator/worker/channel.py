"""A worker's channel to its child processes: each serves one call that the worker owns, without Redis, beats or an instance.

The worker listens on a unix socket. With each beat a child is told until when it may believe that the call is held. What ends that
is told before the write that gives the call away is sent: the child reads it at the moment of asking (`coordinator.child`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc
import anyio.lowlevel
import structlog
from anyio.abc import SocketAttribute

from coordinator import clock
from coordinator.bounds import check_seconds, fitted
from coordinator.child.frames import Frame, data_of, frame, parse, told_error, with_data
from coordinator.errors import (
    ConfigurationError,
    CoordinatorError,
    FencedError,
    InvalidValueError,
    SessionGoneError,
    SessionHeldError,
)
from coordinator.forked import in_a_child, let_go_of
from coordinator.ids import check_session_id
from coordinator.printable import printable, told, trace
from coordinator.settings import Settings
from coordinator.steady import Steady
from coordinator.worker.data import decode, encode
from coordinator.worker.liveness import LOOKS
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session

__all__ = ["Channel", "ChannelOwner", "Coming"]

log = structlog.get_logger()

UCRED = struct.Struct("3i")
BYTES = 64 * 1024
"""Read at a time."""
LONGEST_PATH = 100
"""Bytes; the system takes 103 to 107."""
MOST_WAITING = 100
"""Requests of one child that wait for the one before."""
MOST_WAIT_SECONDS = 60.0
HELLO_SECONDS = 5.0
OVERHEAD_BYTES = 16 * 1024
ABOUT = (
    "pool", "tenant", "recovered", "planned", "gap", "data_age", "previous_owner", "cause", "attempt", "opened_at_ms",
    "began", "epoch",
)  # fmt: skip


class ChannelOwner(Protocol):
    """The worker, as far as its channel is concerned."""

    settings: Settings

    def owned(self, session_id: str) -> Session | None:
        """The session of that id, if the worker owns it."""

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Runs a function as a task that ends with the worker."""

    def watch_beats(self, session_id: str, told: Callable[[], None]) -> Callable[[], None]:
        """Has ``told`` called after each beat of that session's partition, in the thread that beats; returns what ends that."""


class Coming:
    """An offer for which a child prepares."""

    def __init__(self, offer: Offer[Any]) -> None:
        self.offer = offer
        self._prepared = anyio.Event()
        self._ended = ""

    async def prepared(self) -> None:
        """Waits until the child says that it is prepared (`ChildSession.owned`).

        Raises:
            SessionGoneError: the child ended before.
        """
        await self._prepared.wait()
        if self._ended:
            raise SessionGoneError(self.offer.session_id, self._ended)

    def is_prepared(self) -> None:
        """The child is prepared. For the channel."""
        self._prepared.set()

    def child_ended(self, reason: str) -> None:
        """The child is gone. For the channel."""
        if not self._prepared.is_set():
            self._ended = reason
            self._prepared.set()


class Channel:
    """One per worker; its `address` stays the same, and ends with the worker.

    Any process of the same user that knows the address can serve a call of this worker with
    ``coordinator.ChildSession(address, session_id)``. The directory of the socket belongs to the user alone.

    Attributes:
        address: the path of the socket; text, so that it can stand in an environment or in arguments.
    """

    def __init__(self, owner: ChannelOwner) -> None:
        self._owner = owner
        self._directory = _directory()
        self.address = str(Path(self._directory) / "channel")
        self._coming: dict[str, Coming] = {}
        self._lines: dict[str, ChildLine] = {}
        self._changed = anyio.Event()
        self._steady = Steady("channel")
        in_a_child(self, Channel._forked)

    def _forked(self) -> None:
        self._directory = ""  # it is the parent's to remove

    async def open(self) -> None:
        """Listens from now on.

        Raises:
            ConfigurationError: no socket can be made there.
        """
        try:
            listener = await anyio.create_unix_listener(self.address, mode=0o600)
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            raise ConfigurationError(f"channel: {self.address} cannot be made: {error.strerror or error}") from error
        in_a_child(_socket_of(listener), let_go_of)
        self._owner.start(self._listen, listener)

    async def _listen(self, listener: anyio.abc.SocketListener) -> None:
        try:
            async with listener, anyio.create_task_group() as tasks:
                while True:
                    try:
                        await listener.serve(self._serve, tasks)
                    except (
                        anyio.BrokenResourceError
                    ) as error:  # no descriptor is left, say: the children that are here go on
                        cause = error.__cause__
                        await anyio.sleep(self._steady.failed(cause if isinstance(cause, OSError) else error))
        finally:
            self.close()

    def close(self) -> None:
        """Removes the socket. Safe to repeat."""
        directory, self._directory = self._directory, ""
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def expects(self, offer: Offer[Any]) -> Iterator[Coming]:
        """Inside this block a child can join for a call that is only offered, and prepare for it.

        It is for the ``prepare`` of `Worker.serve`: start the child inside the block, await `Coming.prepared`, and yield. The child
        hears of the adoption by itself.

        Raises:
            SessionHeldError: another block expects a child for that call.
        """
        if offer.session_id in self._coming:
            raise SessionHeldError(offer.session_id, "", "expected already")
        coming = self._coming[offer.session_id] = Coming(offer)
        self.changed()
        try:
            yield coming
        finally:
            del self._coming[offer.session_id]
            self.changed()

    def changed(self) -> None:
        """A session is owned, a child has gone, or an offer is expected: who waits for one looks again. For the library."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        self._steady.well()
        try:
            async with stream:
                raw = _socket_of(stream)
                in_a_child(raw, let_go_of)
                process = _peer(raw)
                if process is not None:
                    await ChildLine(self, self._owner, raw, process).serve()
        except Exception as error:  # noqa: BLE001 - one child's; the worker and the others go on
            log.error("child_failed", exception=trace(error))

    async def join(self, session_id: str, line: ChildLine, wait: float) -> Session | Coming:
        """The session or offer that a child is to serve. For the channel's lines.

        Raises:
            SessionGoneError: neither comes within ``wait`` seconds.
            SessionHeldError: another child serves it, and goes on after so many seconds.
        """
        with anyio.move_on_after(wait):
            while (found := self._free(session_id)) is None:
                await self._changed.wait()
            self._lines[session_id] = line
            return found
        if other := self._lines.get(session_id):
            raise SessionHeldError(session_id, other.process)
        raise SessionGoneError(session_id, "its worker does not own it")

    def _free(self, session_id: str) -> Session | Coming | None:
        if session_id in self._lines:
            return None
        session = self._owner.owned(session_id)
        return session if session is not None and not session.is_given_away else self._coming.get(session_id)

    async def adopted(self, coming: Coming) -> Session:
        """Waits until the worker owns what was offered. For the channel's lines.

        Raises:
            SessionGoneError: it did not get it.
        """
        session_id = coming.offer.session_id
        while (session := self._owner.owned(session_id)) is None:
            if self._coming.get(session_id) is not coming:
                raise SessionGoneError(session_id, "its worker did not get it")
            await self._changed.wait()
        return session

    def left(self, session_id: str, line: ChildLine) -> None:
        """A child has gone. For the channel's lines."""
        if self._lines.get(session_id) is line:
            del self._lines[session_id]
            self.changed()


class ChildLine:
    """One child, from its first word to its end."""

    def __init__(self, channel: Channel, owner: ChannelOwner, raw: socket.socket, process: str) -> None:
        self._channel, self._owner, self._raw, self.process = channel, owner, raw, process
        most = 2 * owner.settings.max_data_bytes + OVERHEAD_BYTES
        self._unread, self._most = bytearray(), most
        self._session: Session | None = None
        self._coming: Coming | None = None
        self._lock = threading.Lock()
        self._grants = self._ended = self._asked_to_end = False
        self._asked: deque[Frame] = deque()
        self._work = anyio.Event()
        self._words: dict[int, anyio.Event] = {}
        self._words_asked = 0
        self._busy: contextlib.AbstractContextManager[None] | None = None
        self._process = os.getpid()

    async def serve(self) -> None:
        """Until the child or the session has gone."""
        with anyio.move_on_after(HELLO_SECONDS) as hello:
            said = await self._next()
        if hello.cancel_called or said is None:
            return
        session_id = ""
        try:
            if said.get("do") != "hello":
                raise InvalidValueError("do", said.get("do"), "hello, which comes first")
            session_id = check_session_id(said.get("session", ""))
            wait = min(check_seconds("wait", said.get("wait", 0.0)), MOST_WAIT_SECONDS)
            if (found := await self._join(session_id, wait)) is not None:
                await self._serve(found)
        except CoordinatorError as error:
            self._say({"is": "refused", **told_error(error)})
        finally:
            self._channel.left(session_id, self)

    async def _join(self, session_id: str, wait: float) -> Session | Coming | None:
        """As `Channel.join`; None when the child has gone meanwhile. It says nothing before it is answered."""
        found: Session | Coming | None = None
        error: CoordinatorError | None = None
        async with anyio.create_task_group() as tasks:

            async def end_with_child() -> None:
                await anyio.wait_readable(self._raw)
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_with_child)
            try:
                found = await self._channel.join(session_id, self, wait)
            except CoordinatorError as fault:
                error = fault
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        return found

    async def _serve(self, found: Session | Coming) -> None:
        try:
            await self._serve_until_it_ends(found)
        finally:
            if self._coming is not None and self._session is None:
                self._coming.child_ended(f"{self.process}, which prepared for it, ended")

    async def _serve_until_it_ends(self, found: Session | Coming) -> None:
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                try:
                    while (said := await self._next()) is not None:
                        self._hear(said)
                finally:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(read)
            try:
                if isinstance(found, Coming):
                    self._coming = found
                    await self._tell_all("coming", found.offer, found.offer.raw_data, found.offer.encoding)
                    found = await self._channel.adopted(found)
                await self._serve_owned(found)
            except CoordinatorError as error:
                self._say({"is": "refused", **told_error(error)})
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # the child has ended
                pass
            tasks.cancel_scope.cancel()

    async def _serve_owned(self, session: Session) -> None:
        session.served_by_handler, self._session = True, session
        session.alive(self.process)  # from here on the child is to say so, also one that stands still as it begins
        stop = self._owner.watch_beats(session.id, self._tell)
        session.watchers = (*session.watchers, self._tell)
        try:
            async with anyio.create_task_group() as tasks:

                async def end(event: anyio.Event) -> None:
                    await event.wait()
                    if not self._asked_to_end:  # else it has its answer first
                        tasks.cancel_scope.cancel()

                tasks.start_soon(end, session.lost)
                tasks.start_soon(end, session.ended)
                raw, encoding = encode(session.recovery_data, self._most)
                await self._tell_all("owned", session, raw, encoding)
                await anyio.wait_writable(self._raw)  # there is room for what ends belief, as nothing waits then
                self._grants = True
                self._tell()
                with self._has_the_last_words(session):
                    await self._do_all(session)
                tasks.cancel_scope.cancel()
        finally:
            self._grants = False
            stop()
            session.watchers = tuple(one for one in session.watchers if one != self._tell)
            with anyio.CancelScope(shield=True):
                await self._end(session)

    @contextlib.contextmanager
    def _has_the_last_words(self, session: Session) -> Iterator[None]:
        before = session.letting_go

        async def letting_go() -> None:
            await self._letting_go()
            if before is not None:
                await before()

        session.letting_go = letting_go
        try:
            yield
        finally:
            if session.letting_go is letting_go:
                session.letting_go = before

    async def _end(self, session: Session) -> None:
        """The session went away, and the child is told; or the child did, and the session is offered to other workers."""
        if self._busy is not None:
            self._busy.__exit__(None, None, None)
        for words in self._words.values():  # which nobody will say
            words.set()
        if session.is_over or session.ending is not None:
            if not self._asked_to_end:
                self._say({"is": "lost", "reason": session.lost_reason or "the call ended here"})
            return
        reason = fitted(f"{self.process}, which served it, ended")
        self._say({"is": "lost", "reason": reason})  # it may live, and is to stop before the call is given away
        while self._asked and not self._asked_to_end:  # what it said before it ended counts
            await self._do_last(session, self._asked.popleft())
        if session.is_over or session.ending is not None:
            return
        log.warning("child_ended", session=session.id, process=self.process)
        with contextlib.suppress(CoordinatorError):  # told, and carried out later
            await session.release(reason)

    async def _do_last(self, session: Session, said: Frame) -> None:
        """Data goes along as the call is given away, so that nothing waits; an end is carried out as it was asked for."""
        what = said.get("do")
        self._asked_to_end = what in ("close", "release")
        try:
            if what in ("checkpoint", "stage"):
                session.stage(decode(*data_of(said)))
            elif self._asked_to_end:
                await self._do(session, said)
        except (CoordinatorError, ValueError) as error:
            log.warning("child_ended", session=session.id, process=self.process, error=told(error))

    # -- what the child is told ----------------------------------------------------------------------------------------

    async def _tell_all(self, what: str, of: Session | Offer[Any], raw: bytes, encoding: str) -> None:
        s = self._owner.settings
        times = {"alive_every": s.wedged_after / LOOKS, "told_every": s.heartbeat_interval}
        said = with_data({"is": what, "limit": s.max_data_bytes, **times}, raw, encoding)
        said["about"] = {name: getattr(of, name) for name in ABOUT if hasattr(of, name)}
        await self._send_whole(frame(said))

    async def _send_whole(self, line: bytes) -> None:
        """Sends what may be larger than the socket's room, which the child makes by reading.

        Raises:
            anyio.BrokenResourceError: the child has ended.
        """
        left = memoryview(line)
        while left:
            try:  # a stream of anyio fails on uvloop when this is cancelled
                left = left[self._raw.send(left, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)) :]
            except BlockingIOError:
                await anyio.wait_writable(self._raw)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    def _tell(self) -> None:
        """Until when the child may believe that the call is held. From any thread; it never waits."""
        session = self._session
        if session is None or not self._grants or os.getpid() != self._process:  # a fork says nothing for its parent
            return
        with self._lock:
            until = session.held_until
            now = clock.now()
            self._send(
                frame(
                    {
                        "is": "trust",
                        "until": until if until > now else 0,
                        "at": now,
                        "speak": session.may_speak,
                        "epoch": session.epoch,
                    }
                )
            )

    def _say(self, said: Frame) -> None:
        with self._lock:
            self._send(frame(said))

    def _send(self, line: bytes) -> None:
        """A child that does not read ends: what it does not know would be worse."""
        if self._ended:
            return
        try:
            whole = self._raw.send(line, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)) == len(line)
        except OSError:
            whole = False
        if not whole:
            self._ended = True
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)

    async def _letting_go(self) -> None:
        """Has the child say its last words; `coordinator.worker.last_words` bounds the time."""
        if not self._grants:  # it has ended meanwhile
            return
        self._words_asked += 1
        number, done = self._words_asked, anyio.Event()
        self._words[number] = done
        self._say({"is": "letting_go", "n": number})
        try:
            await done.wait()
        finally:
            self._words.pop(number, None)

    # -- what the child says -------------------------------------------------------------------------------------------

    async def _next(self) -> Frame | None:
        """The next thing that the child says; None when it has ended."""
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > self._most:
                log.error("child_unreadable", process=self.process, error=f"a line of more than {self._most} bytes")
                return None
            if not (some := await self._received()):
                return None
            self._unread += some
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        try:
            return parse(line)
        except ValueError as error:
            log.error("child_unreadable", process=self.process, error=told(error))
            return None

    async def _received(self) -> bytes:
        """What came; nothing when the child has ended. A stream of anyio fails on uvloop when its reading is cancelled."""
        await anyio.lowlevel.checkpoint()  # a child that never pauses takes no turn of others
        while True:
            try:
                return self._raw.recv(BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await anyio.wait_readable(self._raw)
            except OSError:
                return b""

    def _hear(self, said: Frame) -> None:
        session = self._session
        match said.get("do"):
            case "prepared" if self._coming is not None:
                self._coming.is_prepared()
            case _ if session is None:
                return
            case "alive":
                session.alive(self.process)
            case "busy":
                self._busy_now(session, bool(said.get("on")))
            case _ if len(self._asked) < MOST_WAITING:
                self._asked.append(said)
                self._work.set()
            case _:
                log.error("child_asks_too_much", session=session.id, process=self.process)
                with contextlib.suppress(OSError):
                    self._raw.shutdown(socket.SHUT_RDWR)

    def _busy_now(self, session: Session, yes: bool) -> None:
        if yes and self._busy is None:
            self._busy = session.busy()
            self._busy.__enter__()
        elif not yes and self._busy is not None:
            busy, self._busy = self._busy, None
            busy.__exit__(None, None, None)

    async def _do_all(self, session: Session) -> None:
        """What the child asks for, one after the other, until it has asked for the end."""
        while not self._asked_to_end:
            if not self._asked:
                self._work = anyio.Event()
                await self._work.wait()
            said = self._asked.popleft()
            self._asked_to_end = said.get("do") in ("close", "release")
            with anyio.CancelScope(shield=self._asked_to_end):
                try:
                    answer = await self._do(session, said)
                except CoordinatorError as error:
                    answer = told_error(error)
                    if isinstance(error, InvalidValueError):
                        self._asked_to_end = False
                    if "n" not in said and not isinstance(error, FencedError):
                        log.error("staged_data_refused", session=session.id, process=self.process, error=told(error))
                if "n" in said and said.get("do") != "said":
                    self._say({"is": "answer", "n": said["n"], **answer})

    async def _do(self, session: Session, said: Frame) -> Frame:
        what = said.get("do")
        if what in ("checkpoint", "stage"):
            try:
                data = decode(*data_of(said))
            except ValueError as error:
                raise InvalidValueError("data", what, f"readable recovery data ({told(error)})") from None
            if what == "stage":
                session.stage(data)
            else:
                await session.checkpoint(data)
        elif what == "resumed":
            await session.resumed()
        elif what in ("close", "release"):
            await (session.close() if what == "close" else session.release(said.get("reason", "")))
        elif what == "said":  # what was asked before is done by now
            if failure := said.get("failure"):
                log.error("letting_go_failed", session=session.id, process=self.process, error=printable(str(failure)))
            await session.flush()
            if (words := self._words.get(said.get("n", 0))) is not None:
                words.set()
        else:
            raise InvalidValueError("do", what, "something that a child can ask for")
        return {}


def _socket_of(what: anyio.TypedAttributeProvider) -> socket.socket:
    return what.extra(SocketAttribute.raw_socket)  # noqa: S610 - this is no Django


def _directory() -> str:
    """A directory for a socket, whose path must be short."""
    for parent in (None, "/tmp"):  # noqa: S108 - made by mkdtemp, for this user alone
        with contextlib.suppress(OSError):
            directory = tempfile.mkdtemp(prefix="recovery-", dir=parent)
            if len(os.fsencode(directory)) < LONGEST_PATH - 10:
                return directory
            Path(directory).rmdir()
    raise ConfigurationError(
        "channel: no directory for temporary files can be written that has a path of fewer than 90 bytes"
    )


def _peer(raw: socket.socket) -> str | None:
    """The process at the other end, for people; None when it belongs to another user."""
    if not hasattr(socket, "SO_PEERCRED"):
        return "a child"
    pid, uid, _ = UCRED.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    if uid not in (os.geteuid(), 0):
        log.warning("child_refused", process=pid, uid=uid)
        return None
    return f"process {pid}"
