"""Sealed sessions, their keys, tenants, and that no phone number is ever seen."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from coordinator.errors import ConfigurationError
from coordinator.sessions import (
    Alias,
    InvalidStateError,
    KeyFile,
    KeyRing,
    KeyUnknownError,
    PlaintextRefusedError,
    RedisStore,
    SealBrokenError,
    SessionConflictError,
    SessionManager,
    SessionNotFoundError,
    SessionState,
    Tenants,
    configured_keys,
)
from coordinator.sessions.aliases import tokens
from coordinator.settings import load
from tests.redis_server import RedisServer

CALLER, CALLEE, SAID = "+15551234567", "+49 30 9876543", "my card is 4111 1111"
NEEDLES = (b"5551234567", b"9876543", b"4111", b"CA-secret-1", b"MZ-secret-2", b"unknown-secret-3")


@pytest.fixture
def keys() -> dict[str, str]:
    """Two keys in the form of the setting."""
    return {name: KeyRing.generate(name) for name in ("old", "new")}


def _sealed(raw: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(raw)
    return document


def _everything(db: redis.Redis) -> Iterator[bytes]:
    """Every key and value, as they are and with base64 undone."""
    for key in db.scan_iter():
        yield key
        value = db.get(key) if db.type(key) == b"string" else repr(db.smembers(key)).encode()
        assert isinstance(value, bytes)
        yield value
        if b"sealed:" in value:
            yield base64.b64decode(_sealed(value)["history"].rsplit(":", 1)[-1])


async def test_no_number_is_ever_seen(redis_server: RedisServer, db: redis.Redis, ring: KeyRing) -> None:
    """The canary: through a whole life of a session, neither logs nor Redis contain a number, a word or a provider's id."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    seen: list[bytes] = []
    try:
        with capture_logs() as logs:
            async with RedisStore(redis_server.url, keys=ring) as store:
                manager = SessionManager(store, max_age=0, stale="warn", max_sessions=2)
                done = await manager.restore_or_create(
                    Alias.phone(CALLER), lambda i: SessionState(i, from_=CALLER, to=CALLEE)
                )
                state = done.state
                seen += _everything(db)
                state.call_id, state.recovery_data = "CA-secret-1", {"stream_sid": "MZ-secret-2", "caller": CALLER}
                state.extra["note"] = "unknown-secret-3"
                state.add_turn("user", f"{SAID}, call me back under {CALLER}", 1500)
                await manager.save(state)
                await manager.bind(Alias.user_call(CALLER, "CA-secret-1"), state.id)
                again = await manager.restore_or_create(Alias.phone(CALLER))
                assert again.state.history[0].content.startswith(SAID)
                seen += _everything(db)
                errors = []
                state.add_turn("agent", CALLER, 1)
                await store.save(state)
                again.state.add_turn("user", CALLER, 1)
                for bad in (
                    store.save(again.state), store.save(SessionState(f"call-{CALLER}", from_=CALLER)),
                    manager.create(SessionState(state.id, from_=CALLER)), store.save(SessionState("x", recovery_data={"x": {CALLER}})),
                ):  # fmt: skip
                    with pytest.raises((SessionConflictError, InvalidStateError, Exception)) as told:
                        await bad
                    errors.append(f"{told.value!r} {told.value}")
                await manager.cleanup_idle(0)
                seen += _everything(db)
                structlog.get_logger().info("states may be logged", state=state, ring=ring, alias=Alias.phone(CALLER))
                printed = [repr(entry) for entry in logs]
    finally:
        logging.getLogger().removeHandler(handler)
    haystack = b"\n".join([*seen, stream.getvalue().encode(), *(line.encode() for line in [*printed, *errors])])
    assert len(logs) >= 2
    assert [needle for needle in NEEDLES if needle in haystack] == []


async def test_what_stays_readable(redis_server: RedisServer, db: redis.Redis, ring: KeyRing) -> None:
    """Of a sealed session, id, times, provider, direction and status can be read, and nothing else."""
    async with RedisStore(redis_server.url, keys=ring) as store:
        state = SessionState("s1", provider="twilio", direction="inbound", from_=CALLER, status="active")
        state.add_turn("user", SAID, 1500)
        await store.save(state)
    document = _sealed(db.get("voicesession:s1"))
    assert document.pop("history").startswith("sealed:1:k1:1:")
    assert document.pop("metrics")["turn_count"] == 0
    assert document == {
        "id": "s1", "created_at": state.created_at.text, "updated_at": state.updated_at.text, "provider": "twilio",
        "direction": "inbound", "from": "", "to": "", "status": "active",
    }  # fmt: skip


