"""The door for providers whose websockets come back: the call's session is opened or taken, and its bot runs on that connection."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from coordinator.adapters.pipecat.bot_outcome import BotOutcome, outcome_of
from coordinator.adapters.pipecat.call import HANGS_AFTER_SECONDS, PipecatCall, any_of
from coordinator.adapters.pipecat.context_record import ContextRecord, new_call
from coordinator.adapters.pipecat.start_message import StartMessage, read_start
from coordinator.bounds import check_seconds, fitted
from coordinator.errors import CoordinatorError, FencedError, InvalidDataError, InvalidIdError
from coordinator.printable import told, trace
from coordinator.signals import heard
from coordinator.worker.cancellation import as_failure
from coordinator.worker.offer import Offer
from coordinator.worker.session import Session
from coordinator.worker.turns import Turns
from coordinator.worker.worker import Worker

__all__ = ["WebsocketDoor"]

log = structlog.get_logger()

Bot = Callable[[PipecatCall], Awaitable[object]]

START_SECONDS = 10.0
MOST_MESSAGES = 5
"""Before the one that says which call it is."""
SUPERSEDED_SECONDS = 3.0
"""How long a new connection waits for the bot of the one before to end; it is silent at once."""
ALIVE_SECONDS = 0.5
RESERVE_SECONDS = 5.0
"""Beyond the time of a drain."""

NORMAL, AGAIN, REFUSED, FAILED, MOVED = 1000, 1013, 1008, 1011, 1012
"""Codes of the close frame: the provider goes on with its own instructions after each of them."""


class WebsocketDoor:
    """Answers providers' websockets.

    The same call may come again at any time and to any worker: after a crash, when its connection broke, or because its worker
    drains. The newest connection has the call; the bot of the one before is silent at once. One worker has one door, and runs no
    `Worker.serve` beside it: an orphan of a door waits for its caller and is of no use to another worker before.

    Args:
        worker: an entered one.
        wait: seconds for which a caller who comes here waits for the worker that has the call.
        comes_back_within: seconds for which a call is kept whose connection broke without a word; then it is closed.
        quiet_within: seconds for which a drain waits for a moment in which neither the caller nor the bot speaks.
        hangs_after: seconds after which a pipeline hangs through which nothing moves and from which nothing is heard; its call is
            given to other workers `WEDGED_AFTER` later. None: pipelines are not watched, but their event loop is.
        session_id: makes the session's id of what the provider says; default the provider's id of the call.

    Raises:
        InvalidValueError: an argument is invalid.
    """

    def __init__(
        self,
        worker: Worker[Any],
        *,
        wait: float = 4.0,
        comes_back_within: float = 10.0,
        quiet_within: float = 5.0,
        hangs_after: float | None = HANGS_AFTER_SECONDS,
        session_id: Callable[[StartMessage], str] | None = None,
    ) -> None:
        self._worker, self._wait = worker, check_seconds("wait", wait)
        self._comes_back_within = check_seconds("comes_back_within", comes_back_within)
        self._quiet_within = check_seconds("quiet_within", quiet_within)
        self._hangs_after = None if hangs_after is None else check_seconds("hangs_after", hangs_after)
        self._session_id = session_id or (lambda start: start.call_id)
        self._turns = Turns()
        self._calls: dict[str, PipecatCall] = {}

    @property
    def is_open(self) -> bool:
        """Whether new calls should come here: what a readiness probe asks."""
        return not self._worker.is_draining

    @property
    def calls(self) -> tuple[PipecatCall, ...]:
        """The calls that are served here now, or whose callers may come again."""
        return tuple(self._calls.values())

    async def answer(
        self, websocket: WebSocket, bot: Bot, *, data: Mapping[str, Any] | None = None, **opening: Any
    ) -> None:
        """Serves one connection to its end. Accepts it if that was not done.

        Args:
            websocket: of Starlette or FastAPI, before its first message was read.
            bot: an async function that builds a pipeline on ``call.websocket`` and runs it with ``call.run``. When it returns, the
                call is over. When it raises, other workers get it.
            data: of a new call, for ``call.data``.
            opening: ``pool``, ``tenant`` and ``requires`` of a new call, as `Worker.open` has them.
        """
        if websocket.application_state == WebSocketState.CONNECTING:
            await websocket.accept()
        try:
            start = await self._start(websocket)
        except InvalidDataError as error:
            log.warning("connection_refused", reason=str(error))
            await _refuse(websocket, REFUSED, "no call")
            return
        if start is None:
            return
        session_id = self._session_id(start)
        try:
            async with self._turns.of(session_id):
                call = await self._take(session_id, start, new_call(data), opening)
        except InvalidIdError as error:
            log.warning("connection_refused", reason=str(error))
            await _refuse(websocket, REFUSED, "no call")
            return
        except CoordinatorError as error:  # the provider's instructions bring the caller again
            log.warning("call_not_received", session=session_id, error=str(error))
            await _refuse(websocket, AGAIN, "try again")
            return
        if call is None:
            log.warning("call_not_received", session=session_id, error="its worker keeps it")
            await _refuse(websocket, AGAIN, "try again")
            return
        call.connect(websocket)
        await self._serve(call, bot)

    async def fetch(self, redirect: Callable[[PipecatCall], Awaitable[object]], after: float = 1.0) -> None:
        """Takes orphans whose callers do not come by themselves, and has their providers connect them again. Runs until cancelled.

        A frozen worker keeps its connections, so a provider does not notice that nothing comes any more. It is told over its own API.

        Args:
            redirect: is called with an orphan's call, which has no websocket: it asks the provider to begin the call's instructions
                again, at whichever door. Its ``session.id`` and ``data`` say which call that is.
            after: seconds for which a caller is left to come by itself.

        Raises:
            InvalidValueError: an argument is invalid.
        """
        after = check_seconds("after", after)
        async with anyio.create_task_group() as tasks:
            async for offer in self._worker.offers():
                if not offer.planned:  # a worker that drains sends its callers on itself
                    tasks.start_soon(self._fetch, offer, redirect, after)

    @contextlib.asynccontextmanager
    async def drained_on(self, *numbers: signal.Signals) -> AsyncIterator[None]:
        """Inside this block such a signal first has the worker hand over its calls; then it does what it did before.

        A server that ends at once when it is told to would cut each caller off in the middle of a word.
        """
        before = {number: signal.getsignal(number) for number in numbers}

        async def drain_first() -> None:
            received = ""
            try:
                with heard(*numbers) as names:
                    async for received in names:
                        await self._worker.drain(reason=received)
                        break
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            if received:
                signal.raise_signal(signal.Signals[received])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain_first)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    @staticmethod
    async def _start(websocket: WebSocket) -> StartMessage | None:
        """Reads the messages until one says which call it is; None when the connection ended before.

        Raises:
            InvalidDataError: none of the first ones does, or not in time.
        """
        with anyio.move_on_after(START_SECONDS):
            for _ in range(MOST_MESSAGES):
                try:
                    message = await websocket.receive()
                except (WebSocketDisconnect, RuntimeError):
                    return None
                if message["type"] == "websocket.disconnect":
                    return None
                if (start := read_start(message.get("text") or message.get("bytes") or "")) is not None:
                    return start
        raise InvalidDataError("no provider's start message came first over a media stream")

    async def _take(
        self, session_id: str, start: StartMessage, recovery_data: dict[str, Any], opening: dict[str, Any]
    ) -> PipecatCall | None:
        older, before = self._calls.get(session_id), None
        if older is not None:
            older.superseded.set()
            older.stop_media()
            with anyio.move_on_after(SUPERSEDED_SECONDS):
                await older.finished.wait()
        session: Session[Any] | None = await self._worker.receive(session_id, recovery_data, self._wait, **opening)
        if session is None:
            return None
        if older is not None and older.session is session:
            before = older.record
        return self._call(session, start, before)

    def _call(
        self, session: Session[Any], start: StartMessage | None = None, before: ContextRecord | None = None
    ) -> PipecatCall:
        call = PipecatCall(
            session,
            most_bytes=self._worker.settings.max_data_bytes,
            is_draining=lambda: self._worker.is_draining,
            start=start,
            hangs_after=self._hangs_after,
            quiet_within=self._quiet_within,
            before=before,
        )
        self._calls[session.id] = call
        return call

    async def _fetch(
        self, offer: Offer[Any], redirect: Callable[[PipecatCall], Awaitable[object]], after: float
    ) -> None:
        await anyio.sleep(after)
        try:
            async with self._turns.of(offer.session_id):
                if offer.session_id in self._calls or (session := await offer.adopt()) is None:
                    return  # its caller came by itself
                call = self._call(session)
        except CoordinatorError as error:
            log.warning("call_not_fetched", session=offer.session_id, error=str(error))
            return
        try:
            log.info("caller_fetched", session=session.id, cause=session.cause)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._redirect, call, redirect)
                await self._await_caller(call)
                tasks.cancel_scope.cancel()
        finally:
            self._finished(call)

    @staticmethod
    async def _redirect(call: PipecatCall, redirect: Callable[[PipecatCall], Awaitable[object]]) -> None:
        try:
            await redirect(call)
        except Exception as error:  # noqa: BLE001 - the program's own code: the caller may come all the same
            log.error("redirect_failed", session=call.session.id, error=told(error), exception=trace(error))

    def _finished(self, call: PipecatCall) -> None:
        call.stop_media()
        call.finished.set()
        if self._calls.get(call.session.id) is call:
            del self._calls[call.session.id]

    async def _serve(self, call: PipecatCall, bot: Bot) -> None:
        session, failure = call.session, None
        log.info("call_served", session=session.id, returned=call.returned, gap=round(session.gap, 3))
        try:
            try:
                await call.served_by(bot)
            except Exception as error:  # noqa: BLE001 - the program's own code: its call goes to another worker
                failure = error
            except asyncio.CancelledError as error:
                failure = as_failure(error)
            call.stop_media()
            await self._end(call, failure)
        finally:
            self._finished(call)

    async def _end(self, call: PipecatCall, failure: Exception | None) -> None:
        session, socket = call.session, call.websocket
        outcome = outcome_of(call.ended_by(failure))
        if failure is not None and not isinstance(failure, FencedError):
            tell = log.error if outcome is BotOutcome.RELEASE else log.warning
            tell("bot_failed", session=session.id, error=told(failure), exception=trace(failure))
        match outcome:
            case BotOutcome.NOTHING:
                call.finished.set()
                await socket.end(MOVED, "served elsewhere")
            case BotOutcome.CLOSE:
                await self._told(session, session.close)
                await socket.end(NORMAL)
            case BotOutcome.RELEASE:
                call.save()
                why = fitted(f"the bot raised {type(failure).__name__}")
                await self._told(session, partial(session.release, why))
                await socket.end(FAILED, "try again")
            case BotOutcome.AWAIT:
                call.save()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(socket.end, MOVED, "try again"))
                    await self._await_caller(call)
                    tasks.cancel_scope.cancel()

    async def _await_caller(self, call: PipecatCall) -> None:
        """Keeps the call until its caller comes to some door; the worker of that door asks for it."""
        session, drain = call.session, self._worker.settings.drain_timeout + RESERVE_SECONDS
        with anyio.move_on_after(drain if call.sent_on.is_set() else self._comes_back_within):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_say_alive, session)
                await any_of(session.lost, session.closed, call.superseded)
                tasks.cancel_scope.cancel()
            return
        if not self._worker.is_draining:  # else the drain decides
            log.info("caller_did_not_come_back", session=session.id, seconds=self._comes_back_within)
            await self._told(session, session.close)

    @staticmethod
    async def _told(session: Session[Any], how: Callable[[], Awaitable[None]]) -> None:
        try:
            await how()
        except CoordinatorError as error:  # it is another worker's, or the library carries it out later
            log.warning("session_not_ended", session=session.id, error=str(error))


async def _say_alive(session: Session[Any]) -> None:
    while True:
        session.alive()
        await anyio.sleep(ALIVE_SECONDS)


async def _refuse(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(Exception):  # it may have gone
        await websocket.close(code, reason)
