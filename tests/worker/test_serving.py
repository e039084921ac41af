"""`Worker.serve` and a store that does not answer: never a failed handler, and what was to be done is done later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import redis
from structlog.testing import capture_logs

from coordinator import FencedError, Session, StoreUnavailableError, Worker, clock
from coordinator.store.keys import Keys
from coordinator.worker.ending import is_of_the_store
from tests import inside
from tests.inside import member_of
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
AWAY = StoreUnavailableError("timeout", "no answer")


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may stop."""
    server = RedisServer()
    yield server
    server.close()


def impatient(server: RedisServer, name: str = "a") -> Worker:
    """A worker whose requests give up after a moment."""
    return inside.impatient(Worker(server.url, name=name), 0.1)


def record(client: redis.Redis, session: str) -> dict[str, str]:
    """What the store has of a session."""
    found: Any = client.hgetall(KEYS.session(session))
    return {k.decode(): v.decode("latin-1") for k, v in found.items()}


async def out_of_reach(server: RedisServer, session: Session) -> None:
    """The server stands still until the session is in doubt."""
    server.pause()
    await eventually(lambda: not session.held)


async def test_a_handler_that_the_store_ended_is_started_again(own_server: RedisServer) -> None:
    """Its checkpoint has no answer and ends it: it runs again with the same session, and nothing is counted."""
    runs: list[float] = []

    async def handler(session: Session) -> None:
        runs.append(session.gap)
        while True:
            await session.checkpoint({"n": len(runs)})
            await anyio.sleep(0.02)

    async with impatient(own_server) as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1", {"n": 0})
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: session.sequence > 2)
        own_server.pause()
        await eventually(lambda: len(runs) > 1)
        own_server.resume()
        before = session.sequence
        await eventually(lambda: session.sequence > before + 3 and session.held)
        assert session.starts == len(runs)
        assert (runs[0], runs[1] > 0) == (0.0, True), "the second run is told for how long nobody served the call"
        stored = record(own_server.client(), "call-1")
        assert (stored["state"], stored["owner"], stored["recoveries"]) == ("active", worker.id, "0")
        tasks.cancel_scope.cancel()


def _group() -> Exception:
    return ExceptionGroup("two tasks", [AWAY, ExceptionGroup("and another", [AWAY])])


def _wrapped() -> Exception:
    error = RuntimeError("the conversation could not be saved")
    error.__cause__ = AWAY
    return error


def test_an_error_that_is_raised_again_after_its_effect() -> None:
    """Errors that name each other as cause and context: a verdict all the same."""
    cause, effect = ValueError("a bug"), RuntimeError("of it")
    effect.__cause__, cause.__context__ = cause, effect
    assert not is_of_the_store(cause)
    cause.__context__, effect.__cause__ = ExceptionGroup("both", [effect, AWAY]), cause
    assert not is_of_the_store(cause)


async def test_a_lost_call_whose_media_is_cancelled_ends_no_other(url: str) -> None:
    """Whoever hears first that the call is lost cancels what the handler waits for, in the same moment: other handlers run on."""
    ended: list[str] = []
    media: dict[str, asyncio.Task[None]] = {}

    async def handler(session: Session) -> None:
        media[session.id] = asyncio.create_task(asyncio.sleep(3600))
        try:
            await media[session.id]
        finally:
            ended.append(session.id)

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        sessions = [await worker.open(f"call-{n}") for n in range(2)]
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: len(media) == 2)
        media["call-0"].cancel()
        sessions[0].lose("another has it")
        await eventually(lambda: ended == ["call-0"])
        late = await worker.open("call-2")
        await eventually(lambda: "call-2" in media)
        assert ended == ["call-0"]
        for session in (sessions[1], late):
            await session.close()
        tasks.cancel_scope.cancel()


def _after_it() -> Exception:
    try:
        try:
            raise AWAY
        except StoreUnavailableError:
            raise RuntimeError("cannot save")  # noqa: B904 - as programs do
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "failure", [lambda: AWAY, _group, _wrapped, _after_it], ids=["itself", "in-groups", "as-a-cause", "before-it"]
)
async def test_whatever_says_only_that_the_store_was_away(url: str, failure: Callable[[], Exception]) -> None:
    """However the store's error comes out of a handler, the call stays here and its handler is started again."""
    runs = 0

    async def handler(session: Session) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise failure()
        await anyio.sleep_forever()

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: runs == 2)
        assert session.held
        tasks.cancel_scope.cancel()


