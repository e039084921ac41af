"""The check that a write makes in its own script: whether its writer still owns the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.store.keys import Keys
from coordinator.store.scripts import SERVER, Argument, R, ScriptCall

__all__ = ["NO_FENCE", "Fence", "FenceRunner"]


@dataclass(frozen=True, slots=True)
class Fence:
    """The writer of a session, and its epoch.

    Attributes:
        keys: of the session's partition.
        session, instance, epoch: the session, the instance that writes, and the epoch that it holds.
    """

    keys: Keys
    session: str
    instance: str
    epoch: int

    @property
    def declared(self) -> tuple[str, ...]:
        """The keys that such a script declares; they lie in the slot of the partition."""
        k = self.keys
        return (k.meta, k.detector, k.events, k.instance(self.instance), k.session(self.session))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The arguments of such a script; the connection fills in the server's run id."""
        return (SERVER, self.instance, self.epoch)


class _NoFence(Fence):
    """Bound to no session: nothing is declared, and nothing asked."""

    @property
    def declared(self) -> tuple[str, ...]:
        return ()

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return ()


NO_FENCE: Fence = _NoFence(Keys("", 0), "", "", 0)


class FenceRunner(Protocol):
    """Runs scripts and commands; raises `StoreUnavailableError` where the store does not answer."""

    @property
    def server(self) -> str:
        """Run id of the server of the present connection; '' before the first, and where it is not told."""

    async def run(self, call: ScriptCall[R]) -> R:
        """A script."""

    async def command(self, *args: Argument) -> Any:
        """A plain command."""
