"""Workers that are bound to a tenant: they open, read and adopt what is its, and another tenant's calls do not wait for them."""

from __future__ import annotations

import copy
from typing import Any

import anyio
import pytest
import redis

from coordinator import Session, TenantError, Worker
from coordinator.policy import OTHER_TENANT
from coordinator.store.keys import Keys
from coordinator.store.usual import BATCH
from tests import inside
from tests.coordinating import coordinating
from tests.inside import instance_of, member_of
from tests.records import state
from tests.waiting import eventually
from tests.worker.test_worker import first_offer

KEYS = Keys("recovery", 0)


def events(client: Any, kind: bytes) -> list[dict[bytes, bytes]]:
    """What happened, of one kind."""
    return [event for _, event in client.xrange(KEYS.events) if event[b"type"] == kind]


def forget_tenant(client: Any, call: str) -> None:
    """Its entry is as an older program would have written it."""
    offers = KEYS.offers("default")
    (entry, fields), *_ = client.xrevrange(offers)
    client.xdel(offers, entry)
    client.hset(
        KEYS.session(call), "offer_id", client.xadd(offers, {k: v for k, v in fields.items() if k != b"tenant"})
    )


async def test_what_a_bound_worker_opens_is_its_tenant_s(url: str, redis_client: redis.Redis) -> None:
    """Without a word, or with its own name; of another it opens nothing, and nothing is sent."""
    async with Worker(url, name="a", tenant="acme") as a:
        for call, given in (("call-1", ""), ("call-2", "acme")):
            session = await a.open(call, tenant=given)
            assert session.tenant == "acme"
            assert redis_client.hget(KEYS.session(call), "tenant") == b"acme"
            await session.close()
        with pytest.raises(TenantError, match="call-3"):
            await a.open("call-3", tenant="globex")
        assert not redis_client.exists(KEYS.session("call-3"))


async def test_what_is_another_s_cannot_be_had_by_id(url: str) -> None:
    """Neither adopted, nor asked for, nor attached to, nor located; its owner keeps it."""
    async with (
        Worker(url, name="a", tenant="acme") as a,
        Worker(url, name="b", tenant="globex", address="b:5060") as b,
    ):
        session = await b.open("call", b"b's")
        for attempt in (a.adopt("call", wait=5), a.adopt("call", wait=0), a.attach("call", session.epoch)):
            with pytest.raises(TenantError):
                await attempt
        assert await a.locate("call") is None
        assert await b.locate("call") == "b:5060"
        assert session.held
        await session.close()


async def test_orphans_of_a_tenant_without_workers_hold_up_nobody(url: str, redis_client: redis.Redis) -> None:
    """They wait, uncounted, while the other tenant's calls are served behind them; a worker of theirs gets them all."""
    served: dict[str, str] = {}

    async def handler(session: Session) -> None:
        served[session.id] = session.tenant
        await anyio.sleep_forever()

    calls = {f"{tenant}-{n}": tenant for n in range(15) for tenant in ("globex", "acme")}
    async with (
        coordinating(url),
        anyio.create_task_group() as tasks,
        Worker(url, name="a", tenant="acme", lease=0.5) as a,
    ):
        async with Worker(url, name="owner") as owner:
            for call, tenant in calls.items():
                await owner.open(call, b"x", tenant=tenant)
            tasks.start_soon(a.serve, handler)
            await instance_of(owner).end("exited", "it was killed")
        await eventually(lambda: list(served.values()).count("acme") == 15, 20)
        assert set(served.values()) == {"acme"}
        declined = {event[b"session"].decode() for event in events(redis_client, b"declined")}
        assert not {call for call in declined if calls[call] == "globex"}  # nobody passes them round and round
        async with Worker(url, name="b", tenant="globex") as b:
            tasks.start_soon(b.serve, handler)
            await eventually(lambda: served == calls, 20)
            assert {s.attempt for s in b.sessions} == {1}
            instance_of(b).abandon()
        instance_of(a).abandon()
        tasks.cancel_scope.cancel()
    redis_client.flushall()


