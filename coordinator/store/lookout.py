"""Where the primary is that the Sentinels name now: a process asks them, and all its connections go by that.

A server that was replaced may answer for ten seconds more, so a program that asks only when a connection breaks stays there.
A thread for each Sentinel asks it four times a second, so that one that hangs delays no other, and at once when a connection
is made. It is asked, not listened to: what it publishes would come a tenth of a second sooner, but not at all over a
connection that was dropped on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import redis
import structlog

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.forked import in_a_child
from coordinator.store.address import Address
from coordinator.store.dial import dial_in_a_thread
from coordinator.store.faults import connection_error
from coordinator.store.named import Named, View, choose, view_of
from coordinator.store.url import StoreUrl

__all__ = ["SURE_SECONDS", "Lookout"]

log = structlog.get_logger()

ASK_SECONDS = 0.25
DETAIL_SECONDS = 1.0
"""Between two questions for more than the address: those answers are long, and a deployment may have a thousand processes."""
SLICE_SECONDS = 0.05
SURE_SECONDS = 1.0
"""For so long after most Sentinels were asked their answer is relied on: less than the shortest silence that means death."""


class Lookout:
    """Asks all Sentinels of the store's URL, from the first question on. Every method may be called from any thread.

    Args:
        source: returns the URL now.
    """

    def __init__(self, source: Callable[[], StoreUrl]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._askers: dict[Address, _Asker] = {}
        self._views: dict[Address, View] = {}
        self._told: dict[object, Callable[[], None]] = {}
        self._timeout = 0.5
        self._ended = False
        self.named: Named | None = None
        self._sure_until = float("-inf")
        self._relied_on: Address | None = None
        in_a_child(self, Lookout._forked)

    @property
    def is_sure(self) -> bool:
        """Whether most Sentinels were asked within a second, with or without an answer; False after this process stood still."""
        return clock.now() < self._sure_until

    @property
    def address(self) -> Address | None:
        """Address of the primary; None before a Sentinel named one."""
        return None if self.named is None else self.named.address

    @property
    def others(self) -> tuple[Address, ...]:
        """Servers that still take themselves for the primary, as the Sentinels see them."""
        return () if self.named is None else self.named.others

    def watch(self, who: object, told: Callable[[], None]) -> None:
        """Calls ``told`` after each answer of a Sentinel, in the lookout's thread; it must be quick and raise nothing."""
        with self._lock:
            self._told[who] = told

    def unwatch(self, who: object) -> None:
        """Ends `watch`. Safe to repeat."""
        with self._lock:
            self._told.pop(who, None)

    async def find(self, timeout: float) -> Address:
        """The primary's address, asked for anew; the one that was named last where no Sentinel answers any more.

        Args:
            timeout: seconds for which a Sentinel may delay its answer.

        Raises:
            StoreUnavailableError: no Sentinel knows, and none ever did.
        """
        changed, loop, me = asyncio.Event(), asyncio.get_running_loop(), object()

        def told() -> None:
            with contextlib.suppress(RuntimeError):  # that loop has ended meanwhile
                loop.call_soon_threadsafe(changed.set)

        since = clock.now()
        self.watch(me, told)
        try:
            self._ask_now(timeout)
            while not self._settled(since, timeout):
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SLICE_SECONDS):
                        await changed.wait()
        finally:
            self.unwatch(me)
        return self._answer(since)

    def find_in_a_thread(self, timeout: float, on_wait: Callable[[], None]) -> Address:
        """As `find`, for a thread; ``on_wait`` is called at least every slice."""
        changed, me = threading.Event(), object()
        since = clock.now()
        self.watch(me, changed.set)
        try:
            self._ask_now(timeout)
            while not self._settled(since, timeout):
                on_wait()
                changed.wait(SLICE_SECONDS)
                changed.clear()
        finally:
            self.unwatch(me)
        return self._answer(since)

    def _settled(self, since: float, timeout: float) -> bool:
        """Whether as many Sentinels have answered as will in time: most of them, or all that answer at all."""
        url, views = self._source(), dict(self._views)
        now = [views[one] for one in url.addresses if one in views and views[one].at >= since]
        answers = sum(view.address is not None for view in now)
        if 2 * answers > len(url.addresses) or len(now) == len(url.addresses):
            return True
        return clock.now() - since > (1 if answers else 3) * timeout

    def _answer(self, since: float) -> Address:
        named, url, views = self.named, self._source(), dict(self._views)
        told = any(view.address is not None and view.at >= since for view in views.values())
        if told:
            self._relied_on = None
        elif named is not None and named.address != self._relied_on:
            self._relied_on = named.address
            log.warning("sentinels_silent", service=url.service, goes_on_with=str(named.address))
        if named is not None:  # without another answer, the one from before
            return named.address
        asked = [
            f"{one}: {view.error}" if view.error else f"{one} does not know"
            for one in url.addresses
            if (view := views.get(one, View(0.0, error="no answer in time")))
        ]
        raise StoreUnavailableError("cluster_down", "; ".join(asked), sent=False)

    def _ask_now(self, timeout: float) -> None:
        with self._lock:
            if self._ended:
                raise StoreUnavailableError("connection", "the connection was closed", sent=False)
            self._timeout = timeout
            self._ask_those_of_the_url()
            for asker in self._askers.values():
                asker.ask_now(timeout)

    def _ask_those_of_the_url(self) -> None:
        """Keeps one thread for each Sentinel of the URL, and none for others. The lock is held."""
        addresses = self._source().addresses
        for address in {*self._askers} - {*addresses}:
            self._askers.pop(address).end()
            self._views = {one: view for one, view in self._views.items() if one != address}
        for address in addresses:
            asker = self._askers.get(address)
            if asker is None or not asker.is_alive():
                asker = self._askers[address] = _Asker(self._source, address, self._timeout, self._saw)
                asker.start()

    def close(self) -> None:
        """Ends the threads, each after its present question. Safe to repeat."""
        with self._lock:
            self._ended, self._told = True, {}
            for asker in self._askers.values():
                asker.end()

    def _forked(self) -> None:
        """In a forked child: threads and connections stay the parent's."""
        self._lock = threading.Lock()
        self.named, self._sure_until = None, float("-inf")
        self._askers, self._views, self._told = {}, {}, {}

    def _saw(self, address: Address, view: View) -> None:
        """Takes an answer, in the thread of its Sentinel."""
        with self._lock:
            if self._ended or address not in self._askers:
                return
            self._ask_those_of_the_url()
            self._views = {**self._views, address: view}
            asked = sorted((one.at for one in self._views.values()), reverse=True)
            most = len(self._askers) // 2
            if len(asked) > most:
                self._sure_until = asked[most] + SURE_SECONDS
            before, self.named = self.named, choose(self._views.values(), self.named, clock.now())
            now, told = self.named, list(self._told.values())
        if now is not None and before is not None and now.address != before.address:
            log.warning(
                "primary_replaced", service=self._source().service, was=str(before.address), now=str(now.address)
            )
        for one in told:
            one()


