"""The callers that an operation may have, and the caller of a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.sidecar.hosted import Hosted

__all__ = ["Asker", "Caller"]


class Caller(Flag):
    """The callers that an operation may have; it may have several. A caller on another machine always shows an API token too.

    Attributes:
        ANYONE: any program on this machine, without a token.
        PROCESS: the process at the other end of the unix socket, with a token of its own making.
        WORKER: a worker, by its token; where the path names a worker, that one.
        OWNER: the worker, by its token, that owns the session which the path names.
        ADMINISTRATOR: a program with an API token, or the sidecar's own user over the unix socket.
        TOKEN_HOLDER: a program with an API token, on any machine.
    """

    ANYONE = auto()
    PROCESS = auto()
    WORKER = auto()
    OWNER = auto()
    ADMINISTRATOR = auto()
    TOKEN_HOLDER = auto()

    @property
    def is_worker(self) -> bool:
        """Whether a worker may call it, as itself."""
        return bool(self & (Caller.WORKER | Caller.OWNER))


@dataclass(frozen=True, slots=True)
class Asker:
    """The caller of a request, as the gate found out.

    Attributes:
        worker: the worker that asks by its token; for an administrator the worker that the path names, if it names one.
        token: the token of a process, of its own making.
        administrator: whether an administrator asks.
    """

    worker: Hosted | None = None
    token: str = ""
    administrator: bool = False
