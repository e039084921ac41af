"""A limit on a call's duration: the call ends in order, once, at the worker that has it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
from structlog.testing import capture_logs

from coordinator import (
    ChildSession,
    CoordinatorError,
    FencedError,
    InvalidValueError,
    Session,
    StoreUnavailableError,
    Worker,
    clock,
    limit_duration,
)
from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


class Call:
    """A session as the limit sees it, without a store."""

    def __init__(self, recovered: bool = False, refusal: CoordinatorError | None = None) -> None:
        self.id, self.began, self.gap, self.recovered = "call-1", clock.now(), 0.0, recovered
        self.lost, self.ended = anyio.Event(), anyio.Event()
        self.held, self.refusal, self.closed = True, refusal, 0

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may stop."""
    server = RedisServer()
    yield server
    server.close()


def state_of(client: redis.Redis, session_id: str) -> str:
    found: Any = client.hget(KEYS.session(session_id), "state")
    return str(found.decode())


async def test_a_call_ends_in_order(url: str, redis_client: redis.Redis) -> None:
    """The caller is warned, then told good-bye while the call is served and held; then it is cancelled, closed and not released."""
    saw: list[str] = []

    async def handler(session: Session) -> None:
        async def warns(left: float) -> None:
            saw.append("warns" if 0 < left <= 0.3 and session.held else "warns too late")

        async def says_good_bye() -> None:
            await session.checkpoint({"said": "good-bye"})
            saw.append("says good-bye")

        async with limit_duration(session, 0.5, warn=0.3, on_warn=warns, on_end=says_good_bye) as limit:
            try:
                await anyio.sleep_forever()
            finally:
                saw.append(f"cancelled, closed: {session.closed.is_set()}")
        saw.append(f"after it, reached: {limit.reached}, closed: {session.closed.is_set()}")
        await anyio.lowlevel.checkpoint()  # it is not cancelled any more, to hang up
        saw.append("hangs up")

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve, handler)
        await worker.open("call-1", {"n": 1})
        await eventually(lambda: "hangs up" in saw)
        assert saw == [
            "warns",
            "says good-bye",
            "cancelled, closed: False",
            "after it, reached: True, closed: True",
            "hangs up",
        ]
        record: Any = redis_client.hmget(KEYS.session("call-1"), "state", "recoveries")
        assert [value.decode() for value in record] == ["closed", "0"]
        tasks.cancel_scope.cancel()


async def test_an_error_after_the_end_does_not_release_the_call(url: str, redis_client: redis.Redis) -> None:
    """The program fails as it cleans up after the limit: the call is over all the same, and no worker is offered it."""
    raised: list[str] = []

    async def handler(session: Session) -> None:
        try:
            async with limit_duration(session, 0.05):
                try:
                    await anyio.sleep_forever()
                finally:
                    raise RuntimeError("the media did not end")
        except RuntimeError as error:
            raised.append(str(error))
            raise

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve, handler)
        await worker.open("call-1")
        await eventually(lambda: raised)
        await eventually(lambda: state_of(redis_client, "call-1") == "closed")
        tasks.cancel_scope.cancel()
    assert raised == ["the media did not end"]


async def test_a_call_that_is_shorter(url: str, redis_client: redis.Redis) -> None:
    """A block that ends before the limit ends nothing else, and its error comes out as it is: the call goes to another worker."""
    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        session = await worker.open("call-1")
        async with limit_duration(session, 3600) as limit:
            assert 3590 < limit.left <= 3600
        assert (limit.reached, session.held) == (False, True)

        async def handler(session: Session) -> None:
            async with limit_duration(session, 3600):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await handler(session)
        tasks.start_soon(worker.serve, handler)
        await eventually(lambda: state_of(redis_client, "call-1") == "offered")
        tasks.cancel_scope.cancel()


async def test_an_heir_counts_on(url: str, redis_client: redis.Redis) -> None:
    """Each worker counts from the call's first opening by the store's clock, however often it changed hands."""
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        session = await a.open("call-1")
        redis_client.hincrby(KEYS.session("call-1"), "opened_at", -100_000)
        for heir in (b, a, b):
            await session.release()
            adopted = await heir.adopt("call-1")
            assert adopted is not None
            session = adopted
            async with limit_duration(session, 3600) as limit:
                assert 3440 < limit.left <= 3501  # the store's time is that of the heir's last beat
        async with limit_duration(session, 100) as limit:
            await anyio.sleep_forever()
        assert limit.reached
        assert state_of(redis_client, "call-1") == "closed"


