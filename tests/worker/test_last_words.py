"""What a session does before it is let go, and what says that it is alive."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import redis
import structlog
from hypothesis import given
from hypothesis import strategies as st

from coordinator import Session, Worker
from coordinator.states import SessionState
from coordinator.store.keys import Keys
from coordinator.worker.liveness import LOOKS, Silences
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


async def test_the_last_checkpoint_goes_to_the_heir(url: str) -> None:
    """Before it lets go, the owner's program is asked once, still holds the call, and what it writes then is what the heir gets."""
    async with Worker(url, name="a") as owner, Worker(url, name="b") as heir:
        owned = await owner.open("call-1", {"turn": 1})
        held: list[bool] = []

        async def last_words() -> None:
            held.append(owned.held)
            await owned.checkpoint({"turn": 2})

        owned.letting_go = last_words
        with within(10):
            session = await heir.adopt("call-1", wait=5)
        assert session is not None
        assert session.recovery_data == {"turn": 2}
        assert held == [True]


@pytest.mark.parametrize("fault", ["raises", "hangs", "waits for what was cancelled"])
async def test_a_hook_that_fails_does_not_keep_the_call(url: str, fault: str) -> None:
    """It raises, or it takes longer than half a lease: the heir gets the call with what was written before, and the log says so."""

    async def last_words() -> None:
        if fault == "raises":
            raise ZeroDivisionError
        if fault != "hangs":
            raise asyncio.CancelledError
        await anyio.sleep_forever()

    with structlog.testing.capture_logs() as logs:
        async with Worker(url, name="a", lease="400ms") as owner, Worker(url, name="b", lease="400ms") as heir:
            owned, other = await owner.open("call-1", {"turn": 1}), await owner.open("call-2")
            owned.letting_go = last_words
            with within(10):
                session = await heir.adopt("call-1", wait=5)
            assert session is not None
            assert session.recovery_data == {"turn": 1}
            assert other.held
    said = {"hangs": "letting_go_took_too_long"}.get(fault, "letting_go_failed")
    assert said in [entry["event"] for entry in logs]


async def test_at_the_end_of_a_drain(url: str, redis_client: redis.Redis) -> None:
    """A call that no worker takes is offered as an orphan, with what its program wrote last."""
    async with Worker(url, name="a") as owner:
        owned = await owner.open("call-1", {"turn": 1})

        async def last_words() -> None:
            await owned.checkpoint({"turn": 2})

        owned.letting_go = last_words
        report = await owner.drain(timeout=0.1)
        assert report.released == ("call-1",)
        assert b'"turn":2' in Bench(redis_client).client.hget(KEYS.session("call-1"), "data").replace(b" ", b"")


async def test_when_the_block_is_left(url: str, redis_client: redis.Redis) -> None:
    """No other worker lives: the call is offered as an orphan, with what its program wrote last."""
    async with Worker(url, name="a") as owner:
        owned = await owner.open("call-1", {"turn": 1})

        async def last_words() -> None:
            await owned.checkpoint({"turn": 2})

        owned.letting_go = last_words
    assert Bench(redis_client).record("call-1")["state"] == SessionState.OFFERED
    assert b"2" in Bench(redis_client).client.hget(KEYS.session("call-1"), "data")


async def test_a_program_that_ends_the_call_there(url: str) -> None:
    """It closes the call when it is asked for its last words: the call is closed, once, and nothing failed."""
    async with Worker(url, name="a") as owner:
        owned = await owner.open("call-1")
        owned.letting_go = owned.close
        report = await owner.drain(timeout=0.1)
        assert (report.closed, report.failed, report.released) == (("call-1",), {}, ())


async def test_a_call_that_hangs_is_given_to_another_worker_alone(url: str, redis_client: redis.Redis) -> None:
    """Of two calls that say they are alive one stops saying it: that one goes to another worker, its process named in the reason."""
    served: list[Session] = []

    async def handler(session: Session) -> None:
        served.append(session)
        await anyio.sleep_forever()

    async with coordinating(url), Worker(url, name="a", wedged_after="500ms") as owner, Worker(url, name="b") as heir:
        hangs, lives, never = [await owner.open(f"call-{n}") for n in range(3)]
        hangs.alive("job 17")
        async with anyio.create_task_group() as tasks:

            async def say() -> None:
                while True:
                    lives.alive()
                    await anyio.sleep(0.05)

            tasks.start_soon(say)
            tasks.start_soon(heir.serve, handler)
            await eventually(lambda: [session.id for session in served] == ["call-0"])
            assert hangs.lost.is_set()
            assert lives.held
            assert never.held
            tasks.cancel_scope.cancel()
    told = [fields for _, fields in Bench(redis_client).client.xrange(KEYS.events)]
    assert any(b"job 17 did not say that it is alive for 0.5 s" in fields.values() for fields in told)


class Spoken:
    """A session as the watch sees it."""

    def __init__(self, signs: int) -> None:
        self.id, self.signs, self.speaker = "call-1", signs, "a job"

    async def release(self, reason: str) -> None:
        raise AssertionError(reason)


def test_one_that_never_said_so_is_not_watched() -> None:
    """Silence counts from the first sign on."""
    silences, session = Silences(1.0), Spoken(0)
    assert all(not silences.look([session], 0.1) for _ in range(50))
    session.signs = 1
    looks = [bool(silences.look([session], 0.1)) for _ in range(12)]
    assert looks.index(True) == 11
    assert sum(looks) == 1


@given(st.floats(0, 1e6), st.integers(1, 30))
def test_a_pause_of_the_process_is_no_silence(pause: float, looks: int) -> None:
    """However long it stood still, that counts as two looks at most: the sessions had no chance to speak."""
    silences, session = Silences(1.0), Spoken(1)
    silences.look([session], 0.1)
    assert not silences.look([session], pause)
    for _ in range(min(looks, LOOKS - 3)):
        assert not silences.look([session], 0.1)


def test_a_sign_begins_anew() -> None:
    """What was silent before does not count after a sign."""
    silences, session = Silences(1.0), Spoken(1)
    for _ in range(40):
        for _ in range(9):
            assert not silences.look([session], 0.1)
        session.signs += 1
