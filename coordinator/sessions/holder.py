"""What a store needs to know of a session of the worker's library, so that it can refuse a worker that lost it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from coordinator.errors import ConfigurationError
from coordinator.sessions.errors import InvalidStateError, TenantError
from coordinator.sessions.keys import SessionKeys
from coordinator.store.fence import Fence, FenceRunner
from coordinator.store.keys import KINDS
from coordinator.store.scripts import R, ScriptCall

__all__ = ["Holder", "check_binding", "check_same"]


class Holder(Protocol):
    """A session that this process holds: `coordinator.Session`, or what ``Worker.attach`` gives to a child process.

    Attributes:
        id, tenant: of the session.
        lost: set when the store said that another worker has it; final.
    """

    id: str
    tenant: str
    lost: anyio.Event

    @property
    def held(self) -> bool:
        """Whether no other worker can have adopted it."""

    @property
    def fence(self) -> Fence:
        """The writer, its epoch, and where they are recorded."""

    async def fenced(self, make: Callable[[Fence], ScriptCall[R]], runner: FenceRunner) -> R:
        """Runs a write that asks whether this still owns the session; see ``Session.fenced``."""


def check_same(session_id: str, holder: Holder) -> None:
    """Refuses what is not the session that the store is bound to.

    Raises:
        InvalidStateError: another id.
    """
    if session_id != holder.id:
        raise InvalidStateError(f"this store is bound to session {holder.id!r}, and does not write {session_id!r}")


def check_binding(keys: SessionKeys, tenant: str, holder: Holder) -> None:
    """Refuses a session that a store with these keys cannot be bound to.

    Raises:
        TenantError: it belongs to another tenant.
        ConfigurationError: under this prefix a session could have the key of something of the coordinator's.
    """
    if tenant and holder.tenant and tenant != holder.tenant:
        raise TenantError(holder.id)
    tag = f"{holder.fence.keys.tag}:"
    if keys.sessions.startswith(tag):
        kind, colon, _ = keys.sessions.removeprefix(tag).partition(":")
        if not kind or not colon or kind in KINDS:
            raise ConfigurationError(
                f"the prefix {keys.sessions!r} is where the coordinator's own keys are: take one like '{tag}voice:'"
            )
