"""The door: which session a connection gets, and what becomes of it when its bot ends. The bots are functions without Pipecat."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import pytest
import redis
from starlette.websockets import WebSocketDisconnect

from coordinator import Session, Worker
from coordinator.adapters.pipecat import PipecatCall, WebsocketDoor, new_call, room_handler
from coordinator.errors import InvalidValueError
from coordinator.store.keys import Keys
from tests.adapters.pipecat.lines import FakeContext, Line, start_of
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
CONNECTED = {"event": "connected"}
ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "?"}]


class Bots:
    """Serves calls until their connections end.

    Attributes:
        calls: all that came, in their order.
        contexts: what each found and made of it.
    """

    def __init__(self, *, fails: bool = False, returns: bool = False) -> None:
        self.calls: list[PipecatCall] = []
        self.contexts: list[FakeContext] = []
        self._fails, self._returns = fails, returns

    async def __call__(self, call: PipecatCall) -> None:
        context = call.keep(FakeContext(ASKED[:1]))
        self.calls.append(call)
        self.contexts.append(context)
        if self._fails:
            raise RuntimeError("it was told to")
        while not self._returns and not call.session.lost.is_set() and not call.superseded.is_set():
            with anyio.move_on_after(0.02), contextlib.suppress(WebSocketDisconnect):
                await call.websocket.receive_text()
            if call.websocket.hung_up.is_set() or call.websocket.disconnected.is_set():
                return


class Place:
    """Workers with doors, and tasks beside the test."""

    def __init__(self, url: str, client: Any, tasks: Any, stack: contextlib.AsyncExitStack) -> None:
        self._url, self._client, self._tasks, self._stack = url, client, tasks, stack

    async def door(
        self, name: str, settings: dict[str, Any] | None = None, **options: Any
    ) -> tuple[WebsocketDoor, Worker]:
        worker = await self._stack.enter_async_context(Worker(self._url, name=name, **(settings or {})))
        return WebsocketDoor(worker, **options), worker

    def answer(self, door: WebsocketDoor, bots: Any, call_sid: str = "CA1", **more: Any) -> Line:
        line = Line(CONNECTED, start_of(call_sid))
        self.run(partial(door.answer, line.websocket, bots, **more))
        return line

    def run(self, what: Callable[..., Any], *arguments: Any) -> None:
        self._tasks.start_soon(what, *arguments)

    def record(self, call_sid: str = "CA1") -> dict[str, str]:
        return {name.decode(): text.decode() for name, text in self._client.hgetall(KEYS.session(call_sid)).items()}

    async def until(self, state: str, call_sid: str = "CA1") -> None:
        await eventually(lambda: self.record(call_sid).get("state") == state, 20, f"its state is {state}")


@pytest.fixture
async def place(url: str, redis_client: redis.Redis) -> AsyncIterator[Place]:
    """With a coordinator in the test's process."""
    async with coordinating(url), contextlib.AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        yield Place(url, redis_client, tasks, stack)
        tasks.cancel_scope.cancel()


async def test_a_new_call_is_opened_and_closed(place: Place) -> None:
    """The bot has what the provider said, its data and its own first messages; the provider's stop closes the session."""
    (door, _), bots = await place.door("a"), Bots()
    line = place.answer(door, bots, data={"language": "de"})
    await eventually(lambda: bots.calls)
    [call] = bots.calls
    assert call.start is not None
    assert (call.start.call_id, call.session.id, call.data, call.returned) == ("CA1", "CA1", {"language": "de"}, False)
    assert bots.contexts[0].messages == ASKED[:1]
    assert door.calls == (call,)
    line.stop()
    await place.until("closed")
    await eventually(lambda: not door.calls)
    assert call.finished.is_set()


async def test_a_bot_that_returns_has_ended_the_call(place: Place) -> None:
    """The session is closed before the connection is, so that the provider's next one is another call."""
    (door, _), bots = await place.door("a"), Bots(returns=True)
    line = place.answer(door, bots)
    await line.closed.wait()
    assert (line.code, place.record()["state"]) == (1000, "closed")


async def test_the_next_door_gets_the_last_context(place: Place) -> None:
    """A living owner hands over when the caller is elsewhere, with what its bot knew in that moment."""
    (first, _), (second, _), bots, heirs = await place.door("a"), await place.door("b"), Bots(), Bots()
    line = place.answer(first, bots)
    await eventually(lambda: bots.calls)
    bots.contexts[0].messages[:] = ASKED
    bots.calls[0].data["n"] = 1
    place.answer(second, heirs)
    await eventually(lambda: heirs.calls)
    assert heirs.contexts[0].messages == ASKED
    assert heirs.calls[0].data == {"n": 1}
    assert (heirs.calls[0].returned, heirs.calls[0].session.planned) == (True, True)
    await line.closed.wait()
    assert line.code == 1012
    assert bots.calls[0].may_speak is False


