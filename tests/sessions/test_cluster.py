"""The session store on a Redis Cluster."""

from __future__ import annotations

import pytest
import redis.asyncio as aredis

from coordinator.sessions import Alias, RedisStore, SessionConflictError, SessionState, SessionStore
from tests.deployments import cluster


async def _life_of_a_session(store: SessionStore) -> None:
    state = SessionState("s1")
    await store.create(state, limit=1)
    await store.update_heartbeat("s1")
    loaded = await store.load("s1")
    state.add_turn("user", "hello", 1)
    await store.save(state)
    loaded.provider = "other"
    with pytest.raises(SessionConflictError):
        await store.save(loaded)
    await store.bind(Alias.phone("+15551234567"), "s1")
    assert await store.resolve(Alias.phone("+15551234567")) == "s1"
    assert (await store.list_active(), await store.count()) == (["s1"], 1)
    await store.ping()
    await store.delete("s1")
    assert await store.list_active() == []


async def test_a_cluster_by_url_and_by_client() -> None:
    """A session lives its life on a Cluster, over this project's connection and over a client of redis-py."""
    with cluster() as (url, nodes):
        async with RedisStore(url, prefix="{voice}:") as store:
            await _life_of_a_session(store)
        async with (
            aredis.RedisCluster(host="127.0.0.1", port=nodes[0].port) as client,
            RedisStore(client, prefix="{voice}:", tenant="acme") as store,
        ):
            await _life_of_a_session(store)
