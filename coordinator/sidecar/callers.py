"""Who may call an operation, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.sidecar.hosted import Hosted

__all__ = ["Asker", "Caller"]


class Caller(Flag):
    """Who may call an operation; several may. Whoever asks from elsewhere shows an API token as well, whatever it calls.

    Attributes:
        ANYONE: on this machine, without a token.
        PROCESS: at the other end of the unix socket, with a token of its own making.
        WORKER: by its token; where the path names a worker, that one.
        OWNER: the worker, by its token, that owns the session which the path names.
        ADMINISTRATOR: with an API token, or the sidecar's own user over the unix socket.
        TOKEN_HOLDER: with an API token, wherever it is.
    """

    ANYONE = auto()
    PROCESS = auto()
    WORKER = auto()
    OWNER = auto()
    ADMINISTRATOR = auto()
    TOKEN_HOLDER = auto()

    @property
    def is_worker(self) -> bool:
        """Whether a worker may, as itself."""
        return bool(self & (Caller.WORKER | Caller.OWNER))


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as the gate found out.

    Attributes:
        worker: that asks by its token; for an administrator the one that the path names, if it names one.
        token: of a process, of its own making.
        administrator: it asks as one.
    """

    worker: Hosted | None = None
    token: str = ""
    administrator: bool = False