async def test_a_second_connection_at_the_same_door_has_the_call(place: Place) -> None:
    """The first bot is silent at once and ends; the second has its context, written or not, and the same session."""
    (door, _), bots = await place.door("a"), Bots()
    line = place.answer(door, bots)
    await eventually(lambda: bots.calls)
    bots.contexts[0].messages[:] = ASKED
    again = place.answer(door, bots)
    await eventually(lambda: len(bots.calls) == 2)
    assert bots.contexts[1].messages == ASKED
    assert bots.calls[1].session is bots.calls[0].session
    assert bots.calls[1].returned
    assert [call.may_speak for call in bots.calls] == [False, True]
    await line.closed.wait()
    assert (line.code, again.code) == (1012, 0)
    assert door.calls == (bots.calls[1],)


async def test_a_bot_that_fails_gives_the_call_to_others(place: Place) -> None:
    """The session is released with its newest context, and the provider is sent away to come again."""
    (door, _), bots = await place.door("a"), Bots(fails=True)
    line = place.answer(door, bots)
    await line.closed.wait()
    assert line.code == 1011
    (second, _), heirs = await place.door("b"), Bots()
    place.answer(second, heirs)
    await eventually(lambda: heirs.calls)
    assert (heirs.calls[0].session.recovered, heirs.calls[0].session.cause) == (True, "released")
    assert heirs.contexts[0].messages == ASKED[:1]


async def test_a_call_whose_line_broke_is_kept_for_its_caller(place: Place) -> None:
    """It is active meanwhile, and the caller finds it here."""
    (door, _), bots = await place.door("a"), Bots()
    line = place.answer(door, bots)
    await eventually(lambda: bots.calls)
    bots.contexts[0].messages[:] = ASKED
    line.drop()
    await eventually(lambda: bots.calls[0].websocket.disconnected.is_set())
    place.answer(door, bots)
    await eventually(lambda: len(bots.calls) == 2)
    assert bots.contexts[1].messages == ASKED
    assert place.record()["state"] == "active"


async def test_a_call_whose_caller_stays_away_is_closed(place: Place) -> None:
    """After `comes_back_within`."""
    (door, _), bots = await place.door("a", comes_back_within=0.1), Bots()
    line = place.answer(door, bots)
    await eventually(lambda: bots.calls)
    line.drop()
    await place.until("closed")


@pytest.mark.parametrize(
    "messages",
    [["no json"] * 5, [{"event": "start", "start": {}}], [start_of("a b")]],
    ids=["no start", "no call", "no id"],
)
async def test_a_connection_without_a_call_is_refused(place: Place, messages: list[object]) -> None:
    """Its bot is not run, and nothing is stored."""
    (door, _), bots = await place.door("a"), Bots()
    line = Line(*messages)
    await door.answer(line.websocket, bots)
    assert (line.code, bots.calls) == (1008, [])


async def test_a_connection_that_ends_before_its_start_is_nothing(place: Place) -> None:
    """As a health probe's."""
    (door, _), bots = await place.door("a"), Bots()
    line = Line(CONNECTED)
    line.drop()
    await door.answer(line.websocket, bots)
    assert bots.calls == []


async def test_a_call_that_stays_elsewhere_is_sent_away(place: Place) -> None:
    """Its owner is busy with it: the provider is to try again."""
    (door, _), bots = await place.door("b", wait=0.1), Bots()
    _, owner = await place.door("a")
    session = await owner.open("CA1", new_call())
    with session.busy():
        line = Line(CONNECTED, start_of("CA1"))
        await door.answer(line.websocket, bots)
    assert (line.code, bots.calls) == (1013, [])


async def test_a_draining_worker_takes_no_new_call(place: Place) -> None:
    """Its door says so to a readiness probe, and sends a new call away."""
    (door, worker), bots = await place.door("a"), Bots()
    assert door.is_open
    await worker.drain()
    assert not door.is_open
    line = Line(CONNECTED, start_of("CA1"))
    await door.answer(line.websocket, bots)
    assert (line.code, bots.calls) == (1013, [])


async def test_a_store_that_is_away_sends_callers_away() -> None:
    """They come again as their provider's instructions say; no bot runs without its session."""
    server = RedisServer()
    try:
        async with Worker(server.url, name="a") as worker:
            door, bots = WebsocketDoor(worker), Bots()
            server.close()
            line = Line(CONNECTED, start_of("CA1"))
            await door.answer(line.websocket, bots)
            assert (line.code, bots.calls) == (1013, [])
    finally:
        server.close()


async def test_an_orphan_whose_caller_does_not_come_is_fetched(place: Place) -> None:
    """The program is asked for its caller, who finds the call at this door."""
    (door, _), bots, asked = await place.door("b"), Bots(), list[PipecatCall]()

    async def redirect(call: PipecatCall) -> None:
        asked.append(call)

    place.run(partial(door.fetch, redirect, after=0.0))
    _, owner = await place.door("a")
    session = await owner.open("CA1", new_call({"n": 1}))
    await session.release("it is to be fetched")
    await eventually(lambda: asked)
    assert (asked[0].session.id, asked[0].data, asked[0].start) == ("CA1", {"n": 1}, None)
    with pytest.raises(ValueError, match="did not come by a websocket"):
        _ = asked[0].websocket
    place.answer(door, bots)
    await eventually(lambda: bots.calls)
    assert (bots.calls[0].data, bots.calls[0].returned) == ({"n": 1}, True)
    assert asked[0].finished.is_set()


