"""Inside the session stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.sessions.redis import _Redis

if TYPE_CHECKING:
    from tests.inside.spots import Spot

__all__ = ["loading_spot"]


def loading_spot() -> Spot:
    """Asks Redis for a state: another one has no answer, while the rest of that server goes on."""
    return _Redis, "get"