async def test_a_handler_that_something_else_cancels_has_failed(url: str, redis_client: redis.Redis) -> None:
    """It waited for a task of a provider's that was cancelled: nobody asked it to stop, so its call goes to others."""

    async def handler(session: Session) -> None:
        other = asyncio.create_task(asyncio.sleep(3600))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        tasks.start_soon(worker.serve, handler)
        await eventually(session.closed.is_set)
        tasks.cancel_scope.cancel()
    assert record(redis_client, "call-1")["recoveries"] == "1"


async def test_an_own_time_limit_is_no_failure_while_the_store_is_late(own_server: RedisServer) -> None:
    """A handler gives its checkpoint less time than the store needs, and that is still no doubt: it is started again."""
    runs = 0

    async def handler(session: Session) -> None:
        nonlocal runs
        runs += 1
        while True:
            with anyio.fail_after(0.45):
                await session.checkpoint({"n": runs})
            await anyio.sleep(0.02)

    async with impatient(own_server) as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1", {"n": 0})
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: session.sequence > 2)
        own_server.pause()
        await eventually(lambda: runs == 2)
        own_server.resume()
        await eventually(lambda: session.held)
        assert record(own_server.client(), "call-1")["recoveries"] == "0"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "failure",
    [ValueError("a bug"), ExceptionGroup("both", [AWAY, ValueError("a bug")])],
    ids=["a-bug", "a-bug-beside-the-store"],
)
async def test_a_bug_is_a_failed_handler(url: str, redis_client: redis.Redis, failure: Exception) -> None:
    """What the program itself raised gives the call to others, as a recovery."""

    async def handler(session: Session) -> None:
        raise failure

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        tasks.start_soon(worker.serve, handler)
        await eventually(session.closed.is_set)
        tasks.cancel_scope.cancel()
    assert record(redis_client, "call-1")["recoveries"] == "1"


async def test_a_bug_while_the_store_is_away_is_served_on(own_server: RedisServer) -> None:
    """In doubt nobody else can be given the call: the handler is started again here, and the call is released when that
    can be done.
    """
    runs = 0

    async def handler(session: Session) -> None:
        nonlocal runs
        runs += 1
        while session.held:
            await anyio.sleep(0.01)
        raise ValueError("the provider is away too")

    async with impatient(own_server) as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        tasks.start_soon(worker.serve, handler)
        await out_of_reach(own_server, session)
        await eventually(lambda: runs > 1)
        assert session.ending is None
        own_server.resume()
        await eventually(lambda: session.held or session.is_over)  # whichever comes first: its next failure counts
        tasks.cancel_scope.cancel()


async def test_a_call_that_ended_while_the_store_was_away_is_closed_later(own_server: RedisServer) -> None:
    """Its handler returned: it is not held from then on, closed when the store is back, and never served again."""
    go, served = anyio.Event(), 0

    async def handler(session: Session) -> None:
        nonlocal served
        served += 1
        await go.wait()

    async with impatient(own_server) as worker:
        session = await worker.open("call-1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.serve, handler)
            await eventually(lambda: served == 1)
            await out_of_reach(own_server, session)
            go.set()
            await eventually(lambda: session.ending is not None)
            assert not session.may_speak
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.serve, handler)  # the program serves again meanwhile
            own_server.resume()
            await eventually(session.closed.is_set)
            tasks.cancel_scope.cancel()
        assert served == 1
        assert record(own_server.client(), "call-1")["state"] == "closed"


async def _close(session: Session) -> None:
    await session.close()


async def _release(session: Session) -> None:
    await session.release("no codec")