async def test_a_step_of_the_stores_clock_ends_no_call(url: str, redis_client: redis.Redis) -> None:
    """An heir finds a call far beyond its limit, under which the owner before would have ended it: it counts anew, and says so."""
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        session = await a.open("call-1")
        redis_client.hincrby(KEYS.session("call-1"), "opened_at", -4_000_000)
        await session.release()
        adopted = await b.adopt("call-1")
        assert adopted is not None
        with capture_logs() as logs:
            for _ in range(2):
                async with limit_duration(adopted, 600) as limit:
                    assert 500 < limit.left <= 600
        assert [line["event"] for line in logs] == ["call_counted_anew"]
        await adopted.close()


async def test_only_what_its_owner_would_have_ended_counts_anew() -> None:
    """A call that went beyond its limit while it had no owner is ended, and so is one that was opened here."""
    for recovered, gap in ((True, 200.0), (False, 0.0)):
        call = Call(recovered=recovered)
        call.began, call.gap = clock.now() - 300, gap
        async with limit_duration(call, 150) as limit:
            await anyio.sleep_forever()
        assert (limit.reached, call.closed) == (True, 1)


async def test_a_paused_owner_ends_no_call_of_its_heir(url: str) -> None:
    """A worker is frozen beyond the limit, and its call adopted: when it goes on it neither speaks nor closes, and the heir has it."""
    old = Process("tests.voice.limited_process", url, "old", "call-1", "3")
    try:
        old.wait_for("serving")
        async with Worker(url, name="heir") as heir, coordinating(url):
            old.send(signal.SIGSTOP)
            with within(30):
                async for offer in heir.offers():
                    session = await offer.adopt()
                    break
            assert session is not None
            async with limit_duration(session, 4) as limit:
                await eventually(lambda: limit.left < 0.9)  # beyond what the old one has
                old.send(signal.SIGCONT)
                [over] = old.wait_for("over")
                assert not limit.reached
            assert over["lost"]
            assert not over["closed"]
            assert not old.told("good-bye")
            assert not old.told("warned")
            assert session.held
            await session.close()
    finally:
        old.send(signal.SIGCONT)
        old.close()


async def test_a_limit_that_falls_into_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which the process stood still is given back: the call has as long again, and is warned before it ends."""
    call, now, ahead = Call(), clock.now, [0.0]
    monkeypatch.setattr(clock, "now", lambda: now() + ahead[0])
    began, saw = call.began, list[str]()

    async def warns(left: float) -> None:
        saw.append(f"{0 < left <= 0.2}")

    async with limit_duration(call, 0.5, warn=0.2, on_warn=warns) as limit:
        for _ in range(10):  # it sleeps then
            await anyio.lowlevel.checkpoint()
        ahead[0] = 1000.0
        assert limit.left == 0
        await eventually(lambda: call.began > began)
        assert 990 < call.began - began < 1010
        await anyio.sleep_forever()
    assert (saw, limit.reached, call.closed) == (["True"], True, 1)


async def test_a_call_in_doubt_goes_on(own_server: RedisServer) -> None:
    """While the store does not answer no limit ends a call; it ends once the session is held again."""
    saw: list[str] = []

    async def says_good_bye() -> None:
        saw.append("good-bye")

    async with Worker(own_server.url, name="a") as worker:
        session = await worker.open("call-1")
        own_server.pause()
        await eventually(lambda: not session.held)
        async with limit_duration(session, 0.1 + clock.now() - session.began, on_end=says_good_bye) as limit:
            await eventually(lambda: limit.left == 0)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert (saw, limit.reached) == ([], False)
            own_server.resume()
            await anyio.sleep_forever()
        assert (saw, limit.reached) == (["good-bye"], True)
        assert state_of(own_server.client(), "call-1") == "closed"


@pytest.mark.parametrize("how", ["lost", "ended"])
async def test_a_call_that_is_no_longer_ours(how: str) -> None:
    """Lost or ended before the limit, or while good-bye is said: the block goes on, and nothing is closed."""
    said: list[str] = []

    async def says_good_bye() -> None:
        said.append("good-bye")
        call.held = False
        getattr(call, how).set()

    for early in (True, False):
        call = Call()
        async with limit_duration(call, 0.05, on_end=says_good_bye) as limit:
            if early:
                call.held = False
                getattr(call, how).set()
            await eventually(lambda: limit.left == 0 and not call.held)  # noqa: B023
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert (limit.reached, call.closed, len(said)) == (False, 0, 0 if early else 1)


async def test_nobody_is_warned_of_what_is_in_doubt() -> None:
    """A warning waits until the session is held, is left out where nothing is left then, and is not given of a lost call."""
    warned: list[float] = []

    async def warns(left: float) -> None:
        assert call.held
        warned.append(left)

    call = Call()
    call.held = False
    async with limit_duration(call, 3600, warn=3599.9, on_warn=warns) as limit:
        await eventually(lambda: limit.left < 3599.8)
        assert not warned
        call.held = True
        await eventually(lambda: warned)
    call = Call()
    call.held = False
    async with limit_duration(call, 0.2, warn=0.1, on_warn=warns) as limit:
        await eventually(lambda: not limit.left)
        call.held = True
        await anyio.sleep_forever()
    call = Call()
    call.held = False
    call.lost.set()
    async with limit_duration(call, 0.1, warn=0.09, on_warn=warns) as limit:
        await eventually(lambda: not limit.left)
    assert len(warned) == 1


async def test_a_warning_that_lasts_does_not_put_off_the_end() -> None:
    """Where less is left than the warning may take, it is cancelled at the end."""
    call = Call()
    call.began -= 3600
    with within(30):
        async with limit_duration(call, 3600.2, warn=3600, on_warn=hangs) as limit:
            await anyio.sleep_forever()
    assert limit.reached


async def raises(*_: float) -> None:
    raise ZeroDivisionError


async def hangs(*_: float) -> None:
    await anyio.sleep_forever()


async def ends_as_cancelled(*_: float) -> None:
    task = asyncio.ensure_future(anyio.sleep_forever())
    task.cancel()
    await task


@pytest.mark.parametrize("hook", [raises, hangs, ends_as_cancelled])
async def test_a_hook_that_fails_does_not_keep_a_call(hook: Any) -> None:
    """Whatever the program's hooks do, the call is ended at its limit, and the log names the hook."""
    call = Call()
    with capture_logs() as logs:
        async with limit_duration(call, 0.2, warn=0.1, on_warn=hook, on_end=hook, goodbye=0.05) as limit:
            await anyio.sleep_forever()
    assert (limit.reached, call.closed) == (True, 1)
    assert "on_end" in [line.get("hook") for line in logs]
    assert logs[-1]["event"] == "limit_reached"


