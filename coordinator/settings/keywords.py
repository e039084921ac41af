"""The keywords of `Worker`: each setting that a worker uses, with the types that it is given as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from pydantic import SecretStr

from coordinator.keyring import KeySource

__all__ = ["GivenDuration", "GivenLabels", "GivenSecret", "GivenSize", "WorkerSettings"]

GivenDuration = float | str | None
"""Seconds, or a text like ``250ms``."""
GivenSize = int | str | None
"""Bytes, or a text like ``64KiB``."""
GivenLabels = Mapping[str, str] | str | None
"""A mapping, or a text like ``zone=a,version=2``."""
GivenSecret = str | SecretStr | None


class WorkerSettings(TypedDict, total=False):
    """Settings of a worker by their names in lower case; `docs/settings.md` describes each one. None counts as not given."""

    redis_url: GivenSecret
    prefix: str | None
    without_info: bool | None
    partitions: int | None
    store_timeout: GivenDuration
    durability: str | None

    name: str | None
    log_level: Literal["debug", "info", "warning", "error"] | None
    log_format: Literal["console", "json"] | None

    pool: str | None
    tenant: str | None
    capacity: int | None
    labels: GivenLabels
    address: str | None
    watcher_socket: str | None
    watch_exit: bool | None

    profile: Literal["fast", "default", "safe"] | None
    heartbeat_interval: GivenDuration
    dead_after: GivenDuration
    lost_connection_after: GivenDuration
    safety_margin: GivenDuration
    max_scan_gap: GivenDuration
    wedged_after: GivenDuration

    lease: GivenDuration
    max_offers: int | None
    max_recoveries: int | None
    recovery_window: GivenDuration
    give_up_after: GivenDuration

    drain_timeout: GivenDuration
    drain_concurrency: int | None
    termination_grace_period: GivenDuration

    max_data_bytes: GivenSize
    encryption_keys: GivenSecret | KeySource
    sealed_only: bool | None

    closed_ttl: GivenDuration
    fenced_ttl: GivenDuration
    dead_letter_ttl: GivenDuration