@pytest.mark.parametrize(("end", "state"), [(_close, "closed"), (_release, "offered")])
@pytest.mark.parametrize("how", ["no answer", "cancelled"])
async def test_an_ending_is_carried_out_when_the_store_is_back(
    own_server: RedisServer, end: Callable[[Session], Awaitable[None]], state: str, how: str
) -> None:
    """Closed or released without an answer, or cancelled: from the call on it is not held, and once Redis answers it is done."""
    async with impatient(own_server) as worker:
        session = await worker.open("call-1", b"data")
        own_server.pause()
        if how == "cancelled":
            with anyio.move_on_after(0.02):
                await end(session)
        else:
            with pytest.raises(StoreUnavailableError):
                await end(session)
        assert not session.held
        assert not session.may_speak
        own_server.resume()
        await eventually(lambda: session.is_over)
        assert record(own_server.client(), "call-1")["state"] == state
        assert worker.sessions == ()


async def test_leaving_closes_what_was_to_be_closed(own_server: RedisServer) -> None:
    """The block is left while a call's end waits for the store: the call is closed, and not offered to others."""
    client = own_server.client()
    async with impatient(own_server) as worker, impatient(own_server, "b"):
        session = await worker.open("call-1")
        own_server.pause()
        with pytest.raises(StoreUnavailableError):
            await session.close()
        inside.forget_endings(member_of(worker))  # nobody carries on: leaving does
        own_server.resume()
        await eventually(lambda: member_of(worker).ledger.trust_window.held(clock.now()))
        await worker.drain(timeout=2)
        assert session.closed.is_set()
    assert record(client, "call-1")["state"] == "closed"


async def test_a_close_stands_when_the_program_fails(own_server: RedisServer) -> None:
    """Closed while the store was away, and the program ends with an error as it comes back: the call is offered to nobody."""
    with pytest.raises(ValueError, match="a bug"):
        async with impatient(own_server) as worker:
            session = await worker.open("call-1")
            own_server.pause()
            with pytest.raises(StoreUnavailableError):
                await session.close()
            inside.forget_endings(member_of(worker))  # nobody carries on: leaving does
            own_server.resume()
            raise ValueError("a bug")
    assert record(own_server.client(), "call-1")["state"] == "closed"


async def test_a_closing_is_not_taken_back(own_server: RedisServer) -> None:
    """Released after it was closed, both without an answer: a call that ended is offered to nobody."""
    async with impatient(own_server) as worker:
        session = await worker.open("call-1")
        own_server.pause()
        for end in (session.close, session.release):
            with pytest.raises(StoreUnavailableError):
                await end()
        own_server.resume()
        await eventually(session.closed.is_set)
        assert record(own_server.client(), "call-1")["state"] == "closed"


async def test_nothing_is_written_once_it_is_given_up(own_server: RedisServer) -> None:
    """A call whose end waits for the store takes no more checkpoints."""
    async with impatient(own_server) as worker:
        session = await worker.open("call-1")
        own_server.pause()
        with pytest.raises(StoreUnavailableError):
            await session.close()
        with pytest.raises(FencedError):
            session.stage({"n": 1})
        own_server.resume()
        await eventually(session.closed.is_set)


@pytest.mark.usefixtures("leaves_at_once")
async def test_the_time_without_a_handler_is_in_the_gap(url: str, redis_client: redis.Redis) -> None:
    """A call that nobody served for five seconds before it was released: its adopter and the events say so."""
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        session = await a.open("call-1")
        session.unserved_since = clock.now() - 5
        await session.release("its handler failed")
        taken = await b.adopt("call-1")
        assert taken is not None
        assert taken.gap >= 5
        events: Any = redis_client.xrange(KEYS.events)
        [orphaned_ms] = [int(f[b"orphaned_ms"]) for _, f in events if f[b"type"] == b"adopted"]
        assert orphaned_ms >= 5000


