"""The encryption keys of the program's settings."""

from __future__ import annotations

from coordinator.keyring import KeySource
from coordinator.settings import Settings

__all__ = ["configured_keys"]


def configured_keys(settings: Settings) -> KeySource | None:
    """What ENCRYPTION_KEYS says, or the file of COORDINATOR_ENCRYPTION_KEYS_FILE, read again when it changes; None when unset.

    Raises:
        ConfigurationError: it is of another form than ``id:base64,id2:base64``; the message repeats no key.
    """
    return settings.key_source()
