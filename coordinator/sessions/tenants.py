"""Many tenants in one Redis: each has its own prefix and its own keys, and no way to another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.errors import ConfigurationError
from coordinator.keyring import KeySource
from coordinator.sessions.redis import RedisStore

__all__ = ["Tenants"]


class Tenants:
    """One store a tenant, opened when it is first asked for.

    A tenant's name stands in front of its keys in Redis, in the derivation of its encryption keys, and in the data that each
    sealed part is bound to; a state that was loaded from one tenant's store is not saved by another's.

    Args:
        where: as for `RedisStore`.
        keys: the key ring of each tenant; None stores plain text. A tenant that is not named here is refused.
        options: further arguments of `RedisStore`.
    """

    def __init__(self, where: Any, keys: Mapping[str, KeySource] | None = None, **options: Any) -> None:
        self._where, self._keys, self._options = where, keys, options
        self._stores: dict[str, RedisStore] = {}

    def store(self, tenant: str) -> RedisStore:
        """The tenant's store.

        Raises:
            ConfigurationError: the tenant has no keys while others have, or its name breaks its rule.
        """
        if not tenant or (self._keys is not None and tenant not in self._keys):
            raise ConfigurationError(f"tenant {tenant!r} is not known: it has no keys")
        if tenant not in self._stores:
            ring = self._keys[tenant] if self._keys is not None else None
            self._stores[tenant] = RedisStore(self._where, tenant=tenant, keys=ring, **self._options)
        return self._stores[tenant]

    async def close(self) -> None:
        """Closes every store that was opened here."""
        while self._stores:
            await self._stores.popitem()[1].close()