@pytest.mark.usefixtures("leaves_at_once")
async def test_the_time_without_a_handler_is_in_a_handovers_silence(url: str, redis_client: redis.Redis) -> None:
    """A call whose handler had stopped when it was handed over: the owner's report and its heir's gap say so."""
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        session = await a.open("call-1")
        session.unserved_since = clock.now() - 5
        taken = await b.adopt("call-1")
        assert taken is not None
        await eventually(session.lost.is_set)
        assert session.silence >= 5
        assert taken.gap >= 5


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_handler_that_begins_ends_the_silence(url: str) -> None:
    """A served call has no silence: the gap of a handover is its own."""

    async def handler(session: Session) -> None:
        await anyio.sleep_forever()

    async with Worker(url, name="a") as a, Worker(url, name="b") as b, anyio.create_task_group() as tasks:
        session = await a.open("call-1")
        session.unserved_since = clock.now() - 5
        tasks.start_soon(a.serve, handler)
        await eventually(lambda: session.unserved_since is None)
        taken = await b.adopt("call-1")
        assert taken is not None
        assert taken.gap < 5
        tasks.cancel_scope.cancel()


async def test_a_cancelled_handler_ends_no_other(url: str, redis_client: redis.Redis) -> None:
    """A program cancels the task of one handler, also while it closes or waits: that call goes to others, the rest go on."""
    handlers: dict[str, Any] = {}

    async def handler(session: Session) -> None:
        handlers[session.id] = asyncio.current_task()
        if session.id == "raises":
            raise AWAY
        await anyio.sleep_forever()

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        sessions = {name: await worker.open(name) for name in ("one", "raises", "other")}
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: len(handlers) == 3)
        for name in ("one", "raises"):
            handlers[name].cancel()
            await eventually(sessions[name].closed.is_set)
            assert record(redis_client, name)["state"] in ("offered", "active")  # offered, and adopted again, perhaps
        await eventually(lambda: not handlers["one"].cancelling())
        assert not sessions["other"].is_over
        late = await worker.open("afterwards")
        await eventually(lambda: "afterwards" in handlers)
        assert late.held
        tasks.cancel_scope.cancel()
    assert record(redis_client, "other")["cause"] == "left", "when its worker ended"


