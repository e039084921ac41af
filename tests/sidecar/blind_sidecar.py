"""``python -m tests.sidecar.blind_sidecar sidecar …``: a sidecar that sees no process at the other end of its socket.

So it is for one in a container of its own where the kernel is older than Linux 6.5 or is none of Linux's: process numbers of another
container mean nothing there, and a socket has no file for the process that connected.
"""

from __future__ import annotations

from coordinator.cli.app import main
from coordinator.sidecar import server


def _nobody(connection: object, pid: int) -> None:
    """In the place of `server.peer_of`."""


if __name__ == "__main__":
    server.peer_of = _nobody
    main()
