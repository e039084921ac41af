"""Timing settings that fit together, by the name of their profile."""

from __future__ import annotations

__all__ = ["PROFILES"]

PROFILES: dict[str, dict[str, str]] = {
    "fast": {
        "heartbeat_interval": "150ms", "dead_after": "1.2s", "lost_connection_after": "600ms", "safety_margin": "200ms",
        "max_scan_gap": "600ms", "wedged_after": "3s", "store_timeout": "300ms", "breaker_window": "1.2s",
    },
    "default": {},
    "safe": {
        "heartbeat_interval": "500ms", "dead_after": "5s", "lost_connection_after": "2.5s", "safety_margin": "500ms",
        "max_scan_gap": "2s", "wedged_after": "10s", "store_timeout": "1s", "lease": "5s", "breaker_window": "5s",
    },
}  # fmt: skip
"""A setting that a profile does not name has its default."""
