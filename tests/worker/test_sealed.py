"""Sealed recovery data between workers: who has the key serves the call, nobody else reads it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from structlog.testing import capture_logs

from coordinator import KeyUnknownError, SealBrokenError, Session, Worker
from coordinator.keyring import KeyFile, KeyRing
from coordinator.policy import LACKS_KEY
from coordinator.store.keys import Keys
from coordinator.worker.sealer import Sealer
from tests.coordinating import coordinating
from tests.inside import instance_of, member_of, set_sealer
from tests.waiting import eventually, within
from tests.worker.test_worker import first_offer

KEYS = Keys("recovery", 0)
OLD, NEW = (KeyRing.generate(key_id) for key_id in ("old", "new"))
SMALL, LARGE = {"call_sid": "CA1"}, {"pad": "x" * 20_000}


def stored(client: redis.Redis, session: str = "call") -> dict[str, bytes]:
    """The record."""
    found: Any = client.hgetall(KEYS.session(session))
    return {name.decode(): value for name, value in found.items()}


def gave_back(client: Any) -> set[bytes]:
    """Sessions that somebody gave back for want of a key."""
    events = [event for _, event in client.xrange(KEYS.events)]
    return {e[b"session"] for e in events if e[b"type"] == b"declined" and e[b"reason"] == LACKS_KEY.encode()}


async def die(worker: Worker) -> None:
    """It ends as though it was killed."""
    await instance_of(worker).end("exited", "it was killed")


@pytest.mark.parametrize("data", [SMALL, LARGE, b"\xff\x00"])
async def test_an_heir_with_the_key_gets_what_was_written(url: str, redis_client: redis.Redis, data: Any) -> None:
    """In the form in which it was given, in the offer where it fits, and after the adoption; it writes under its own epoch."""
    async with (
        coordinating(url),
        Worker(url, name="heir", encryption_keys=f"{NEW},{OLD}") as heir,
        Worker(url, name="owner", encryption_keys=OLD) as owner,
    ):
        await owner.open("call", data)
        assert stored(redis_client)["encoding"].startswith(b"sealed:1:old:0:")
        await die(owner)
        offer = await first_offer(heir)
        assert offer.recovery_data == (b"" if data is LARGE else data)
        session = await offer.adopt()
        assert session is not None
        assert session.recovery_data == data
        await session.checkpoint(data)
        assert stored(redis_client)["encoding"].startswith(b"sealed:1:new:%d:" % session.epoch)
        await session.close()


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_who_lacks_the_key_gives_the_offer_back_uncounted(url: str, redis_client: redis.Redis, data: Any) -> None:
    """The program never sees it, no attempt counts, its key is named once in the log; who comes later with the key serves it."""
    served: list[str] = []

    async def handler(session: Session) -> None:
        served.append(session.id)
        await anyio.sleep_forever()

    async with coordinating(url), Worker(url, name="poor") as poor, anyio.create_task_group() as tasks:
        async with Worker(url, name="owner", encryption_keys=OLD) as owner:
            for call in ("call", "other"):
                await owner.open(call, data)
            with capture_logs() as logs:
                tasks.start_soon(poor.serve, handler)
                await die(owner)
                await eventually(lambda: gave_back(redis_client) == {b"call", b"other"})
        async with Worker(url, name="rich", encryption_keys=f"{NEW},{OLD}") as rich:
            sessions = [await (await first_offer(rich)).adopt() for _ in range(2)]
            assert {s.id: (s.recovery_data, s.attempt) for s in sessions if s} == {
                "call": (data, 1),
                "other": (data, 1),
            }
            for session in sessions:
                assert session is not None
                await session.close()
        assert [log["key"] for log in logs if log["event"] == "session_cannot_be_served"] == ["old"]
        assert not served
        tasks.cancel_scope.cancel()


async def test_a_key_that_arrives_is_used_at_once(url: str, redis_client: redis.Redis, tmp_path: Path) -> None:
    """Who gave a call back for want of its key takes it as soon as its file has that key, not some half a minute later."""
    file, served = tmp_path / "keys", anyio.Event()
    file.write_text(NEW)

    async def handler(session: Session) -> None:
        served.set()
        await anyio.sleep_forever()

    async with (
        coordinating(url),
        Worker(url, name="late", encryption_keys=KeyFile(file)) as late,
        Worker(url, name="owner", encryption_keys=OLD) as owner,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(late.serve, handler)
        await owner.open("call", SMALL)
        await die(owner)
        await eventually(lambda: gave_back(redis_client) == {b"call"})
        file.write_text(f"{NEW},{OLD}")
        with within(10):
            await served.wait()
        tasks.cancel_scope.cancel()


async def test_a_wrong_key_file_is_told_before_a_call_needs_it(url: str, tmp_path: Path) -> None:
    """A worker without any call, that takes offers, says what it thinks of a new file."""
    file = tmp_path / "keys"
    file.write_text(NEW)

    async def handler(_: Session) -> None:
        """There is no call."""

    with capture_logs() as logs:

        def told(event: str) -> bool:
            return any(log["event"] == event for log in logs)

        async with (
            Worker(url, name="idle", encryption_keys=KeyFile(file), lease=1) as idle,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(idle.serve, handler)
            for text, event in (("old:typo!", "encryption_keys_refused"), (f"{NEW},{OLD}", "encryption_keys_changed")):
                file.write_text(text)
                await eventually(partial(told, event))
            tasks.cancel_scope.cancel()


async def test_adopting_by_id_without_the_key_names_it(url: str, redis_client: redis.Redis) -> None:
    """The call goes back at once, uncounted, for whoever has the key; a living owner that is asked loses nothing either."""
    async with (
        coordinating(url),
        Worker(url, name="poor") as poor,
        Worker(url, name="owner", encryption_keys=OLD) as owner,
        Worker(url, name="rich", encryption_keys=OLD) as rich,
    ):
        await owner.open("call", SMALL)
        with pytest.raises(KeyUnknownError, match="'old'"):
            await poor.adopt("call", wait=8)
        assert not poor.sessions
        session = await rich.adopt("call", wait=8)
        assert session is not None
        assert session.recovery_data == SMALL
        assert stored(redis_client)["recoveries"] == b"0"
        await session.close()


def changed(client: Any, call: str, **fields: bytes) -> None:
    """Somebody who can write to Redis changes a record."""
    client.hset(KEYS.session(call), mapping=fields)


def from_another_session(client: Any, call: str) -> None:
    there = stored(client, "other")
    changed(client, call, data=there["data"], encoding=there["encoding"])


def a_flipped_bit(client: Any, call: str) -> None:
    data = stored(client, call)["data"]
    changed(client, call, data=data[:-1] + bytes([data[-1] ^ 1]))


def another_tenant(client: Any, call: str) -> None:
    changed(client, call, tenant=b"globex")


def an_epoch_to_come(client: Any, call: str) -> None:
    changed(client, call, encoding=b"sealed:1:old:9007199254740991:json")


BREAKS: list[Callable[[Any, str], None]] = [from_another_session, a_flipped_bit, another_tenant, an_epoch_to_come]


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("breaks", BREAKS)
async def test_a_broken_seal_is_a_dead_letter(
    url: str, redis_client: redis.Redis, breaks: Callable[[Any, str], None], data: Any
) -> None:
    """No program gets it, it is set aside as it was, and is broken again when it is replayed; its neighbour is served."""
    served: dict[str, object] = {}

    async def handler(session: Session) -> None:
        served[session.id] = session.recovery_data
        await anyio.sleep_forever()

    async with (
        coordinating(url),
        Worker(url, name="heir", encryption_keys=OLD) as heir,
        Worker(url, name="owner", encryption_keys=OLD) as owner,
        anyio.create_task_group() as tasks,
    ):
        for call in ("call", "other"):
            await owner.open(call, data)
        breaks(redis_client, "call")
        before = stored(redis_client)
        tasks.start_soon(heir.serve, handler)
        await die(owner)
        await eventually(lambda: "other" in served and stored(redis_client)["state"] == b"dead_lettered", 20)
        await eventually(lambda: not redis_client.sismember(KEYS.owned(heir.id), "call"), 20)
        after = stored(redis_client)
        assert (after["reason"], after["data"], after["encoding"]) == (b"broken", before["data"], before["encoding"])
        kept: Any = redis_client.hgetall(KEYS.set_aside("session:call"))
        assert kept[b"raw:data"] == before["data"]
        assert served == {"other": data}
        instance_of(heir).abandon()
        tasks.cancel_scope.cancel()
    redis_client.flushall()


async def test_adopting_a_broken_seal_by_id_says_so(url: str, redis_client: redis.Redis) -> None:
    """One clear error, and a dead letter; the worker that met it goes on, and owns nothing of it."""
    async with (
        coordinating(url),
        Worker(url, name="heir", encryption_keys=OLD) as heir,
        Worker(url, name="owner", encryption_keys=OLD) as owner,
    ):
        await owner.open("call", SMALL)
        a_flipped_bit(redis_client, "call")
        with pytest.raises(SealBrokenError, match="changed"):
            await heir.adopt("call", wait=8)
        await eventually(lambda: stored(redis_client)["state"] == b"dead_lettered")
        await eventually(lambda: not redis_client.sismember(KEYS.owned(heir.id), "call"))
        assert not heir.sessions
    redis_client.flushall()


async def test_plain_records_of_before_are_taken_over(url: str, redis_client: redis.Redis) -> None:
    """With keys they are read as they are, and sealed with the next checkpoint; with `sealed_only` they are dead letters."""
    async with (
        coordinating(url),
        Worker(url, name="heir", encryption_keys=OLD) as heir,
        Worker(url, name="strict", pool="strict", encryption_keys=OLD, sealed_only=True) as strict,
        Worker(url, name="owner") as owner,
    ):
        await owner.open("call", SMALL)
        await owner.open("refused", SMALL, pool="strict")
        await die(owner)
        session = await (await first_offer(heir)).adopt()
        assert session is not None
        assert session.recovery_data == SMALL
        await session.checkpoint(SMALL)
        assert stored(redis_client)["encoding"].startswith(b"sealed:1:old:")
        instance_of(strict).take_offers(4)
        await eventually(lambda: stored(redis_client, "refused")["state"] == b"dead_lettered")
        instance_of(heir).abandon()
    redis_client.flushall()


async def test_keys_rotate_by_file_while_programs_run(url: str, redis_client: redis.Redis, tmp_path: Any) -> None:
    """The new key last, then first: each write after that is sealed with it, and both programs read all of them."""
    rings = [KeyRing.parse(OLD)]
    async with (
        Worker(url, name="a", encryption_keys=lambda: rings[-1]) as a,
        Worker(url, name="b", encryption_keys=lambda: rings[-1]) as b,
    ):
        session = await a.open("call", SMALL)
        for ring, seals in ((f"{OLD},{NEW}", b"old"), (f"{NEW},{OLD}", b"new"), (NEW, b"new")):
            rings.append(KeyRing.parse(ring))
            await session.checkpoint({"ring": ring.count(",")})
            assert stored(redis_client)["encoding"].split(b":")[2] == seals
        taken = await b.adopt("call", wait=8)
        assert taken is not None
        assert taken.recovery_data == {"ring": 0}
        await taken.close()


async def test_a_child_writes_as_its_parent_does(url: str, redis_client: redis.Redis) -> None:
    """A child with the keys seals; one that lacks them cannot attach, as it would write what its parent cannot read, or in clear."""
    async with (
        Worker(url, name="a", encryption_keys=OLD) as owner,
        Worker(url, name="child", encryption_keys=OLD) as child,
        Worker(url, name="poor") as poor,
    ):
        session = await owner.open("call", SMALL, tenant="acme")
        await (await child.attach("call", session.epoch)).checkpoint(b"newer")
        assert stored(redis_client)["encoding"].startswith(b"sealed:1:old:%d:bytes:" % session.epoch)
        with pytest.raises(KeyUnknownError):
            await poor.attach("call", session.epoch)
        taken = await child.adopt("call", wait=8)
        assert taken is not None
        assert taken.recovery_data == b"newer"
        await taken.close()


async def test_what_its_predecessor_sealed_stays_a_worker_s_own(url: str, redis_client: redis.Redis) -> None:
    """A process that goes on as an instance without its keys keeps the calls, restates them as they are, and writes none in clear."""
    async with Worker(url, name="a", encryption_keys=OLD) as owner:
        await owner.open("call", SMALL)
        sealed = stored(redis_client)
        member = member_of(owner)
        keyed = set_sealer(owner, Sealer("recovery"))
        member.ledger.forget(owner.sessions[0])
        await member.take_up()
        session = owner.sessions[0]
        for attempt in (lambda: session.recovery_data, lambda: session.stage(b"clear")):
            with pytest.raises(KeyUnknownError):
                attempt()
        redis_client.hdel(KEYS.session("call"), "data", "encoding", "state", "owner", "epoch")
        member.resync.want("lost_writes", "as in a test")
        await eventually(lambda: stored(redis_client).get("encoding") == sealed["encoding"], 20)
        assert stored(redis_client)["data"] == sealed["data"]
        set_sealer(owner, keyed)
        assert session.recovery_data == SMALL
        await eventually(lambda: session.held)
        member.ledger.forget(session)
        await member.take_up()  # with the keys it is opened at once, for whoever lists what is owned
        assert (owner.sessions[0].encoding, owner.sessions[0].recovery_data) == ("json", SMALL)
        await owner.sessions[0].close()


async def test_an_opening_without_a_handle_is_found_again_as_it_is_stored(url: str) -> None:
    """Its data, and the tenant that it is bound to, are the record's, whatever the second request says."""
    async with Worker(url, name="a", encryption_keys=OLD) as owner:
        first = await owner.open("call", SMALL, tenant="acme")
        member_of(owner).ledger.forget(first)
        again = await owner.open("call", {"other": 1}, tenant="globex")
        assert (again.recovery_data, again.tenant) == (SMALL, "acme")
        await again.close()


async def test_who_cannot_open_a_call_does_not_ask_for_it(url: str, redis_client: redis.Redis) -> None:
    """Its living owner keeps it: asked for by id with time to wait, it is refused with the key's id before the owner hears of it."""
    async with Worker(url, name="a", encryption_keys=OLD) as owner, Worker(url, name="b") as stranger:
        session = await owner.open("call", SMALL)
        with pytest.raises(KeyUnknownError):
            await stranger.adopt("call", wait=8)
        record: Any = redis_client.hgetall(KEYS.session("call"))
        assert (record[b"state"], record[b"owner"], record[b"heir"]) == (b"active", owner.id.encode(), b"")
        assert session.held
        await session.close()