async def test_a_store_that_does_not_close() -> None:
    """Without an answer the call is over here and closed later; refused, it is another worker's and was not ended."""
    for refusal, reached in ((StoreUnavailableError("timeout"), True), (FencedError("call-1"), False)):
        call = Call(refusal=refusal)
        async with limit_duration(call, 0.01) as limit:
            await anyio.sleep_forever()
        assert (limit.reached, call.closed) == (reached, 1)


async def test_a_cancelled_block_ends_nothing() -> None:
    """A block that is cancelled from outside, before its limit or while good-bye is said, is cancelled, and closes nothing."""
    call = Call()
    for seconds in (3600.0, 0.01):
        with anyio.CancelScope() as scope:

            async def cancels() -> None:
                scope.cancel()
                await anyio.sleep_forever()

            async with limit_duration(call, seconds, on_end=cancels):
                if seconds == 3600.0:
                    scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert call.closed == 0


async def test_a_call_that_was_told_good_bye_is_closed() -> None:
    """The program is cancelled as its block cleans up after the limit: the call is closed all the same."""
    call = Call()
    with anyio.CancelScope() as scope:
        async with limit_duration(call, 0.01):
            try:
                await anyio.sleep_forever()
            finally:
                scope.cancel()
        await anyio.sleep_forever()
    assert (scope.cancelled_caught, call.closed) == (True, 1)


async def test_a_child_ends_its_call_as_its_owner_would(url: str, redis_client: redis.Redis) -> None:
    """A child counts from the call's first opening, says good-bye, and has the session closed."""
    said: list[bool] = []
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1")
        session.began -= 1000
        async with ChildSession((await worker.channel()).address, "call-1") as child:

            async def says_good_bye() -> None:
                said.append(child.held)

            async with limit_duration(child, 3600) as limit:
                assert 2500 < limit.left <= 2600
            async with limit_duration(child, 1 + clock.now() - session.began, on_end=says_good_bye) as limit:
                await anyio.sleep_forever()
            assert (said, limit.reached, child.ended.is_set()) == ([True], True, True)
            await eventually(lambda: state_of(redis_client, "call-1") == "closed")
        assert not worker.sessions


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"seconds": 0}, "a duration above 0"),
        ({"seconds": -1}, "a number of seconds"),
        ({"seconds": float("inf")}, "a number of seconds"),
        ({"warn": -1}, "a number of seconds"),
        ({"goodbye": "5"}, "a number of seconds"),
        ({"warn": 60, "on_warn": hangs}, "warn: 60 is not less than the limit of 60 s"),
        ({"on_warn": "say"}, "a function"),
        ({"on_end": 5}, "a function"),
    ],
)
async def test_what_cannot_be_a_limit(wrong: dict[str, Any], why: str) -> None:
    """It is refused before anything begins, with the value and the rule."""
    entered = False
    with pytest.raises(InvalidValueError, match=why):
        async with limit_duration(Call(), **{"seconds": 60, **wrong}):
            entered = True
    assert not entered
