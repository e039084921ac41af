"""Writes of others than this library that ask for the owner's right in their own script, such as a session store's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from coordinator import clock
from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.store import calls
from coordinator.store.fence import Fence, Runner
from coordinator.store.scripts import Call, R

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership
    from coordinator.worker.session import Session

__all__ = ["fenced_write"]

PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 0.05


async def fenced_write(session: Session, member: Membership, make: Callable[[Fence], Call[R]], runner: Runner) -> R:
    """What `Session.fenced` does."""
    if not member.settings.without_info:
        await _sees_lost_writes(runner)
    began = clock.now()
    while True:
        session.check()
        answer = await runner.run(make(session.fence))
        waited = clock.now() - began
        if isinstance(answer, calls.FencedWrite):
            if not session.is_renewed(answer) or waited > PATIENCE_SECONDS:
                session.refused(answer)
        elif not isinstance(answer, calls.Resync | calls.Unknown):
            return answer
        elif await _same_store(member, runner):
            kind = "unknown" if isinstance(answer, calls.Unknown) else "lost_writes"
            member.resync.want(kind, "a fenced write was answered " + answer.word)
        elif waited > PATIENCE_SECONDS:
            raise ConfigurationError(
                f"session {session.id!r} is not in the Redis of this store, or in another of its databases: "
                "a fenced write must see both in one script"
            )
        if waited > PATIENCE_SECONDS + 2 * member.settings.dead_after:
            raise StoreUnavailableError("try_again", f"the store answers {answer.word}")
        await anyio.sleep(RETRY_SECONDS)


async def _sees_lost_writes(runner: Runner) -> None:
    if not runner.server:
        await runner.command("PING")  # it may not have connected yet
    if not runner.server:
        raise ConfigurationError(
            "a store that is bound to a session does not learn the run id of its server, so lost writes cannot be seen, and an older "
            "owner could write: permit its user INFO (ACL SETUSER <user> +info), or set WITHOUT_INFO=true for the worker"
        )


async def _same_store(member: Membership, runner: Runner) -> bool:
    """Whether both connections see the same history of the partition."""
    ask = ("HGET", member.part.keys.meta, "lineage")
    ours, theirs = await member.part.executor.command(*ask), await runner.command(*ask)
    return bool(ours == theirs)
