"""DURABILITY: a change of hands waits for replicas, a batch at once; nothing else does, and those that are away keep nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from coordinator import StoreUnavailableError, Worker
from coordinator.store import PROTOCOL, calls
from coordinator.store.connect import Connector
from coordinator.store.durability import DURABLE, Durability
from coordinator.store.executor import Executor
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall
from tests.coordinating import coordinating
from tests.deployments import Node, replicated
from tests.store.test_connection_errors import talking
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
ONE = Durability(1)


@asynccontextmanager
async def executing(url: str, durability: Durability = ONE) -> AsyncIterator[Executor]:
    """An executor on its own connection."""
    connector = Connector(url, store_timeout=2.0, durability=durability)
    try:
        yield connector.executor(KEYS.tag)
    finally:
        await connector.aclose()


@pytest.fixture
def pair() -> Iterator[tuple[str, Node, Node]]:
    """URL, primary and replica."""
    with replicated() as made:
        yield made


def waits(node: Node) -> int:
    """How often a server was asked to wait."""
    told = node.client.info("commandstats").get("cmdstat_wait", {})
    return int(told.get("calls", 0))


def certificate(n: int) -> ScriptCall[Any]:
    return calls.certify(KEYS, instance=f"w{n}~1", cause="exited", by="test", reason="")


async def test_a_worker_has_what_a_replica_has(pair: tuple[str, Node, Node]) -> None:
    """When an opening or an adoption is answered the replica says the same; checkpoints and beats wait for nobody."""
    url, primary, replica = pair
    async with coordinating(url), Worker(url, name="a", durability="replicas:1") as worker:
        session = await worker.open("call", b"one")
        key = KEYS.session("call")
        assert replica.client.hget(key, "owner").decode() == worker.id
        before = waits(primary)
        for n in range(20):
            await session.checkpoint(b"%d" % n)
        assert waits(primary) == before
        async with Worker(url, name="b", durability="replicas:1") as heir:
            await session.release()
            async for offer in heir.offers():
                adopted = await offer.adopt()
                assert adopted is not None
                assert replica.client.hget(key, "owner").decode() == heir.id
                await adopted.close()
                break


async def test_a_batch_waits_once(pair: tuple[str, Node, Node]) -> None:
    """Fifty certificates of one turn of the event loop are one batch; without the setting nobody waits."""
    url, primary, _ = pair
    async with executing(url) as run:
        await run.run(_making())
        await run.run(certificate(50))  # from now on the server knows the script
        before = waits(primary)
        await run.run_many([certificate(n) for n in range(50)])
        assert waits(primary) == before + 1
    async with executing(url, Durability()) as run:
        before = waits(primary)
        await run.run(certificate(51))
        assert waits(primary) == before


async def test_replicas_that_are_away_keep_nobody(pair: tuple[str, Node, Node]) -> None:
    """It goes on, and is said once; and said again when they are back."""
    url, primary, replica = pair
    replica.pause()
    try:
        with structlog.testing.capture_logs() as logs:
            async with Worker(url, name="a", durability="replicas:1") as worker:
                for n in range(5):
                    await worker.open(f"call-{n}", b"")
                assert [one["replicas"] for one in logs if one["event"] == "not_replicated"] == [0]
                before = waits(primary)
                await worker.open("at-once", b"")
                assert waits(primary) == before, "nobody waits again and again for who is away"
                replica.resume()

                async def confirmed() -> bool:
                    await (await worker.open("another", b"")).close()
                    return any(one["event"] == "replicated_again" for one in logs)

                await eventually(confirmed)
                before = waits(primary)
                await worker.open("confirmed", b"")
                assert waits(primary) == before + 1
    finally:
        replica.resume()


async def test_without_the_answer_of_the_replicas_the_outcome_is_unknown() -> None:
    """The primary says yes, and is gone before a replica could have it: that is no answer; a checkpoint's is one."""
    opened = b"*3\r\n$2\r\nOK\r\n$5\r\nepoch\r\n$1\r\n7\r\n"
    call = calls.certify(KEYS, instance="w~1", cause="exited", by="test", reason="")
    done = b"*1\r\n$2\r\nOK\r\n"
    for script, answer in ((call, done), (_opening(), opened)):
        with talking(answer) as url:
            async with executing(url) as run:
                with pytest.raises(StoreUnavailableError) as raised:
                    await run.run(script)
                assert raised.value.sent
        with talking(answer) as url:
            async with executing(url, Durability()) as run:
                assert (await run.run(script)).word == "OK"


def _opening() -> ScriptCall[Any]:
    return calls.open(
        KEYS, session="s", instance="w~1", request="r", floor=0, pool="default", tenant="", requires="", data=b""
    )


def _making() -> ScriptCall[Any]:
    return calls.init(KEYS, partitions=1, protocol=PROTOCOL, lineage="test", hold=0)


async def test_the_thread_that_beats_waits_too(pair: tuple[str, Node, Node]) -> None:
    """Its certificates are replicated when they are answered; its beats do not wait."""
    url, primary, replica = pair
    connector = Connector(url, store_timeout=2.0, durability=ONE)
    async with executing(url) as run:
        await run.run(_making())
    heart = connector.heart(KEYS.tag)
    try:
        before = waits(primary)
        [answer] = await asyncio.to_thread(heart.run_many, [certificate(1)])
        assert not isinstance(answer, Exception)
        assert waits(primary) == before + 1
        assert replica.client.hget(KEYS.instance("w1~1"), "state") == primary.client.hget(
            KEYS.instance("w1~1"), "state"
        )
    finally:
        await asyncio.to_thread(heart.close)
        await connector.aclose()


@pytest.mark.parametrize("text", ["1", "replicas", "replicas:0", "replicas:-1", "replicas:100", "all", "replicas: 1"])
def test_what_is_no_number_of_replicas_is_refused(text: str) -> None:
    """One sentence with the rule."""
    with pytest.raises(ValueError, match=r"replicas:N with N from 1 to 99"):
        Durability.parse(text)


def test_what_changes_hands_is_durable() -> None:
    """Every script that gives a session to another owner, or takes it from a dead one for good, is in the list by its name."""
    assert set(vars(calls)) >= DURABLE