async def test_a_worker_of_another_tenant_is_no_heir_to_wait_for(url: str) -> None:
    """Whoever leaves waits for those that may take its calls, and for nobody else."""
    async with Worker(url, name="a", tenant="acme"), Worker(url, name="any") as anybody:
        for tenant, waits in (("acme", True), ("globex", False)):
            session = await anybody.open("call", tenant=tenant)
            assert await instance_of(anybody).others_live() == waits
            await session.close()


async def test_a_living_worker_of_the_tenant_gets_it_from_others_at_once(url: str, redis_client: redis.Redis) -> None:
    """Whoever reads an offer of another tenant passes it on, uncounted, and says why."""
    async with (
        coordinating(url),
        Worker(url, name="a", tenant="acme") as a,
        Worker(url, name="owner", tenant="globex") as owner,
    ):
        instance_of(a).take_offers(4)
        await eventually(lambda: member_of(a).reader.fresh)
        async with Worker(url, name="b", tenant="globex") as b:
            await owner.open("call", b"x")
            await instance_of(owner).end("exited", "it was killed")
            await eventually(lambda: events(redis_client, b"declined"))
            session = await (await first_offer(b)).adopt()
            assert session is not None
            assert (session.attempt, session.recovery_data) == (1, b"x")
            assert {e[b"reason"] for e in events(redis_client, b"declined")} == {OTHER_TENANT.encode()}
            await session.close()


async def test_what_goes_back_takes_no_lease_of_what_is_in_hand(url: str, redis_client: redis.Redis) -> None:
    """More of them than one call keeps the leases of, and before it: the offer that the program has is kept all the same."""
    async with Worker(url, name="a", tenant="acme") as a, Worker(url, name="owner") as owner:
        await (await owner.open("call", b"x", tenant="acme")).release("no media")
        offer, reader = await first_offer(a), member_of(a).reader
        foreign = {b"%d-0" % n: copy.copy(offer) for n in range(BATCH)}
        for n, one in enumerate(foreign.values()):
            one.session_id = f"foreign-{n}"
        inside.set_known_offers(reader, {**foreign, **inside.known_offers(reader)}, foreign.values())
        redis_client.hset(KEYS.session("call"), "lease_until", 1)
        await inside.keep_leases(reader)
        assert int(redis_client.hget(KEYS.session("call"), "lease_until") or 0) > 1
        inside.set_known_offers(reader, {offer.entry: offer})
        session = await offer.adopt()
        assert session is not None
        await session.close()


async def test_a_drain_hands_over_within_the_tenant(url: str, redis_client: redis.Redis) -> None:
    """An heir of the tenant takes it; with nobody of the tenant left it waits as an orphan, with the other tenant's worker alive."""
    async with coordinating(url), Worker(url, name="a", tenant="acme") as a:
        instance_of(a).take_offers(4)
        async with Worker(url, name="b1", tenant="globex") as first:
            await first.open("call", b"x")
            async with Worker(url, name="b2", tenant="globex") as second:
                instance_of(second).take_offers(4)

                async def take() -> None:
                    async for offer in second.offers():
                        await offer.adopt()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take)
                    report = await first.drain(10)
                    tasks.cancel_scope.cancel()
                assert report.handed_over == {"call": second.id}
                await second.drain(0.5)
        await eventually(lambda: state(redis_client, "call") == "offered")
        assert not a.sessions
    redis_client.flushall()


async def test_an_entry_of_an_older_program_is_looked_up(url: str, redis_client: redis.Redis) -> None:
    """It does not name the tenant: the record does, and a worker of another one leaves it alone."""
    async with Worker(url, name="a", tenant="acme") as a, Worker(url, name="owner") as owner:
        for call, tenant in (("theirs", "globex"), ("ours", "acme")):
            session = await owner.open(call, b"x", tenant=tenant)
            await session.release("no media")
            forget_tenant(redis_client, call)
        offer = await first_offer(a)
        assert (offer.session_id, offer.tenant) == ("ours", "acme")
        assert {event[b"session"] for event in events(redis_client, b"declined")} <= {b"theirs"}
        taken = await offer.adopt()
        assert taken is not None
        await taken.close()
    redis_client.flushall()