class _Asker(threading.Thread):
    """Asks one Sentinel, again and again over one connection.

    Args:
        source: returns the URL now.
        timeout: seconds for which the Sentinel may delay its answer.
        saw: called with each answer, also with an error in place of one.
    """

    def __init__(
        self, source: Callable[[], StoreUrl], address: Address, timeout: float, saw: Callable[[Address, View], None]
    ) -> None:
        super().__init__(name=f"sentinel-{address}", daemon=True)
        self._source, self._address, self._saw = source, address, saw
        self._wake, self._ended, self._timeout = threading.Event(), False, timeout
        self._connection: Any = None
        self._url: StoreUrl | None = None
        self._named: Any = None
        self._detail: list[Any] = [None, None]
        self._detailed_at = float("-inf")

    def ask_now(self, timeout: float) -> None:
        """Asks before its next turn, and has that time limit from now on."""
        self._timeout = timeout
        self._wake.set()

    def end(self) -> None:
        """Ends the thread after the present question."""
        self._ended = True
        self._wake.set()

    def run(self) -> None:
        """Asks until ended."""
        try:
            while not self._ended:
                self._wake.clear()
                self._saw(self._address, self._look())
                self._wake.wait(ASK_SECONDS)
        finally:
            self._hang_up()

    def _look(self) -> View:
        asked_at = clock.now()  # an answer may have waited here while this process stood still
        try:
            url = self._source()
            if url is not self._url:  # its passwords may have changed
                self._hang_up()
            if self._connection is None:
                self._url = url
                timeout = min(self._timeout, SURE_SECONDS / 2)  # one that hangs is asked again while that lasts
                self._connection = dial_in_a_thread(url, self._address, timeout, sentinel=True)
            return self._ask(url.service, asked_at)
        except Exception as error:  # noqa: BLE001 - a Sentinel that answers nonsense does not know
            self._hang_up()
            return View(asked_at, error=str(connection_error(error)))

    def _ask(self, service: str, asked_at: float) -> View:
        """Asks for the address first, so that the epoch is never older than the address."""
        named = self._answers(("get-master-addr-by-name", service))[0]
        if isinstance(named, Exception):
            raise named
        if named != self._named or clock.now() - self._detailed_at > DETAIL_SECONDS:
            self._detail = self._answers(("MASTER", service), ("REPLICAS", service))
            self._named, self._detailed_at = named, clock.now()
        return view_of(asked_at, named, *self._detail)

    def _answers(self, *commands: tuple[str, str]) -> list[Any]:
        """The answer to each command; an error, as of a missing right, stands in its place."""
        for command in commands:
            self._connection.send_command("SENTINEL", *command, check_health=False)
        found: list[Any] = []
        for _ in commands:
            try:
                found.append(self._connection.read_response())
            except redis.ResponseError as error:
                found.append(error)
        return found

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # a closed connection cannot fail any more
                connection.disconnect()
