"""The worker's library as a program uses it, on a real Redis, with a coordinator in the same process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import redis

from coordinator import (
    DataTooLargeError,
    DrainingError,
    FencedError,
    InvalidDataError,
    InvalidIdError,
    NameInUseError,
    Offer,
    Session,
    SessionGoneError,
    SessionHeldError,
    Worker,
)
from coordinator.store.keys import Keys
from coordinator.worker.adoption import Adoption
from tests import inside
from tests.coordinating import coordinating
from tests.inside import member_of, serving_of
from tests.store.harness import Bench
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)


def record(client: redis.Redis, session: str) -> dict[str, str]:
    """What the store has of a session."""
    found: Any = client.hgetall(KEYS.session(session))
    return {k.decode(): v.decode("latin-1") for k, v in found.items()}


async def first_offer(worker: Worker) -> Offer:
    """The next offer."""
    with within(10):
        async for offer in worker.offers():
            return offer
    raise AssertionError("no offer came")


@asynccontextmanager
async def two_workers(url: str, **settings: Any) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers, ``a`` and ``b``."""
    async with Worker(url, name="a", **settings) as a, Worker(url, name="b", **settings) as b:
        yield a, b


async def test_an_opened_session_is_held_and_stored(url: str, redis_client: redis.Redis) -> None:
    """Opening gives a session that is held, with its data, and the store knows its owner."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", {"sequence": 1})
        assert session.held
        assert session.may_speak
        assert not session.recovered
        assert session.recovery_data == {"sequence": 1}
        stored = record(redis_client, "call-1")
        assert (stored["owner"], stored["epoch"], stored["state"]) == (worker.id, str(session.epoch), "active")


async def test_opening_again_gives_the_same_session(url: str) -> None:
    """An own session is returned as it is."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"first")
        assert await worker.open("call-1", b"second") is session
        assert session.recovery_data == b"first"


async def test_a_session_of_another_is_refused_by_name(url: str) -> None:
    """Opening a session that another owns names that owner."""
    async with two_workers(url) as (a, b):
        await a.open("call-1")
        with pytest.raises(SessionHeldError, match=a.id) as refused:
            await b.open("call-1")
        assert refused.value.owner == a.id


async def test_a_checkpoint_is_stored_byte_for_byte(url: str, redis_client: redis.Redis) -> None:
    """Any bytes come back as they were given."""
    data = bytes(range(256)) * 3
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1")
        await session.checkpoint(data)
        assert record(redis_client, "call-1")["data"].encode("latin-1") == data
        assert session.recovery_data == data


async def test_staged_data_is_written_later_and_only_the_newest(url: str, redis_client: redis.Redis) -> None:
    """Staging returns at once; of many the last one is stored, with far fewer writes."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1")
        for n in range(500):
            session.stage({"n": n})
        await eventually(lambda: '"n":499' in record(redis_client, "call-1")["data"].replace(" ", ""))
        assert int(record(redis_client, "call-1")["checkpoint"]) < 50


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"x" * 70_000, DataTooLargeError), ({"a": object()}, InvalidDataError), (["no", "mapping"], InvalidDataError)],
)
async def test_data_that_cannot_be_stored_changes_nothing(
    url: str, redis_client: redis.Redis, data: Any, error: type[Exception]
) -> None:
    """Data above the cap or not JSON-able is refused before anything is sent; the session goes on."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", b"good")
        for attempt in (session.checkpoint(data), worker.open("call-2", data)):
            with pytest.raises(error):
                await attempt
        with pytest.raises(error):
            session.stage(data)
        assert record(redis_client, "call-1")["data"] == "good"
        assert not record(redis_client, "call-2")
        await session.checkpoint(b"better")
        assert record(redis_client, "call-1")["data"] == "better"


@pytest.mark.parametrize("session_id", ["", "a b", "{x}", "é", "x" * 257])
async def test_ids_outside_the_alphabet_are_refused(url: str, session_id: str) -> None:
    """An id that breaks its rule is named, with the rule."""
    async with Worker(url, name="a") as worker:
        with pytest.raises(InvalidIdError, match="1 to 256 printable ASCII"):
            await worker.open(session_id)


