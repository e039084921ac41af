"""Keys that would stay for ever."""

from __future__ import annotations

from typing import Any

from coordinator.store.keys import PERMANENT, PERMANENT_WHILE, kind_of

__all__ = ["leaked_keys"]


def leaked_keys(client: Any) -> list[str]:
    """Keys without an expiry that nothing allows to stay."""
    leaked = []
    for raw in client.scan_iter(count=1000):
        key = raw.decode()
        kind = kind_of(key)
        if kind in PERMANENT or client.pttl(key) != -1:
            continue
        state = (client.hget(key, "state") or b"").decode()
        if state not in PERMANENT_WHILE.get(kind, ()):
            leaked.append(f"{key} ({state})")
        elif kind == "instance" and state == "dead":
            grave = key.split(":instance:", 1)
            if client.zscore(f"{grave[0]}:graves", grave[1]) is None:
                leaked.append(f"{key} (dead, and no grave)")
    return leaked
