"""What the library is given to write: what breaks a rule is refused before anything is sent, and hurts nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import redis

from coordinator import CoordinatorError, Offer, Session, Worker
from coordinator.store.keys import Keys
from tests.coordinating import coordinating
from tests.hostile import EVIL, hidden_in
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
NOT_IDS = ["", "a b", "a{b}", "a\x1b[2J", "a\n", "x" * 257, "\ud800", None, 5]
NOT_TEXTS = ["a\x00", "a\x1b[2J", "a\x9b", "a\u202e", "a\u2028", "a\ud800", "x" * 257, None, 5, b"a"]
NOT_REASONS: list[Any] = ["a\ud800", "x" * 1025, None, 5, b"a"]


def nested(depth: int) -> Any:
    data: Any = 1
    for _ in range(depth):
        data = {"a": data}
    return data


NOT_DATA = [
    *(nested(depth) for depth in (65, 963, 10_000)), {"a": float("nan")}, {"a": float("inf")}, {"a": 2**53}, {"a": 10**5000},
    {"a": "\ud800"}, {"\ud800": 1}, {"a": "x" * 70_000}, b"x" * 70_000, {"a": {1}}, [1], "text", None, 5,
]  # fmt: skip

Do = Callable[[Worker, Session, Any], Awaitable[object]]


async def stage(worker: Worker, session: Session, data: Any) -> None:
    session.stage(data)


async def of_child(worker: Worker, session: Session, data: Any) -> None:
    child = await worker.attach(session.id, session.epoch)
    await child.checkpoint(data)


OPERATIONS: dict[str, tuple[Do, list[Any]]] = {
    "open: id": (lambda w, s, bad: w.open(bad), NOT_IDS),
    "open: data": (lambda w, s, bad: w.open("other", bad), NOT_DATA),
    "open: pool": (lambda w, s, bad: w.open("other", pool=bad), ["a b", "a\x1b", "x" * 64, 5, "\ud800"]),
    "open: tenant": (lambda w, s, bad: w.open("other", tenant=bad), NOT_TEXTS),
    "open: requires": (lambda w, s, bad: w.open("other", requires=bad), [*([bad] for bad in NOT_TEXTS), "gpu", ["x"] * 65, None]),
    "checkpoint": (lambda w, s, bad: s.checkpoint(bad), NOT_DATA),
    "stage": (stage, NOT_DATA),
    "checkpoint of a child": (of_child, NOT_DATA),
    "release": (lambda w, s, bad: s.release(bad), NOT_REASONS),
    "cannot_serve": (lambda w, s, bad: s.cannot_serve(bad), NOT_REASONS),
    "adopt: id": (lambda w, s, bad: w.adopt(bad, 0), NOT_IDS),
    "locate: id": (lambda w, s, bad: w.locate(bad), NOT_IDS),
    "attach: id": (lambda w, s, bad: w.attach(bad, s.epoch), NOT_IDS),
    "attach: epoch": (lambda w, s, bad: w.attach("call", bad), [0, -1, 2**53, 10**5000, "7", 1.5, None, True]),
    "certify: instance": (lambda w, s, bad: w.certify(bad), ["", "a", "a~", "a~\x1b", "a~" + "0" * 33, None, 5]),
    "certify: cause": (lambda w, s, bad: w.certify("b~1", cause=bad), ["", "left", "a\x1b", None, ["exited"]]),
    "certify: reason": (lambda w, s, bad: w.certify("b~1", bad), NOT_REASONS),
    "drain: reason": (lambda w, s, bad: w.drain(1, bad), NOT_REASONS),
    "drain: timeout": (lambda w, s, bad: w.drain(bad), [-1, float("nan"), float("inf"), "5", True]),
}  # fmt: skip


def stored(client: redis.Redis) -> dict[bytes, Any]:
    """All that is kept of calls, names and happenings, but for beats, and for how long a child believes."""
    found: Any = client.keys("{recovery:0}:*")
    kept = {key: client.dump(key) for key in found if key.split(b":")[2] in (b"owned", b"names", b"events", b"offers")}
    records: Any = {key: client.hgetall(key) for key in found if key.split(b":")[2] == b"session"}
    return {
        **kept,
        **{k: {n: v for n, v in record.items() if not n.startswith(b"child")} for k, record in records.items()},
    }


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_breaks_a_rule_is_refused_and_nothing_is_sent(
    operation: str, url: str, redis_client: redis.Redis
) -> None:
    """Each operation with each wrong value: a clear error of one printable line; the store stays as it was, the call is held."""
    do, wrong = OPERATIONS[operation]
    async with Worker(
        url, name="a", heartbeat_interval="10s", dead_after="60s", lost_connection_after=0, wedged_after="60s"
    ) as worker:
        session = await worker.open("call", {"n": 1})
        before = stored(redis_client)
        for bad in wrong:
            with pytest.raises(CoordinatorError) as refused:
                await do(worker, session, bad)
            assert isinstance(refused.value, ValueError) or "above the limit" in str(refused.value), refused.value
            assert not hidden_in(str(refused.value), lines="")
            assert len(str(refused.value)) < 400
            assert stored(redis_client) == before
            assert session.held
            assert not worker.is_draining
        await session.checkpoint({"n": 2})
        await session.close()


async def test_a_reason_never_keeps_a_call_from_going_to_others(url: str, redis_client: redis.Redis) -> None:
    """Another system's text with control sequences: the call is released, and what is stored of the reason is printable."""
    async with Worker(url, name="a") as worker:
        await (await worker.open("call")).release(EVIL)
        client: Any = redis_client
        told = [entry for _, entry in client.xrange(KEYS.events)]
        texts = [
            value.decode() for fields in (client.hgetall(KEYS.session("call")), *told) for value in fields.values()
        ]
        assert any("room" in text for text in texts)
        assert not [text for text in texts if hidden_in(text, lines="")]
        session = await worker.adopt("call", wait=0)
        assert session is not None
        await session.close()