async def test_a_closed_session_takes_no_more_writes(url: str, redis_client: redis.Redis) -> None:
    """After closing, writes are refused, closing again is fine, and the record ends by itself."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1")
        await session.close()
        await session.close()
        with pytest.raises(FencedError):
            await session.checkpoint(b"late")
        with pytest.raises(FencedError):
            session.stage(b"late")
        assert not session.held
        assert record(redis_client, "call-1")["state"] == "closed"
        assert redis_client.pttl(KEYS.session("call-1")) > 0


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_released_session_goes_to_another(url: str) -> None:
    """Releasing offers the session with its newest data; the adopter learns from whom and why."""
    async with two_workers(url) as (a, b):
        given = await a.open("call-1", b"old")
        await given.checkpoint(b"new")
        await given.release("no codec")
        offer = await first_offer(b)
        assert (offer.session_id, offer.cause, offer.previous_owner, offer.attempt) == ("call-1", "released", a.id, 1)
        assert offer.recovery_data == b"new"
        taken = await offer.adopt()
        assert taken is not None
        assert taken.recovered
        assert taken.held
        assert taken.epoch > given.epoch
        assert taken.recovery_data == b"new"
        assert not given.held


@pytest.mark.usefixtures("leaves_at_once")
async def test_an_offer_is_adopted_once(url: str) -> None:
    """Adopting twice gives the same session; whoever comes too late gets None."""
    async with two_workers(url) as (a, b):
        await (await a.open("call-1")).release()
        offer = await first_offer(b)
        taken = await offer.adopt()
        assert taken is not None
        assert await offer.adopt() is taken
        assert await a.adopt("unknown", wait=0) is None


async def test_a_declined_offer_comes_again_as_another_attempt(url: str) -> None:
    """Declining gives the offer back at once, and counts."""
    async with two_workers(url) as (a, b):
        await (await a.open("call-1")).release()
        offer = await first_offer(b)
        await offer.decline("busy")
        again = await first_offer(a)
        assert again.session_id == "call-1"
        assert again.attempt == 2
        assert again.epoch > offer.epoch


async def test_a_delegated_offer_is_adopted_by_id(url: str) -> None:
    """Delegating leaves the session adoptable by id at whichever worker the caller comes back to."""
    async with two_workers(url) as (a, b):
        await (await a.open("call-1", b"data")).release()
        offer = await first_offer(b)
        await offer.delegate()
        taken = await a.adopt("call-1")
        assert taken is not None
        assert taken.recovery_data == b"data"


@pytest.mark.usefixtures("leaves_at_once")
async def test_adopting_by_id_asks_a_living_owner(url: str) -> None:
    """The owner of a live call lets go with its newest data, and is told; the heir holds it."""
    async with two_workers(url) as (a, b):
        mine = await a.open("call-1", b"1")
        mine.stage(b"2")
        taken = await b.adopt("call-1", wait=5)
        assert taken is not None
        assert mine.lost.is_set()
        assert not mine.held
        assert taken.held
        assert taken.planned
        assert taken.recovery_data == b"2"
        with pytest.raises(FencedError):
            await mine.checkpoint(b"3")


async def test_adopting_by_id_awaits_the_verdict_on_a_silent_owner(url: str) -> None:
    """The owner is silent and not dead yet: adopting by id waits until it is declared, and then takes the call."""
    async with coordinating(url), Worker(url, name="b") as b, Worker(url, name="a") as a:
        await a.open("call-1", b"data")
        member_of(a).stop_beating()
        member_of(a).mailbox.open(a.id)
        setattr(*inside.letting_go_spot(member_of(a)), _never)
        taken = await b.adopt("call-1", wait=8)
        assert taken is not None
        assert taken.cause == "silence"


async def _never(session_id: str, heir: str) -> None:
    """A process that stands still lets nothing go."""


async def test_adopting_what_nobody_knows_is_none_at_once(url: str) -> None:
    """Unknown and closed sessions are not waited for."""
    async with Worker(url, name="a") as worker:
        await (await worker.open("closed")).close()
        with within(2):
            assert await worker.adopt("unknown", wait=30) is None
            assert await worker.adopt("closed", wait=30) is None


@pytest.mark.usefixtures("leaves_at_once")
async def test_locate_tells_the_owners_address(url: str) -> None:
    """The registered address of the owner, or None."""
    async with Worker(url, name="a", address="10.0.0.1:5060") as a, Worker(url, name="b") as b:
        await a.open("call-1")
        await b.open("call-2")
        assert await b.locate("call-1") == "10.0.0.1:5060"
        assert await b.locate("call-2") is None
        assert await b.locate("unknown") is None


async def test_an_attached_child_writes_for_its_parent(url: str, redis_client: redis.Redis) -> None:
    """A child with id and epoch writes as the owner; when the owner loses the session the child is refused."""
    async with two_workers(url) as (a, b):
        session = await a.open("call-1")
        await session.checkpoint(b"parent")
        child = await b.attach("call-1", session.epoch)
        assert child.held
        await child.checkpoint(b"child")
        assert record(redis_client, "call-1")["data"] == "child"
        await session.release()
        await eventually(child.lost.is_set)
        with pytest.raises(FencedError):
            await child.checkpoint(b"late")
        assert not child.held
        with pytest.raises(FencedError):
            await b.attach("call-1", session.epoch)
        with pytest.raises(SessionGoneError):
            await b.attach("unknown", 1)


async def test_leaving_normally_offers_what_is_left(url: str, redis_client: redis.Redis) -> None:
    """A worker that ends normally releases its calls and states that it left."""
    async with Worker(url, name="a") as worker:
        instance = worker.id
        await worker.open("call-1", b"data")
    assert record(redis_client, "call-1")["state"] == "offered"
    assert redis_client.hget(KEYS.instance(instance), "cause") == b"left"


async def test_leaving_by_an_exception_certifies_the_exit(url: str, redis_client: redis.Redis) -> None:
    """A worker that ends by an exception is dead at once, with its calls to be claimed."""
    with pytest.raises(ZeroDivisionError):
        async with Worker(url, name="a") as worker:
            instance = worker.id
            await worker.open("call-1", b"data")
            raise ZeroDivisionError
    died: Any = redis_client.hgetall(KEYS.instance(instance))
    assert (died[b"state"], died[b"cause"], died[b"reason"]) == (b"dead", b"exited", b"ZeroDivisionError")
    assert redis_client.zscore(KEYS.graves, instance) is not None
    async with coordinating(url), Worker(url, name="b") as b:
        assert await (await first_offer(b)).adopt() is not None


async def test_a_drained_worker_takes_nothing_new(url: str) -> None:
    """Draining reports what went, and opening afterwards is refused."""
    async with two_workers(url) as (a, b):
        for n in range(3):
            await a.open(f"call-{n}")
        report = await a.drain(timeout=1.5)
        assert sorted(report.released) == ["call-0", "call-1", "call-2"]
        assert not report.failed
        with pytest.raises(DrainingError):
            await a.open("call-9")
        assert (await first_offer(b)).session_id.startswith("call-")


async def test_two_live_processes_with_one_name_are_refused(url: str) -> None:
    """The second process with a name gets an error that names the first."""
    async with Worker(url, name="a", dead_after=1.0, heartbeat_interval=0.1, max_scan_gap=0.4) as first:
        with pytest.raises(NameInUseError, match=first.id):
            async with Worker(url, name="a", dead_after=1.0, heartbeat_interval=0.1, max_scan_gap=0.4):
                raise AssertionError("it was let in")
        assert (await first.open("call-1")).held


async def test_an_instance_that_the_store_forgot_registers_again(url: str, redis_client: redis.Redis) -> None:
    """When its registration is gone a worker joins again under its id, and its calls are held again."""
    async with Worker(url, name="a") as worker:
        session, instance = await worker.open("call-1", b"data"), worker.id
        redis_client.delete(KEYS.instance(instance))
        redis_client.zrem(KEYS.instances, instance)
        await eventually(lambda: redis_client.zscore(KEYS.instances, instance) is not None)
        await eventually(lambda: session.held)
        assert worker.id == instance
        await session.checkpoint(b"more")
        assert record(redis_client, "call-1")["data"] == "more"


async def test_a_fenced_worker_starts_over_under_a_new_id(url: str) -> None:
    """A certificate ends what it owns; it joins again under a new id and can open calls."""
    async with two_workers(url) as (a, b):
        session, before = await a.open("call-1"), a.id
        assert await b.certify(before, "an operator said so")
        with within(10):
            await session.lost.wait()
        assert not session.held
        assert not session.may_speak
        await eventually(lambda: a.id != before and not member_of(a).ledger.joining)
        assert (await a.open("call-2")).held
        assert not await b.certify(before, "twice")


@pytest.mark.usefixtures("leaves_at_once")
async def test_a_worker_gets_no_more_offers_than_it_has_room_for(url: str) -> None:
    """Capacity less what it owns is the most that a worker has in hand."""
    async with Worker(url, name="a") as a, Worker(url, name="b", capacity=3) as b:
        for n in range(10):
            await (await a.open(f"call-{n}")).release()
        taken: list[Session] = []

        async def take() -> None:
            async for offer in b.offers():
                session = await offer.adopt()
                if session is not None:
                    taken.append(session)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await eventually(lambda: len(taken) == 3)
            await anyio.wait_all_tasks_blocked()
            assert len(b.sessions) == 3
            await taken[0].close()
            await eventually(lambda: len(taken) == 4)
            assert len(b.sessions) == 3
            tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("leaves_at_once")
async def test_serve_ends_each_session_as_its_handler_ends(url: str, redis_client: redis.Redis) -> None:
    """Returning closes, raising releases, losing cancels; one handler's failure does not end the others."""
    cancelled = anyio.Event()
    go = anyio.Event()

    async def handler(session: Session) -> None:
        await go.wait()
        if session.id == "raises":
            raise ValueError("broken")
        if session.id == "lost":
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    async with two_workers(url) as (a, b), anyio.create_task_group() as tasks:
        tasks.start_soon(a.serve, handler)
        sessions = {name: await a.open(name) for name in ("returns", "raises", "lost")}
        go.set()
        await eventually(lambda: record(redis_client, "returns")["state"] == "closed")
        await eventually(lambda: sessions["raises"].closed.is_set())
        assert await b.adopt("lost", wait=5) is not None
        with within(5):
            await cancelled.wait()
        assert not a.is_draining
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("leaves_at_once")
async def test_serve_adopts_what_is_offered(url: str) -> None:
    """A serving worker runs its handler for adopted calls too."""
    seen: list[str] = []

    async def handler(session: Session) -> None:
        seen.append(session.id)
        await anyio.sleep_forever()

    async with two_workers(url) as (a, b), anyio.create_task_group() as tasks:
        tasks.start_soon(b.serve, handler)
        await (await a.open("call-1")).release()
        await eventually(lambda: seen == ["call-1"])
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("leaves_at_once")
async def test_resumed_ends_the_takeover_once(url: str, redis_client: redis.Redis) -> None:
    """Saying that media is up again is an event of its own, once an epoch."""
    async with two_workers(url) as (a, b):
        await (await a.open("call-1")).release()
        taken = await (await first_offer(b)).adopt()
        assert taken is not None
        await taken.resumed()
        await taken.resumed()
        events: Any = redis_client.xrange(KEYS.events)
        assert sum(fields[b"type"] == b"resumed" for _, fields in events) == 1


