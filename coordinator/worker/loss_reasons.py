"""Every reason for which a worker loses a session, as ``Session.lost_reason``, errors and the log say it.

A session is lost when the store gives it to another worker, when its instance is dead or ends, or when this worker gives it away.
A store that does not answer loses none: the trust window decides meanwhile who may speak (`coordinator.worker.trust_window`).
"""

from __future__ import annotations

__all__ = [
    "ADOPTED_ANEW", "CLOSED_OR_GIVEN_UP", "GIVEN_UP", "LOOP_CLOSED", "PARENTS", "PROCESS_ENDED", "handed_over", "instance_dead",
    "instance_ended", "instance_ends", "refused", "stated_otherwise", "taken_meanwhile",
]  # fmt: skip

GIVEN_UP = "it was given up here"
CLOSED_OR_GIVEN_UP = "it was closed or given up here"
ADOPTED_ANEW = "this worker adopted it anew"
PARENTS = "it is the parent process's"
LOOP_CLOSED = "its event loop was closed"
PROCESS_ENDED = "its process ended"


def handed_over(heir: str) -> str:
    """This worker let go of it, and the heir has it."""
    return f"handed over to {heir}"


def instance_dead(instance: str, why: str) -> str:
    """A coordinator, or a certificate, declared the instance dead."""
    return f"{instance} is dead: {why}"


def instance_ends(instance: str, why: str) -> str:
    """The instance says good-bye."""
    return f"{instance} ends: {why}"


def instance_ended(instance: str) -> str:
    """The session became this worker's while its instance said good-bye."""
    return f"{instance} has ended"


def refused(state: str, epoch: int) -> str:
    """The store refused a write for good, since the session is another owner's, or is over."""
    return f"it is {state} under epoch {epoch}" if state else "its owner is dead"


def taken_meanwhile(owner: str) -> str:
    """After lost writes the session could not be renewed: another worker has it."""
    return f"{owner or 'another worker'} has it since writes were lost"


def stated_otherwise(state: str, epoch: int) -> str:
    """After lost writes the session could not be stated again: the store knows better."""
    return f"it is {state} under epoch {epoch} since writes were lost"
