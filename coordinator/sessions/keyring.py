"""Keys for sealing sessions: many can open, the first one seals."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.errors import ConfigurationError

__all__ = ["KeyFile", "KeyRing", "KeySource"]

KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9._-]{1,63}")


class KeyRing:
    """Named keys of 32 bytes; the first seals, every one opens. Nothing that it shows contains a key.

    To change keys: put the new one last everywhere, then first, and take the old one away when no session that it sealed is left.

    Raises:
        ConfigurationError: no keys, or one of a wrong name or length.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigurationError("encryption_keys: no key is given")
        for key_id, key in keys.items():
            if not _ID.fullmatch(key_id):
                raise ConfigurationError("encryption_keys: a key's id is 1 to 63 characters of A-Z a-z 0-9 . _ -")
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"encryption_keys: key {key_id!r} has {len(key)} bytes, not {KEY_BYTES}")
        self._keys = dict(keys)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """The ring that a text like ``id:base64,id2:base64`` says: the setting ENCRYPTION_KEYS.

        Raises:
            ConfigurationError: it is of another form, or names a key twice; the message repeats no key.
        """
        keys: dict[str, bytes] = {}
        for number, part in enumerate(filter(None, (p.strip() for p in text.split(","))), 1):
            key_id, colon, encoded = part.partition(":")
            if not colon or not _ID.fullmatch(key_id):
                raise ConfigurationError(f"encryption_keys: part {number} is not of the form id:base64")
            if key_id in keys:
                raise ConfigurationError(f"encryption_keys: key {key_id!r} is given twice")
            try:
                keys[key_id] = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise ConfigurationError(f"encryption_keys: key {key_id!r} is not base64") from None
        return cls(keys)

    @staticmethod
    def generate(key_id: str) -> str:
        """A new key as `parse` reads it."""
        return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids; the first seals."""
        return tuple(self._keys)

    def derive(self, key_id: str, *purpose: str) -> bytes | None:
        """A key for one purpose only (HKDF-SHA256, RFC 5869), None when the ring has no such key.

        With the session in its purpose, random nonces are drawn anew for each session's key, so the limit of 2^32 messages
        a key (NIST SP 800-38D, 8.3) is one a session.
        """
        key = self._keys.get(key_id)
        if key is None:
            return None
        info = "\0".join(("recovery-sessions", *purpose)).encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(self._keys)}>"


class KeyFile:
    """A ring that is read again when its file changes: what ENCRYPTION_KEYS_FILE names.

    Args:
        path: a file in the form of `KeyRing.parse`.

    Raises:
        ConfigurationError: it cannot be read, or is of another form. Later such faults leave the last good ring.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int] | None = None
        try:
            self._read()
        except OSError as error:
            raise ConfigurationError(f"encryption_keys_file: {path} cannot be read: {error.strerror}") from error

    def _read(self) -> None:
        stat = self._path.stat()
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            self._ring = KeyRing.parse(self._path.read_text(encoding="utf-8"))
            self._seen = (stat.st_mtime_ns, stat.st_ino)

    def __call__(self) -> KeyRing:
        """The ring as it stands now."""
        with contextlib.suppress(OSError, ConfigurationError):  # being replaced just now
            self._read()
        return self._ring


KeySource = KeyRing | Callable[[], KeyRing]
"""A ring, or what gives the present one."""
