"""Access to the sidecar's own port: also the user at the other end of the unix socket, and refusals as problems."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.sidecar.problems import Problem
from coordinator.sidecar.server import peer_uid
from coordinator.web.access import Access, headers_of

__all__ = ["SidecarAccess", "headers_of"]

OVERFLOW_UID = Path("/proc/sys/kernel/overflowuid")


class SidecarAccess(Access):
    """Checks where a request came from and what it shows."""

    def check(self, scope: Mapping[str, Any], headers: Mapping[str, list[str]]) -> None:
        """Refuses a request that is not let in at all.

        Raises:
            Problem: 400, 401, 403 or 421.
        """
        refused = self.refusal(scope, headers)
        if refused is not None:
            raise Problem(refused.status, refused.detail, headers=refused.headers)

    def is_administrators(self, scope: Mapping[str, Any]) -> bool:
        """Whether the user at the other end of the unix socket may administrate; nobody's user may where users share the socket."""
        return not self._settings.http_socket_shared and self.is_own_user(scope)

    @staticmethod
    def is_own_user(scope: Mapping[str, Any], overflow_uid: Path = OVERFLOW_UID) -> bool:
        """Whether the kernel says that the sidecar's own user asks, over the unix socket.

        Args:
            overflow_uid: where the kernel says which number stands for every user of another namespace.
        """
        uid = peer_uid(scope)
        return uid is not None and uid == os.geteuid() and uid != _nobody(overflow_uid)


def _nobody(overflow_uid: Path) -> int:
    """The number that stands for every user of another namespace: it identifies none of them."""
    try:
        return int(overflow_uid.read_text())
    except (OSError, ValueError):
        return 65534