async def test_rotation(redis_server: RedisServer, db: redis.Redis, keys: dict[str, str]) -> None:
    """After a new key is put first, old sessions and aliases are found, and the next save seals with the new key."""
    async with RedisStore(redis_server.url, keys=KeyRing.parse(keys["old"])) as store:
        await store.save(SessionState("s1", from_=CALLER))
        await store.bind(Alias.phone(CALLER), "s1")
    async with RedisStore(redis_server.url, keys=KeyRing.parse(f"{keys['new']}, {keys['old']}")) as store:
        assert await store.resolve(Alias.phone(CALLER)) == "s1"
        state = await store.load("s1")
        assert state.from_ == CALLER
        await store.save(state)
        await store.bind(Alias.phone(CALLER), "s1")
    assert ":new:2:" in _sealed(db.get("voicesession:s1"))["history"]
    async with RedisStore(redis_server.url, keys=KeyRing.parse(keys["new"])) as store:
        assert (await store.load("s1")).from_ == CALLER
        assert await store.resolve(Alias.phone(CALLER)) == "s1"


async def test_an_unknown_key(redis_server: RedisServer, db: redis.Redis, keys: dict[str, str]) -> None:
    """A session of a key that is not in the ring cannot be served: it is there, listed, and kept alive by heartbeats."""
    async with RedisStore(redis_server.url, keys=KeyRing.parse(keys["new"])) as store:
        await store.save(SessionState("s1"))
    for other in (KeyRing.parse(keys["old"]), None):
        async with RedisStore(redis_server.url, keys=other) as store:
            with pytest.raises(KeyUnknownError) as told:
                await store.load("s1")
            assert told.value.key_id == "new"
            assert not isinstance(told.value, SessionNotFoundError)
            await store.update_heartbeat("s1")
            assert await store.list_active() == ["s1"]


async def test_a_sealed_part_opens_in_its_own_place_only(
    redis_server: RedisServer, db: redis.Redis, ring: KeyRing
) -> None:
    """A sealed part that is copied to another session, tenant, sequence or status, or changed by a bit, is refused."""
    async with (
        RedisStore(redis_server.url, keys=ring) as store,
        RedisStore(redis_server.url, keys=ring, tenant="acme") as other,
    ):
        await store.save(SessionState("s1", from_=CALLER))
        good = db.get("voicesession:s1")
        assert isinstance(good, bytes)
        blob = _sealed(good)["history"].rsplit(":", 1)[-1]
        flipped = bytearray(base64.b64decode(blob))
        flipped[70] ^= 1
        wrong = {
            "voicesession:s2": good.replace(b'"s1"', b'"s2"'),
            "tenant:acme:voicesession:s1": good,
            "voicesession:s1": good.replace(b":k1:1:", b":k1:2:"),
            "voicesession:s3": good.replace(b'"s1"', b'"s3"').replace(blob.encode(), base64.b64encode(flipped)),
            "voicesession:s4": good.replace(b'"s1"', b'"s4"').replace(blob.encode(), b"AAAA"),
        }
        for key, value in wrong.items():
            db.set(key, value, ex=60)
            where = other if key.startswith("tenant") else store
            with pytest.raises(SealBrokenError):
                await where.load(key.rsplit(":", 1)[-1])
        for value in (
            good.replace(b'"pending"', b'"active"'), good.replace(blob.encode(), base64.b64encode(flipped)),
            good.replace(b"sealed:1:", b"sealed:9:"), good.replace(blob.encode(), b"A"),
        ):  # fmt: skip
            db.set("voicesession:s1", value, ex=60)
            with pytest.raises(SealBrokenError):
                await store.load("s1")


async def test_plain_text_where_sealed_sessions_are_expected(
    redis_server: RedisServer, db: redis.Redis, ring: KeyRing
) -> None:
    """An unsealed session is refused, unless it is to be taken over: then its next save seals it."""
    async with RedisStore(redis_server.url) as store:
        await store.save(SessionState("s1", from_=CALLER))
    async with RedisStore(redis_server.url, keys=ring) as store:
        with pytest.raises(PlaintextRefusedError, match="accept_plaintext"):
            await store.load("s1")
    async with RedisStore(redis_server.url, keys=ring, accept_plaintext=True) as store:
        state = await store.load("s1")
        await store.save(state)
        assert (await store.load("s1")).from_ == CALLER
    assert CALLER.encode() not in (db.get("voicesession:s1") or b"")