async def test_an_owner_that_is_buried_while_it_is_asked(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call is offered between the look at it and the question to its owner: it is adopted, not given up."""
    bench = Bench(redis_client)
    async with Worker(url, name="door") as worker:
        bench.join("dies~1")
        bench.open("call-1", "dies~1")
        executor = member_of(worker).part.executor
        command = executor.command

        async def and_then_it_dies(*args: Any) -> Any:
            answer = await command(*args)
            if args[0] == "HMGET" and not bench.client.zscore(bench.keys.orphans, "call-1"):
                bench.certify("dies~1")
                bench.claim("dies~1", ["call-1"])
            return answer

        monkeypatch.setattr(executor, "command", and_then_it_dies)
        session = await worker.adopt("call-1", wait=3)
        assert session is not None
        assert session.previous_owner == "dies~1"


def test_a_program_with_a_worker_may_fork(url: str, redis_client: redis.Redis) -> None:
    """Its child begins without a complaint about the heartbeat's thread."""
    code = (
        "import anyio, os, sys\n"
        "from coordinator import Worker\n"
        "async def main():\n"
        "    async with Worker(sys.argv[1], name='forks'):\n"
        "        child = os.fork()\n"
        "        if not child:\n"
        "            os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120, check=True)
    assert "Error" not in done.stderr


async def test_a_handover_that_nobody_waits_for_any_more_stays(url: str, redis_client: redis.Redis) -> None:
    """Whoever asked gave up while the owner was busy: the owner keeps the call, and no recovery is counted."""
    bench = Bench(redis_client)
    async with Worker(url, name="old") as old, Worker(url, name="gone") as gone:
        session = await old.open("call-1", b"data")
        bench.end_hold()
        with session.busy():
            assert await gone.adopt("call-1", wait=0.2) is None
        stored = record(redis_client, "call-1")
        assert (stored["state"], stored["owner"], stored["recoveries"]) == ("active", old.id, "0")
        assert session.held
        assert gone.sessions == ()


async def test_an_owner_lets_go_to_nobody_whose_word_was_lost(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heir's word that it waits no longer never came: its lease says so, and the owner keeps the call."""
    monkeypatch.setattr(*inside.withdrawal_spot(), _no_answer)
    async with Worker(url, name="old") as old, Worker(url, name="gone") as gone:
        session = await old.open("call-1", b"data")
        with session.busy():
            assert await gone.adopt("call-1", wait=0.2) is None
            lease_end = int(record(redis_client, "call-1")["lease_until"])
            await eventually(lambda: _server_ms(redis_client) > lease_end)
        await eventually(lambda: not inside.is_letting_go(member_of(old)))
        assert session.held
        assert record(redis_client, "call-1")["owner"] == old.id


@pytest.mark.usefixtures("leaves_at_once")
async def test_what_an_owner_let_go_in_the_last_moment_is_not_kept_unserved(
    url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner let go while its asker gave up: others are offered the call at once, and no recovery is counted."""
    monkeypatch.setattr(*inside.withdrawal_spot(), _no_answer)
    bench = Bench(redis_client)
    async with Worker(url, name="old") as old, Worker(url, name="gone") as gone, Worker(url, name="third") as third:
        session = await old.open("call-1", b"data")
        bench.end_hold()
        with session.busy():
            assert await gone.adopt("call-1", wait=0.2) is None
            redis_client.hset(KEYS.session("call-1"), "lease_until", _server_ms(redis_client) + 60_000)
        offer = await first_offer(third)
        taken = await offer.adopt()
        assert taken is not None
        assert (taken.id, session.lost.is_set(), gone.sessions) == ("call-1", True, ())
        assert record(redis_client, "call-1")["recoveries"] == "0"


async def _no_answer(adoption: Adoption, session_id: str, request: str) -> str:
    """The store does not hear it."""
    return ""


def _server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.mark.usefixtures("leaves_at_once")
async def test_serve_serves_what_is_adopted_by_id(url: str) -> None:
    """A call that came back here by its id is given to the handler as any other, and once."""
    served: list[str] = []

    async def handler(session: Session) -> None:
        served.append(session.id)
        await anyio.sleep_forever()

    async with Worker(url, name="old") as old, Worker(url, name="new") as new, anyio.create_task_group() as tasks:
        await old.open("call-1", b"data")
        tasks.start_soon(new.serve, handler)
        await eventually(lambda: serving_of(new) is not None)
        assert await new.adopt("call-1") is await new.adopt("call-1")
        await eventually(lambda: served == ["call-1"])
        tasks.cancel_scope.cancel()


async def test_closed_calls_are_not_remembered_for_ever(url: str) -> None:
    """What a worker keeps of the calls that ended is bounded by the time for which the store keeps them."""
    async with Worker(url, name="one", closed_ttl=0.02) as one:
        for n in range(5):
            await (await one.open(f"call-{n}", b"data")).close()

        async def another_is_the_only_one() -> bool:
            await (await one.open("another", b"data")).close()
            return not any(member_of(one).ledger.ended_here(f"call-{n}", 0) for n in range(5))

        await eventually(another_is_the_only_one)


@pytest.mark.usefixtures("leaves_at_once")
async def test_an_id_that_was_given_up_on_is_opened_anew(url: str, redis_client: redis.Redis) -> None:
    """A telephone number whose last call is a dead letter calls again: a new session, and the old one keeps its data."""
    bench = Bench(redis_client)
    async with two_workers(url, max_recoveries=0) as (a, b):
        old = await a.open("+15551234", b"first call")
        await old.release("no codec")
        assert record(redis_client, "+15551234")["state"] == "dead_lettered"
        new = await b.open("+15551234", b"second call")
        assert new.held
        assert new.epoch > old.epoch
        assert record(redis_client, "+15551234")["data"] == "second call"
        [member] = bench.members(KEYS.dead_letters)
        letter: Any = redis_client.hget(KEYS.letter(*member.split(" ")), "data")
        assert letter == b"first call"