class _Unprintable(Exception):  # noqa: N818 - as somebody else names it
    """An ordinary pattern: what is not there is looked up in what is."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


class _BadNotes(Exception):  # noqa: N818
    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise ValueError("no notes")


def _nested() -> Exception:
    error: Exception = ValueError("the innermost")
    for _ in range(3000):
        error = ExceptionGroup("around it", [error])
    return error


odd: Any = ("file", 1, 1, 5)
ODD_ERRORS = [
    _Unprintable,
    _BadNotes,
    _nested,
    lambda: SyntaxError("odd", odd),
    lambda: ValueError("x" * 10**6),
]


@pytest.mark.parametrize("made", ODD_ERRORS)
async def test_an_error_of_which_no_traceback_can_be_made_is_a_failed_handler(
    url: str, redis_client: redis.Redis, made: Callable[[], Exception]
) -> None:
    """Its call goes to others, its neighbour goes on, and it is told in bounded length."""

    async def handler(session: Session) -> None:
        if session.id == "bad" and session.starts == 1:
            raise made()
        await anyio.sleep_forever()

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        bad, good = await worker.open("bad"), await worker.open("good")
        with capture_logs() as logs:
            tasks.start_soon(worker.serve, handler)
            await eventually(bad.closed.is_set)
        [told] = [line for line in logs if line["event"] == "handler_failed"]
        assert told["exception"]
        assert len(told["exception"]) < 20_000
        assert good.held
        tasks.cancel_scope.cancel()
    assert record(redis_client, "bad")["recoveries"] == "1"


@pytest.mark.parametrize("made", ODD_ERRORS)
async def test_an_error_of_which_no_traceback_can_be_made_fails_an_adopter(
    url: str, redis_client: redis.Redis, made: Callable[[], Exception]
) -> None:
    """What it adopted is offered to others all the same."""

    async def handle(worker: Worker) -> None:
        async for offer in worker.offers():
            assert await offer.adopt() is not None
            raise made()

    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        await (await a.open("call-1", b"data")).hand_back("for others")
        task = asyncio.create_task(handle(b))
        await eventually(task.done)
        assert task.exception() is not None
        await eventually(lambda: record(redis_client, "call-1")["state"] == "offered")


async def test_what_the_code_of_offers_raised_goes_to_others(url: str, redis_client: redis.Redis) -> None:
    """A task adopted a call and failed, and nobody saw: the call is offered to others, as a recovery of its own."""

    async def handle(worker: Worker) -> None:
        async for offer in worker.offers():
            assert await offer.adopt() is not None
            raise ValueError("a bug")

    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        await (await a.open("call-1", b"data")).hand_back("for others")
        task = asyncio.create_task(handle(b))
        await eventually(task.done)
        assert isinstance(task.exception(), ValueError)
        await eventually(lambda: record(redis_client, "call-1")["state"] == "offered")
        assert record(redis_client, "call-1")["recoveries"] == "1"
        await eventually(lambda: b.sessions == ())  # the store's answer reaches the worker after the record changed


async def test_a_store_that_was_away_is_no_failure_of_an_adopter(url: str, redis_client: redis.Redis) -> None:
    """It failed since the store did not answer: the call is offered to others, and no recovery is counted."""

    async def handle(worker: Worker) -> None:
        async for offer in worker.offers():
            assert await offer.adopt() is not None
            raise AWAY

    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        await (await a.open("call-1")).hand_back("for others")
        task = asyncio.create_task(handle(b))
        await eventually(task.done)
        task.exception()
        await eventually(lambda: record(redis_client, "call-1")["state"] == "offered")
        assert record(redis_client, "call-1")["recoveries"] == "0"


async def test_a_call_that_another_task_serves_stays(url: str) -> None:
    """The task that adopted it failed, and another one that uses the session goes on: it is served, and stays."""
    used = asyncio.Event()

    async def serve(session: Session) -> None:
        session.stage({"n": 1})
        used.set()
        await asyncio.sleep(3600)

    tasks: set[asyncio.Task[None]] = set()

    async def handle(worker: Worker) -> None:
        async for offer in worker.offers():
            session = await offer.adopt()
            assert session is not None
            tasks.add(asyncio.create_task(serve(session)))
            await used.wait()
            raise ValueError("a bug")

    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        await (await a.open("call-1")).hand_back("for others")
        task = asyncio.create_task(handle(b))
        await eventually(task.done)
        task.exception()
        [session] = b.sessions
        assert session.held
        assert session.ending is None
        for one in tasks:
            one.cancel()


async def test_what_the_store_forgot_to_say_counts_nothing(url: str, redis_client: redis.Redis) -> None:
    """The store lists a session whose adoption this worker never heard of: it goes to others, and no recovery is counted."""
    bench = Bench(redis_client)
    async with Worker(url, name="a") as worker, Worker(url, name="b") as other:
        bench.end_hold()
        epoch = bench.open("call-1", other.id).int("epoch")
        bench.release("call-1", other.id, epoch)
        bench.client.hset(KEYS.session("call-1"), mapping={"orphanings": "", "recoveries": "0"})
        assert bench.adopt("call-1", worker.id, None).word == "OK"
        await eventually(lambda: record(redis_client, "call-1")["state"] == "offered", 15)
        assert record(redis_client, "call-1")["recoveries"] == "0"


async def test_calls_that_ended_are_remembered_within_bounds(url: str) -> None:
    """A worker keeps the newest so many ended calls, with their epochs, whatever closed_ttl says."""
    async with Worker(url, name="a") as worker:
        member_of(worker).ledger.ended_remembered = 3
        epochs = {}
        for n in range(6):
            session = await worker.open(f"call-{n}")
            epochs[session.id] = session.epoch
            await session.close()
        kept = member_of(worker).ledger
        assert [call for call in epochs if kept.ended_here(call, epochs[call])] == ["call-3", "call-4", "call-5"]
        assert not kept.ended_here("call-5", epochs["call-5"] + 1), "the same id again is another call"


async def test_the_first_error_after_a_pause_is_no_failure(url: str, redis_client: redis.Redis) -> None:
    """Time-outs of the handler ended as the process stood still: it is started again; a second error is its own."""
    runs = 0

    async def handler(session: Session) -> None:
        nonlocal runs
        runs += 1
        inside.trust_window_of(session).stalled = clock.now()
        raise TimeoutError

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        tasks.start_soon(worker.serve, handler)
        await eventually(session.closed.is_set)
        tasks.cancel_scope.cancel()
    assert runs == 2
    assert record(redis_client, "call-1")["recoveries"] == "1"
