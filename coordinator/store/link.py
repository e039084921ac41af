"""One connection to the server of one partition, for the event loop: it is made when it is needed, and anew after an error.

A link learns the run id of its server when it connects, and puts it in the place of `SERVER` as it sends. Retries are
off: redis-py would repeat commands that were applied (its issue 3554). The callers repeat what is safe to repeat.
redis-py makes the connection (TLS, log-in, database); from then on its transport belongs to a `Wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address
from coordinator.store.dial import dial, hang_up
from coordinator.store.discovery import AskNode, AskSentinels, Search, learnt_server
from coordinator.store.endpoint import Endpoint
from coordinator.store.faults import connection_error
from coordinator.store.lookout import SURE_SECONDS
from coordinator.store.pace import Pace
from coordinator.store.packing import Packed, pack
from coordinator.store.scripts import Argument
from coordinator.store.url_source import UrlSource
from coordinator.store.wire import Wire

__all__ = ["CONNECT_TIMEOUTS", "Link"]

CONNECT_TIMEOUTS = 3
"""Times the time limit that connecting may take: it needs that many round trips."""
HANDSHAKE_SECONDS = 60.0
"""Longer than anything that is waited for here: this module has its own limits."""


class _Question:
    """A request of `Link.exchange`."""

    def __init__(self, command: Sequence[Argument]) -> None:
        self.packed: Packed = pack(command)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Any, seconds: float) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def unsent(self, error: StoreUnavailableError) -> None:
        self.answered(StoreUnavailableError(error.kind, error.detail, sent=False), 0.0)


class Link:
    """An asyncio connection that is made when first used, and anew after an error.

    Args:
        source: the store's URL.
        key: any key of the partition; in a cluster it decides the server.
        timeout: seconds for which nothing may move while something is awaited.
        free: called when there may be room for more requests.

    Attributes:
        wire: the present connection; None when there is none.
        server: run id of its server, or of the last one.
    """

    def __init__(self, source: UrlSource, key: str, timeout: float, free: Callable[[], None] = lambda: None) -> None:
        self._source, self._key, self._timeout = source, key, timeout
        self._url = source.now()
        self._pace = Pace()
        self._connecting = asyncio.Lock()
        self.free = free
        self.wire: Wire | None = None
        self.server = b""
        self.address: Address | None = None
        self._believed_until = float("-inf")

    @property
    def open(self) -> bool:
        """Whether there is a connection on which requests may be put."""
        return self.wire is not None and self.wire.open and self._is_sure

    @property
    def endpoint(self) -> Endpoint | None:
        """How another program reaches the server of the present connection, or of the last one; None before the first."""
        return None if self.address is None else Endpoint.of(self._source.now(), self.address)

    @property
    def _is_sure(self) -> bool:
        """Whether its server is still the primary; a process that stood still asks the Sentinels before it trusts it again."""
        return self._url.kind != "sentinel" or self._source.lookout.is_sure or clock.now() < self._believed_until

    async def connect(self) -> Wire:
        """The connection; made now unless there is one. Safe to repeat.

        Raises:
            StoreUnavailableError: it could not be made; nothing was sent.
        """
        async with self._connecting:
            if self.wire is not None and self.wire.open and not self._is_sure:
                with contextlib.suppress(StoreUnavailableError):  # where none answers, the old server is the best
                    await self._source.lookout.find(self._timeout)
                if self.address != self._source.lookout.address:
                    self.close("the Sentinels name another primary")
                self._believed_until = clock.now() + SURE_SECONDS
            if self.wire is not None and self.wire.open:
                return self.wire
            self.close()
            try:
                address = await self.find()
                async with asyncio.timeout(CONNECT_TIMEOUTS * self._timeout):  # several round trips
                    wire = await self._make(address)
            except TimeoutError as error:
                detail = f"no connection within {CONNECT_TIMEOUTS * self._timeout:g} s"
                raise StoreUnavailableError("timeout", detail, sent=False) from error
            except Exception as error:
                known = connection_error(error)
                raise StoreUnavailableError(known.kind, known.detail, sent=False) from error
            self.wire, self.address = wire, address
            if self._url.kind == "sentinel":
                self._follow(address)
            return wire

    async def _make(self, address: Address) -> Wire:
        connection = await dial(self._url, address, HANDSHAKE_SECONDS)
        writer, connection._writer, connection._reader = connection._writer, None, None  # it is ours now
        wire = Wire(writer, self._timeout, self._pace, self._freed)
        try:
            question = _Question(("INFO", "server"))
            wire.put(question, b"")
            wire.flush()
            told = await question.future
            if isinstance(told, StoreUnavailableError):
                raise told
            self.server = learnt_server(told, self._source)
        except BaseException as error:
            wire.end(connection_error(error))
            raise
        return wire

    def _freed(self) -> None:
        self.free()

    async def exchange(self, commands: Sequence[Sequence[Argument]], wait: float = 0.0) -> list[Any]:
        """Sends commands and returns their answers; for a connection that one caller at a time has for itself.

        Args:
            wait: seconds for which the server may keep an answer to itself.

        Returns:
            The answers; one that is an error stands there as a `redis.ResponseError`.

        Raises:
            StoreUnavailableError: the connection could not be made or broke; what was sent may have been applied.
            CoordinatorError: a command cannot be packed; no command was sent.
        """
        questions = [_Question(command) for command in commands]
        wire = await self.connect()
        for question in questions:
            wire.put(question, self.server, wait)
        wire.flush()
        try:
            answers = [await question.future for question in questions]
        except BaseException:  # cancelled in the middle: the next answer would go to another caller
            self.close()
            raise
        for answer in answers:
            if isinstance(answer, StoreUnavailableError):
                raise answer
        return answers

    async def find(self) -> Address:
        """The server's address now.

        Raises:
            StoreUnavailableError: no Sentinel or node could tell.
        """
        search = Search(self._source, self._key)
        self._url = search.url
        while search.question is not None:
            try:
                answer = await self._ask(search.question)
            except Exception as error:  # noqa: BLE001 - what it means is not decided here
                search.failed(error)
            else:
                search.answered(answer)
        return search.address

    async def _ask(self, question: AskSentinels | AskNode) -> Any:
        if isinstance(question, AskSentinels):
            return await self._source.lookout.find(self._timeout)
        async with asyncio.timeout(CONNECT_TIMEOUTS * self._timeout):
            connection = await dial(self._url, question.node, self._timeout)
            try:
                await connection.send_command("CLUSTER", "SLOTS", check_health=False)
                return await connection.read_response()
            finally:
                await hang_up(connection)

    def _follow(self, address: Address) -> None:
        """Closes the connection as soon as the Sentinels name another server; the next one goes there."""
        loop, lookout = asyncio.get_running_loop(), self._source.lookout

        def told() -> None:
            if lookout.address != address:
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(self._moved, address)

        lookout.watch(self, told)
        told()

    def _moved(self, address: Address) -> None:
        if self.wire is not None and self.address == address:
            self.close(f"the Sentinels name another primary than {address}")
            self.free()

    def close(self, why: str = "the connection was closed") -> None:
        """Closes the connection at once; callers that await an answer get an error. The next request makes a new one.

        Safe to repeat.
        """
        self._source.lookout.unwatch(self)
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.end(StoreUnavailableError("connection", why))
