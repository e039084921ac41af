"""Where the primary is that the Sentinels name now: one thread of a process asks, and all its connections go by that.

A server that was replaced may answer for ten seconds more, so who only asks when a connection breaks stays there. Each Sentinel
is asked twice a second, and at once when one of them says that there was a switch or when somebody connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import structlog

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.forked import in_a_child
from coordinator.store.address import Address
from coordinator.store.dial import dial, hang_up
from coordinator.store.faults import connection_error
from coordinator.store.named import Named, View, choose, view_of
from coordinator.store.url import StoreUrl

__all__ = ["Lookout"]

log = structlog.get_logger()

ASK_SECONDS = 0.5
SLICE_SECONDS = 0.05
LISTEN_AGAIN_SECONDS = 2.0
SWITCHED = b"+switch-master"


class Lookout:
    """Asks all Sentinels of the store's URL; begins when somebody wants to know. Every method may be called from any thread.

    Args:
        source: returns the URL now.
    """

    def __init__(self, source: Callable[[], StoreUrl]) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._main: asyncio.Task[None] | None = None
        self._views: dict[Address, View] = {}
        self._told: dict[object, Callable[[], None]] = {}
        self._timeout = 0.5
        self._ended = False
        self.named: Named | None = None
        in_a_child(self, Lookout._forked)

    @property
    def address(self) -> Address | None:
        """Of the primary; None before anybody knew."""
        return None if self.named is None else self.named.address

    @property
    def others(self) -> tuple[Address, ...]:
        """Servers that still take themselves for the primary, as the Sentinels see them."""
        return () if self.named is None else self.named.others

    def watch(self, who: object, told: Callable[[], None]) -> None:
        """From now on ``told`` is called, in the lookout's thread, after each answer of a Sentinel; quick, and raising nothing."""
        with self._lock:
            self._told[who] = told

    def unwatch(self, who: object) -> None:
        """Not any more. Safe to repeat."""
        with self._lock:
            self._told.pop(who, None)

    async def find(self, timeout: float) -> Address:
        """The primary's address, asked for anew.

        Args:
            timeout: seconds for which a Sentinel may keep one waiting.

        Raises:
            StoreUnavailableError: no Sentinel knows.
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
        """Whether as many Sentinels have answered as there will be in time: most of them, or all that do."""
        url, views = self._source(), dict(self._views)
        now = [views[one] for one in url.addresses if one in views and views[one].at >= since]
        answers = sum(view.address is not None for view in now)
        if 2 * answers > len(url.addresses) or len(now) == len(url.addresses):
            return True
        return clock.now() - since > (1 if answers else 3) * timeout

    def _answer(self, since: float) -> Address:
        named, url, views = self.named, self._source(), dict(self._views)
        if named is not None and any(view.address is not None and view.at >= since for view in views.values()):
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
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="sentinels", daemon=True)
                self._thread.start()
            loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with contextlib.suppress(RuntimeError):  # it ends, and whoever comes next begins it anew
                loop.call_soon_threadsafe(wake.set)

    def close(self) -> None:
        """Ends the thread. Safe to repeat."""
        with self._lock:
            self._ended = True
            loop, self._told = self._loop, {}
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end)

    def _forked(self) -> None:
        """In a child: its thread is the parent's, and so are its connections."""
        self._lock = threading.Lock()
        self._thread = self._loop = self._wake = self._main = self.named = None
        self._views, self._told = {}, {}

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        with (
            contextlib.suppress(asyncio.CancelledError),
            asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
        ):
            try:
                runner.run(self._watch_all())
            finally:
                with self._lock:
                    self._loop = self._wake = self._main = None

    async def _watch_all(self) -> None:
        with self._lock:
            self._loop, self._wake, self._main = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()
        while not self._ended:
            url = self._source()
            wakes = {address: asyncio.Event() for address in url.addresses}
            self._views = {address: view for address, view in self._views.items() if address in wakes}
            tasks = [asyncio.ensure_future(self._ask_again(url, address, wakes[address])) for address in wakes]
            tasks += [asyncio.ensure_future(self._listen(url, address)) for address in wakes]
            try:
                await self._pass_on(url, wakes)
            finally:
                while left := [task for task in tasks if not task.done()]:  # redis-py may make another error of it
                    for task in left:
                        task.cancel()
                    await asyncio.wait(left, timeout=SLICE_SECONDS)
                await asyncio.sleep(0)  # in which the loop lets go of what was closed

    async def _pass_on(self, url: StoreUrl, wakes: dict[Address, asyncio.Event]) -> None:
        """Wakes those who ask when somebody wants to know; until the URL is another one."""
        wake = self._wake
        assert wake is not None  # noqa: S101 - set above
        while not self._ended and self._source() is url:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    await wake.wait()
            if wake.is_set():
                wake.clear()
                for one in wakes.values():
                    one.set()

    async def _ask_again(self, url: StoreUrl, address: Address, wake: asyncio.Event) -> None:
        """One Sentinel, again and again over one connection."""
        connection: Any = None
        try:
            while True:
                wake.clear()
                began = clock.now()
                try:
                    async with asyncio.timeout(3 * self._timeout):
                        if connection is None:
                            connection = await _connected(url, address, self._timeout)
                        view = await _ask(connection, url.service)
                except Exception as error:  # noqa: BLE001 - one that answers nonsense is one that does not know
                    view = View(clock.now(), error=str(connection_error(error)))
                    if connection is not None:
                        await hang_up(connection, at_once=True)
                        connection = None
                self._saw(address, view)
                left = ASK_SECONDS - (clock.now() - began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, left)):
                        await wake.wait()
        finally:
            if connection is not None:
                await hang_up(connection, at_once=True)

    async def _listen(self, url: StoreUrl, address: Address) -> None:
        """To what one Sentinel says by itself; where it may not be listened to, asking has to do."""
        while True:
            connection: Any = None
            try:
                connection = await _connected(url, address, self._timeout)
                connection.socket_timeout = None  # from now on it waits for what comes
                await connection.send_command("SUBSCRIBE", SWITCHED, check_health=False)
                while True:
                    await connection.read_response()
                    if self._wake is not None:
                        self._wake.set()
            except Exception as error:  # noqa: BLE001 - whoever asks says what is wrong
                kind = connection_error(error).kind
                await asyncio.sleep(60.0 if kind in ("permission", "unsupported", "auth") else LISTEN_AGAIN_SECONDS)
            finally:
                if connection is not None:
                    await hang_up(connection, at_once=True)

    def _saw(self, address: Address, view: View) -> None:
        before = self.named
        self._views = {**self._views, address: view}
        self.named = choose(self._views.values(), before, clock.now())
        if self.named is not None and before is not None and self.named.address != before.address:
            log.warning(
                "primary_replaced", service=self._source().service, was=str(before.address), now=str(self.named.address)
            )
        with self._lock:
            told = list(self._told.values())
        for one in told:
            one()


async def _ask(connection: Any, service: str) -> View:
    """The address first: what is said of the epoch is never older than the address then."""
    answers = []
    for command in (("get-master-addr-by-name", service), ("MASTER", service), ("REPLICAS", service)):
        await connection.send_command("SENTINEL", *command, check_health=False)
    for _ in range(3):
        try:
            answers.append(await connection.read_response())
        except Exception as error:
            if not answers or connection_error(error).kind in ("connection", "timeout"):
                raise  # the answer that counts
            answers.append(error)  # not permitted, perhaps: it goes without
    return view_of(clock.now(), *answers)


async def _connected(url: StoreUrl, address: Address, timeout: float) -> Any:
    """A connection. One that is being made when nobody wants it any more is made, and then closed: a greeting of TLS that is
    cancelled leaves its socket open.
    """
    making = asyncio.ensure_future(dial(url, address, timeout, sentinel=True))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        while not making.done():
            with contextlib.suppress(asyncio.CancelledError):  # once more: it has its time limits
                await asyncio.wait([making])
        if making.exception() is None:
            await hang_up(making.result(), at_once=True)
        raise