async def test_a_repeated_save_is_the_same_bytes(redis_server: RedisServer, db: redis.Redis, ring: KeyRing) -> None:
    """A save whose answer was lost can be repeated: it is no conflict, though sealing is random."""
    async with RedisStore(redis_server.url, keys=ring) as store:
        state = SessionState("s1")
        await store.save(state)
        before = state.origin
        state.add_turn("user", SAID, 1)
        await store.save(state)
        state.origin = before  # as if the answer had not come
        await store.save(state)
        assert len((await store.load("s1")).history) == 1


async def test_tenants_are_apart(redis_server: RedisServer, db: redis.Redis, keys: dict[str, str]) -> None:
    """Each tenant has its keys and its prefix; no id of one reaches a session of another, and unknown tenants are refused."""
    rings = {"acme": KeyRing.parse(keys["old"]), "globex": KeyRing.parse(keys["new"])}
    tenants = Tenants(redis_server.url, rings)
    acme, globex = tenants.store("acme"), tenants.store("globex")
    assert tenants.store("acme") is acme
    await acme.save(SessionState("s1", from_=CALLER))
    await acme.bind(Alias.phone(CALLER), "s1")
    assert await globex.list_active() == []
    assert await globex.resolve(Alias.phone(CALLER)) is None
    for crafted in ("s1", "acme:voicesession:s1", "tenant:acme:voicesession:s1", "../acme/s1"):
        with pytest.raises(SessionNotFoundError):
            await globex.load(crafted)
    async with RedisStore(redis_server.url) as nobody:
        with pytest.raises(SessionNotFoundError):
            await nobody.load("tenant:acme:voicesession:s1")
    for unknown in ("other", ""):
        with pytest.raises(ConfigurationError, match="not known"):
            tenants.store(unknown)
    assert {key.split(b":")[1] for key in db.scan_iter("tenant:*")} == {b"acme"}
    await tenants.close()


def test_aliases_need_the_key(keys: dict[str, str]) -> None:
    """With keys, whoever lacks them cannot compute what stands for a number; tenants have different ones."""
    one, two = KeyRing.parse(keys["old"]), KeyRing.parse(keys["new"])
    alias = Alias.phone(CALLER)
    all_tokens = [tokens(alias, "", None), tokens(alias, "", one), tokens(alias, "", two), tokens(alias, "acme", one)]
    assert len({token for [token] in all_tokens}) == 4
    assert CALLER not in repr(alias)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nocolon",
        "a:short",
        f"a:{'A' * 43}",
        "a:****",
        "b@d:QUJD",
        "a:QUJD,a:QUJD",
        f"a:{base64.b64encode(b'x' * 31).decode()}",
    ],
)
def test_wrong_keys_are_refused_without_being_shown(text: str) -> None:
    """A setting that is no key ring is refused in one line that repeats no key."""
    with pytest.raises(ConfigurationError, match="encryption_keys") as told:
        KeyRing.parse(text)
    assert "QUJD" not in str(told.value)
    assert "A" * 43 not in str(told.value)


def test_a_key_twice() -> None:
    """Two keys of one id are refused."""
    key = KeyRing.generate("a")
    with pytest.raises(ConfigurationError, match="twice"):
        KeyRing.parse(f"{key},{key}")


def test_a_ring_shows_no_key(keys: dict[str, str]) -> None:
    """The ring names its keys and shows none."""
    ring = KeyRing.parse(",".join(keys.values()))
    assert repr(ring) == "<KeyRing old, new>"
    assert ring.ids == ("old", "new")


def test_a_file_of_keys_is_read_again(tmp_path: Path, keys: dict[str, str]) -> None:
    """A changed file changes the ring; a broken one leaves the last; one that never was there is refused."""
    path = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeyFile(path)
    path.write_text(keys["old"] + "\n")
    file = KeyFile(path)
    assert file().ids == ("old",)
    path.write_text(f"{keys['new']},{keys['old']}")
    os.utime(path, ns=(1, 1))
    assert file().ids == ("new", "old")
    path.write_text("broken")
    assert file().ids == ("new", "old")
    path.unlink()
    assert file().ids == ("new", "old")


def test_keys_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: dict[str, str]) -> None:
    """ENCRYPTION_KEYS and ENCRYPTION_KEYS_FILE give a ring; without them nothing is sealed."""
    assert configured_keys(load()) is None
    monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS", keys["old"])
    ring = configured_keys(load())
    assert isinstance(ring, KeyRing)
    monkeypatch.delenv("COORDINATOR_ENCRYPTION_KEYS")
    (tmp_path / "keys").write_text(keys["new"])
    monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS_FILE", str(tmp_path / "keys"))
    source = configured_keys(load())
    assert isinstance(source, KeyFile)
    assert source().ids == ("new",)
