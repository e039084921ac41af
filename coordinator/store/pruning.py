"""The call that takes members out of an index to which their records do not belong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from coordinator.states import InstanceState, SessionState
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.store.scripts import ScriptCall

__all__ = ["Index", "prune"]

Index = Literal["instances", "orphans", "dead_letters"]
"""Indexes from which `prune` takes what does not belong there. A lease that is due ends by itself, and so does a grave."""

STATES: dict[Index, tuple[str, ...]] = {
    "instances": (InstanceState.ALIVE, InstanceState.DRAINING),
    "orphans": (SessionState.OFFERED,),
    "dead_letters": (SessionState.DEAD_LETTERED,),
}
"""Index -> the states of records that belong to it."""


def prune(k: Keys, *, index: Index, members: Sequence[str], counted: bool = False) -> ScriptCall[calls.PruneReply]:
    """The call that takes members (ids) out of an index to which their records do not belong. Safe to repeat.

    Args:
        counted: the mass breaker has just opened and counted them.
    """
    key = {"instances": k.instances, "orphans": k.orphans, "dead_letters": k.dead_letters}[index]
    record = {"instances": k.instance, "orphans": k.session, "dead_letters": k.dead_letter}[index]
    return calls.prune(
        k,
        index=key,
        records=[record(one) for one in members],
        states=" ".join(STATES[index]),
        members=members,
        counted=counted,
    )
