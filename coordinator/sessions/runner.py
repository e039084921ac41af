"""What runs a store's scripts and commands: this project's own connection, or a client that the program has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import redis
import redis.asyncio as aredis

from coordinator.errors import ConfigurationError
from coordinator.store import fence
from coordinator.store.faults import store_error
from coordinator.store.scripts import Argument, R, ScriptCall

__all__ = ["ClientRunner", "Runner"]


class Runner(fence.FenceRunner, Protocol):
    """Runs also many scripts; raises `StoreUnavailableError` where the store does not answer."""

    async def run_many(self, calls: Sequence[ScriptCall[R]]) -> list[R]:
        """Scripts, pipelined where that is possible."""


class ClientRunner:
    """Over a client of the program, with its time-outs and retries: each script is safe to repeat.

    Args:
        client: of ``redis.asyncio``, a cluster's too, with bytes as answers.
        key: any of the store's keys: in a cluster all are in its slot.

    Raises:
        ConfigurationError: the client decodes answers.
    """

    def __init__(self, client: aredis.Redis | aredis.RedisCluster, key: str) -> None:
        if client.get_connection_kwargs().get("decode_responses"):
            raise ConfigurationError(
                "the client decodes its answers (decode_responses): sessions are bytes, give another client"
            )
        self._client, self._key = client, key

    @property
    def server(self) -> str:
        """A client does not tell to which server it talks."""
        return ""

    async def run(self, call: ScriptCall[R]) -> R:
        """A script; by its text where the server does not know it yet."""
        try:
            try:
                raw = await self._client.execute_command(*call.evalsha())
            except redis.exceptions.NoScriptError:
                raw = await self._client.execute_command(*call.eval())
        except (redis.RedisError, OSError) as error:
            raise store_error(error, call.script.name) from error
        return call.parse(raw)

    async def run_many(self, calls: Sequence[ScriptCall[R]]) -> list[R]:
        """One after the other."""
        return [await self.run(call) for call in calls]

    async def command(self, *args: Argument) -> Any:
        """A plain command."""
        try:
            if isinstance(self._client, aredis.RedisCluster) and args[0] == "SCAN":  # without a key, so with a node
                node = self._client.get_node_from_key(self._key)
                cursors, keys = await self._client.execute_command(*args, target_nodes=node)
                return next(iter(cursors.values())), keys
            return await self._client.execute_command(*args)
        except (redis.RedisError, OSError) as error:
            raise store_error(error) from error
