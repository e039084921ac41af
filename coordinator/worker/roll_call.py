"""What a beat says of an instance: one value, replaced as a whole by the event loop and read by the thread that beats."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.store.past import Past
from coordinator.worker.trust_window import TrustWindow

__all__ = ["RollCall"]


@dataclass(frozen=True, slots=True)
class RollCall:
    """The roll call, and what goes with it.

    Attributes:
        past: what is remembered of the partition; the instance last agreed with its lineage.
        owned: how many sessions are owned, and their digest, see `Ledger`; '' while a session is changing hands.
        version: the version of what is owned here; see `Ledger`.
        presence: whether the presence connection is up, and may count.
        joined: whether the store said that the instance is registered, and what it owned before is ours again. Until then the
            store and this process need not agree, and answers do not count.
    """

    instance: str
    trust_window: TrustWindow
    server: str = ""
    past: Past = field(default_factory=Past)
    owned: str = ""
    version: int = 0
    presence: bool = False
    joined: bool = True
