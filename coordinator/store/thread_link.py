"""One connection to the server of one partition, for a thread. It blocks, but calls the thread's function every slice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import redis

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address
from coordinator.store.dial import dial_in_a_thread
from coordinator.store.discovery import AskNode, AskSentinels, Search, learnt_server
from coordinator.store.faults import connection_error, moves_the_server, store_error
from coordinator.store.pace import allowance
from coordinator.store.packing import Packed, pack
from coordinator.store.url_source import UrlSource
from coordinator.store.wire import MORE, answers, in_the_kernel

__all__ = ["ThreadLink"]

WAIT_SLICE_SECONDS = 0.05
LONGEST = 1.5
"""Times the time limit that an exchange may take in all: a later answer is of no use to the thread that beats."""
READ_BYTES = 65536


class ThreadLink:
    """As `coordinator.store.link.Link`, for a thread.

    Args:
        source: the store's URL.
        key: any key of the partition.
        timeout: seconds for which nothing may move while an answer is awaited.
        on_wait: called at least every slice while it waits.
        longest: seconds that one exchange may take in all; then no answer is awaited any more, but one that has begun to
            arrive is read to its end. Default one and a half times the time limit.
    """

    def __init__(
        self,
        source: UrlSource,
        key: str,
        timeout: float,
        on_wait: Callable[[], None] = lambda: None,
        longest: float | None = None,
    ) -> None:
        self._source, self._key, self._timeout = source, key, timeout
        self._longest = LONGEST * timeout if longest is None else longest
        self._url = source.now()
        self._connection: Any = None
        self._address: Address | None = None
        self.on_wait = on_wait
        self.server = b""

    def exchange(self, commands: Sequence[Packed]) -> list[Any]:
        """Sends commands and reads their answers; connecting, where needed, has its own time limit.

        Returns:
            For each command its answer; a `redis.ResponseError` where that is an error; a `StoreUnavailableError` where there
            is none.
        """
        found: list[Any] = []
        if self._url.kind == "sentinel" and self._connection is not None:
            self._follow()
        try:
            if self._connection is None:
                self._connect()
        except Exception as error:  # noqa: BLE001 - any error of a connection means that there is none
            self.close()
            known = connection_error(error)
            return [StoreUnavailableError(known.kind, known.detail, sent=False) for _ in commands]
        try:
            _Exchange(self._connection._sock, self._timeout, self._longest, self.on_wait).run(
                [command.to(self.server) for command in commands], found
            )
        except Exception as error:  # noqa: BLE001
            self.close()
            known = connection_error(error)
            found += [StoreUnavailableError(known.kind, known.detail) for _ in commands[len(found) :]]
        for answer in found:
            if isinstance(answer, redis.ResponseError):
                fault = store_error(answer)
                if isinstance(fault, StoreUnavailableError) and moves_the_server(fault):
                    self.close()
        return found

    def _greet(self, connection: Any) -> None:
        """Logs in. Connecting and logging in may each take nearly as long as the time limit, so the thread is told between."""
        self.on_wait()
        connection.on_connect()
        self.on_wait()

    def _follow(self) -> None:
        """Leaves a server when the Sentinels name another, whatever this one answers; after a pause it asks them first."""
        lookout = self._source.lookout
        if not lookout.is_sure:
            with contextlib.suppress(StoreUnavailableError):  # where none answers, the old server is the best
                lookout.find_in_a_thread(self._timeout, self.on_wait)
        if lookout.address not in (None, self._address):
            self.close()

    def _connect(self) -> None:
        self._address = self._find()
        self._connection = dial_in_a_thread(self._url, self._address, self._timeout, self._greet)
        found: list[Any] = []
        _Exchange(self._connection._sock, self._timeout, self._longest, self.on_wait).run(
            [pack(("INFO", "server")).to(b"")], found
        )
        self.server = learnt_server(found[0], self._source)

    def _find(self) -> Address:
        search = Search(self._source, self._key)
        self._url = search.url
        while search.question is not None:
            try:
                answer = self._ask(search.question)
            except Exception as error:  # noqa: BLE001 - what it means is not decided here
                search.failed(error)
            else:
                search.answered(answer)
        return search.address

    def _ask(self, question: AskSentinels | AskNode) -> Any:
        if isinstance(question, AskSentinels):
            return self._source.lookout.find_in_a_thread(self._timeout, self.on_wait)
        self.on_wait()
        connection = dial_in_a_thread(self._url, question.node, self._timeout, self._greet)
        try:
            connection.send_command("CLUSTER", "SLOTS", check_health=False)
            return connection.read_response()
        finally:
            connection.disconnect()

    def close(self) -> None:
        """Closes the connection; the next exchange makes a new one. Safe to repeat."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # a closed connection cannot fail any more
                connection.disconnect()


class _Exchange:
    """One exchange on a socket: how long nothing has moved, and how long it takes in all.

    Only time in which this thread ran counts: a thread that stood still saw nothing meanwhile.
    """

    def __init__(self, sock: Any, timeout: float, longest: float, on_wait: Callable[[], None]) -> None:
        self._sock, self._timeout, self._longest, self._on_wait = sock, timeout, longest, on_wait
        self._answers = answers()
        self._quiet = self._spent = 0.0
        self._partial = False
        self._looked = clock.now()
        self._gone = self._written = self._size = 0
        sock.settimeout(WAIT_SLICE_SECONDS)

    def run(self, requests: Sequence[bytes], found: list[Any]) -> None:
        """Sends requests, and appends their answers to ``found`` as they come.

        Raises:
            StoreUnavailableError: nothing moved for too long, or it took too long in all.
            OSError, redis.RedisError, or another error of a connection: it broke.
        """
        self._size = len(requests[0]) if requests else 0
        self._send(b"".join(requests))
        for request in requests:
            self._size = len(request)
            found.append(self._receive())

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                sent = self._sock.send(left[:READ_BYTES])
            except TimeoutError:
                self._waited()
            else:
                left, self._written = left[sent:], self._written + sent
                self._moved()

    def _receive(self) -> Any:
        self._on_wait()
        while (answer := self._answers.gets()) is MORE:
            try:
                data = self._sock.recv(READ_BYTES)
            except TimeoutError:
                self._waited()
                continue
            if not data:
                raise redis.ConnectionError("the connection was closed by the server")
            self._answers.feed(data)
            self._partial = True
            self._moved()
        self._partial = bool(self._answers.has_data())
        return answer

    def _moved(self) -> None:
        self._on_wait()
        self._pass()
        self._quiet = 0.0

    def _pass(self) -> float:
        now = clock.now()
        passed = min(now - self._looked, 2 * WAIT_SLICE_SECONDS)
        self._looked = now
        self._spent += passed
        return passed

    def _waited(self) -> None:
        """Counts a slice in which nothing arrived, and nothing could be sent."""
        self._on_wait()
        passed = self._pass()
        gone = self._written - in_the_kernel(self._sock)
        self._quiet = 0.0 if gone > self._gone else self._quiet + passed
        self._gone = gone
        limit = self._timeout + allowance(self._size, part_of_answer=self._partial)
        if self._quiet > limit or (self._spent > self._longest and not self._partial):
            raise StoreUnavailableError("timeout", f"no answer within {self._spent:.2g} s")
