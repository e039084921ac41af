"""The encryption keys of the program's settings."""

from __future__ import annotations

import os

from coordinator.sessions.keyring import KeyFile, KeyRing, KeySource
from coordinator.settings import Settings

__all__ = ["configured_keys"]


def configured_keys(settings: Settings) -> KeySource | None:
    """What ENCRYPTION_KEYS says, or the file of COORDINATOR_ENCRYPTION_KEYS_FILE, read again when it changes; None when unset.

    Raises:
        ConfigurationError: it is of another form than ``id:base64,id2:base64``; the message repeats no key.
    """
    path = os.environ.get("COORDINATOR_ENCRYPTION_KEYS_FILE")
    if path and not os.environ.get("COORDINATOR_ENCRYPTION_KEYS"):
        return KeyFile(path)
    return KeyRing.parse(settings.encryption_keys.get_secret_value()) if settings.encryption_keys else None
