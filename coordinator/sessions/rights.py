"""The commands that the session store needs of Redis, and a check whether its user may run them."""

from __future__ import annotations

from coordinator.sessions.calls import SCRIPTS
from coordinator.sessions.keys import SessionKeys
from coordinator.store.acl import User, commands, of_partitions
from coordinator.store.commands import Name
from coordinator.store.rights import RightsRunner, commands_needed, look_at_rights, tries_of

__all__ = ["COMMANDS", "check_store_rights", "needed_commands", "patterns", "touched", "user"]

COMMANDS: tuple[Name, ...] = (("DEL",), ("GET",), ("PING",), ("SCAN",), ("SET",), ("SSCAN",))
"""The commands that the store sends beside its scripts."""

FENCE = ("detector", "events", "instance:*", "meta", "session:*")
"""Keys of a partition that a write for a call declares, in order to ask whether its writer owns it; see `Fence.declared`."""


def needed_commands() -> frozenset[Name]:
    """Every command that the store sends or that its scripts call."""
    return commands_needed(SCRIPTS.values(), COMMANDS)


def patterns(keys: SessionKeys) -> list[str]:
    """Of all keys of a store: sessions with the active set, and aliases."""
    return [f"{keys.sessions}*", f"{keys.alias('')}*"]


def touched(keys: SessionKeys) -> list[str]:
    """A key of each kind; those that have an id have one that does not exist."""
    return [keys.active, keys.session(":"), keys.alias(":")]


def user(keys: SessionKeys, prefix: str, partitions: int) -> User:
    """A user of Redis with what a store needs, also one that is bound to calls of a deployment, and nothing else."""
    fence = [key for kind in FENCE for key in of_partitions(prefix, partitions, kind)]
    return User("sessions", "the store of conversations", commands(needed_commands()), (*patterns(keys), *fence))


async def check_store_rights(runner: RightsRunner, keys: SessionKeys) -> None:
    """Refuses a store whose user lacks a right that it will need. One round trip; changes nothing, safe to repeat.

    Raises:
        ConfigurationError: one line with the user, what it may not, and the rule that permits it.
        StoreUnavailableError: the store did not answer.
    """
    scratch = keys.alias(":")
    tries = tries_of(needed_commands(), scratch, scratch)
    own = [("TYPE", key) for key in touched(keys)]
    await look_at_rights(runner, scratch, [*tries, *own], patterns(keys), setting="session store")