async def test_a_caller_who_cannot_be_fetched_is_given_up(place: Place) -> None:
    """The program's error is logged, and the call is closed after `comes_back_within`."""
    door, _ = await place.door("b", comes_back_within=0.1)

    async def redirect(_: PipecatCall) -> None:
        raise RuntimeError("the provider knows no such call")

    place.run(partial(door.fetch, redirect, after=0.0))
    _, owner = await place.door("a")
    session = await owner.open("CA1", new_call())
    await session.release("it is to be fetched")
    await place.until("closed")


async def test_a_signal_moves_the_calls_before_it_ends_the_program(place: Place) -> None:
    """What was to happen at the signal happens when the worker has drained, and its handler is there again."""
    door, worker = await place.door("a")
    drained_at_signal: list[bool] = []

    def ends(*_: object) -> None:
        drained_at_signal.append(worker.drained.is_set())

    before = signal.signal(signal.SIGUSR1, ends)
    try:
        async with door.drained_on(signal.SIGUSR1):
            await anyio.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGUSR1)
            await eventually(lambda: drained_at_signal)
        assert drained_at_signal == [True]
        assert signal.getsignal(signal.SIGUSR1) is ends
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_block_that_no_signal_ended_leaves_the_handler(place: Place) -> None:
    """The worker has not drained."""
    door, worker = await place.door("a")
    before = signal.getsignal(signal.SIGUSR1)
    async with door.drained_on(signal.SIGUSR1):
        await anyio.wait_all_tasks_blocked()
    assert signal.getsignal(signal.SIGUSR1) == before
    assert not worker.is_draining


@pytest.mark.parametrize("name", ["wait", "comes_back_within", "quiet_within", "hangs_after"])
async def test_a_wrong_time_is_named(place: Place, name: str) -> None:
    """Before the first call."""
    wrong: Any = {name: -1.0}
    with pytest.raises(InvalidValueError, match=name):
        await place.door("a", **wrong)


async def test_a_context_that_cannot_be_written_does_not_harm_the_call(place: Place) -> None:
    """Data that is no JSON is logged, and what was written before stays; `checkpoint` raises."""
    (door, _), bots = await place.door("a"), Bots()
    place.answer(door, bots)
    await eventually(lambda: bots.calls)
    [call] = bots.calls
    await call.checkpoint()
    call.data["n"] = object()
    call.save()
    with pytest.raises(ValueError, match="JSON"):
        await call.checkpoint()
    assert json.loads(place.record()["data"])["context"] == ASKED[:1]
    assert call.session.held


async def test_a_second_connection_gets_what_cannot_be_written(place: Place) -> None:
    """In the same process nothing has to be written: the new bot has the context and the data as they are."""
    (door, _), bots = await place.door("a"), Bots()
    place.answer(door, bots)
    await eventually(lambda: bots.calls)
    thing = object()
    bots.calls[0].data["thing"] = thing
    bots.contexts[0].messages[:] = ASKED
    place.answer(door, bots)
    await eventually(lambda: len(bots.calls) == 2)
    assert bots.calls[1].data["thing"] is thing
    assert bots.contexts[1].messages == ASKED


async def test_a_broken_record_is_no_end_of_the_call(place: Place) -> None:
    """The bot begins anew with its own messages."""
    (door, _), bots = await place.door("b"), Bots()
    _, owner = await place.door("a")
    await owner.open("CA1", {"pipecat": 1, "context": "broken", "data": {"n": 1}})
    place.answer(door, bots)
    await eventually(lambda: bots.calls)
    assert bots.contexts[0].messages == ASKED[:1]
    assert bots.calls[0].data == {"n": 1}


async def test_a_bot_in_a_room_is_served_by_the_worker(place: Place) -> None:
    """An heir gets the call by itself, with its data and its context; what returns closes it."""
    _, first = await place.door("a")
    _, second = await place.door("b")
    found: list[tuple[dict[str, Any], list[Any]]] = []

    async def bot(call: PipecatCall) -> None:
        context = call.keep(FakeContext(ASKED[:1]))
        found.append((dict(call.data), [*context.messages]))
        context.messages[:] = ASKED
        call.save()
        if not call.returned:
            raise RuntimeError("it was told to")

    place.run(first.serve, room_handler(first, bot))
    place.run(second.serve, room_handler(second, bot))
    await anyio.wait_all_tasks_blocked()
    session: Session = await first.open("r-1", new_call({"room": "x"}))
    await place.until("closed", "r-1")
    assert found == [({"room": "x"}, ASKED[:1]), ({"room": "x"}, ASKED)]
    assert session.lost.is_set()