async def test_a_decline_is_refused_for_its_reason_and_the_offer_stays(url: str) -> None:
    """A reason that is none: nothing is given back, and the offer can still be adopted."""
    async with coordinating(url), Worker(url, name="a") as owner, Worker(url, name="b") as heir:
        await (await owner.open("call", {"n": 1})).release("away")
        offers: list[Offer] = []

        async def take(worker: Worker) -> None:
            async for offer in worker.offers():
                offers.append(offer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, heir)
            await eventually(lambda: offers)
            for bad in NOT_REASONS:
                for give_back in (offers[0].decline, offers[0].cannot_serve):
                    with pytest.raises(ValueError, match="reason"):
                        await give_back(bad)
            session = await offers[0].adopt()
            assert session is not None
            assert session.recovery_data == {"n": 1}
            await session.close()
            tasks.cancel_scope.cancel()


async def test_a_handler_s_error_of_any_name_sends_its_call_to_others(url: str, redis_client: redis.Redis) -> None:
    """The name of its class, and what it says of itself, are whatever they are: the call is released, the worker lives on."""

    def cannot_be_told(self: object) -> str:
        raise RecursionError

    odd = type("\x1b" + "X" * 5000, (Exception,), {"__repr__": cannot_be_told, "__str__": cannot_be_told})

    async def handler(session: Session) -> None:
        raise odd

    async with Worker(url, name="a") as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve, handler)
        await worker.open("call")
        await eventually(lambda: redis_client.hget(KEYS.session("call"), "state") == b"offered")
        tasks.cancel_scope.cancel()


async def test_data_that_fits_comes_back_as_it_was(url: str) -> None:
    """At every edge of the rules: nesting, whole numbers, floats, every character, and bytes of any kind."""
    edge = {
        "deep": nested(63),
        "whole": [2**53 - 1, 1 - 2**53],
        "float": [1e300, -0.0],
        "text": EVIL,
        "\x1b\u202e": None,
    }
    async with Worker(url, name="a") as a, Worker(url, name="b") as b:
        given: list[Any] = [edge, b"\x00\xff" + b"[" * 1000]
        for number, data in enumerate(given):
            session = await a.open(f"call-{number}", data, tenant="ACME GmbH ❤", requires=["zone=north east"])
            await session.release("room")
            heir = await b.adopt(session.id, wait=0)
            assert heir is not None
            assert heir.recovery_data == data
            assert heir.tenant == "ACME GmbH ❤"
            await heir.close()
