"""Keys for sealing: many can open, the first one seals. Used for recovery data and for stored conversations.

Reading keys needs nothing beyond Python; deriving one needs the package cryptography, of the extras ``sealing`` and ``sessions``.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from coordinator.errors import ConfigurationError

__all__ = ["KEY_ID", "KeyFile", "KeyRing", "KeySource", "check_installed", "check_sealed_only"]

log = structlog.get_logger()

KEY_BYTES = 32
KEY_ID = r"[A-Za-z0-9._-]{1,63}"
_ID = re.compile(KEY_ID)
ID_RULE = "encryption_keys: a key's id is 1 to 63 characters of A-Z a-z 0-9 . _ -"


def check_installed() -> None:
    """Checks that this installation can seal.

    Raises:
        ConfigurationError: the package for it is missing.
    """
    try:
        import cryptography  # noqa: F401 - its presence is what counts
    except ModuleNotFoundError:
        raise ConfigurationError(
            "encryption_keys: sealing needs the package cryptography: install this package with its extra sealing"
        ) from None


class KeyRing:
    """Named keys of 32 bytes; the first seals, every one opens. Nothing that it shows contains a key.

    To change keys: first put the new key last everywhere, then first. Remove the old key when no session that it sealed is left.

    Raises:
        ConfigurationError: there are no keys, or a key has an invalid name or length.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigurationError("encryption_keys: no key is given")
        for number, (key_id, key) in enumerate(keys.items(), 1):  # by number: a key may stand in the place of its id
            if not _ID.fullmatch(key_id):
                raise ConfigurationError(ID_RULE)
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"encryption_keys: key {number} has {len(key)} bytes, not {KEY_BYTES}")
        self._keys = dict(keys)
        self._fingerprints: dict[str, str] = {}

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Reads the ring from a text like ``id:base64,id2:base64``, as in the setting ENCRYPTION_KEYS.

        Raises:
            ConfigurationError: the text has another form, or names a key twice; the message repeats no key.
        """
        keys: dict[str, bytes] = {}
        for number, part in enumerate(filter(None, (p.strip() for p in text.split(","))), 1):
            key_id, colon, encoded = part.partition(":")
            if not colon or not _ID.fullmatch(key_id):
                raise ConfigurationError(f"encryption_keys: part {number} is not of the form id:base64")
            if key_id in keys:
                raise ConfigurationError(f"encryption_keys: the id of key {number} is given twice")
            try:
                keys[key_id] = base64.b64decode(encoded, validate=True)
            except ValueError:  # binascii.Error, or it is not ASCII
                raise ConfigurationError(f"encryption_keys: key {number} is not base64") from None
        return cls(keys)

    @staticmethod
    def generate(key_id: str) -> str:
        """A new key as `parse` reads it.

        Raises:
            ConfigurationError: invalid id.
        """
        if not _ID.fullmatch(key_id):
            raise ConfigurationError(ID_RULE)
        return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids; the first seals."""
        return tuple(self._keys)

    def fingerprint(self, key_id: str) -> str | None:
        """Eight letters that tell a key from another of the same id, and reveal no more; None when the ring has no such key."""
        if key_id in self._keys and key_id not in self._fingerprints:
            self._fingerprints[key_id] = (self.derive(key_id, "fingerprint") or b"")[:4].hex()
        return self._fingerprints.get(key_id)

    def derive(self, key_id: str, *purpose: str) -> bytes | None:
        """A key for one purpose only (HKDF-SHA256, RFC 5869), None when the ring has no such key.

        With a session in the purpose each session has a key and nonces of its own, so that the limit of 2^32 messages
        for one key (NIST SP 800-38D, 8.3) counts per session.
        """
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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
        ConfigurationError: the file cannot be read, or has another form. Later faults of that kind leave the last good ring.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int] | None = None
        self._refused = ""
        try:
            self._read()
        except OSError as error:
            raise ConfigurationError(f"encryption_keys_file: cannot be read: {error.strerror}") from None

    def _read(self) -> None:
        stat = self._path.stat()
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            try:
                text = self._path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ConfigurationError("encryption_keys_file: cannot be read: it is not UTF-8") from None
            self._ring = KeyRing.parse(text)
            if self._seen is not None:
                log.info("encryption_keys_changed", keys=list(self._ring.ids))
            self._seen = (stat.st_mtime_ns, stat.st_ino)

    def __call__(self) -> KeyRing:
        """The ring as it stands now."""
        try:
            self._read()
            self._refused = ""
        except (OSError, ConfigurationError) as error:
            why = error.strerror or "" if isinstance(error, OSError) else str(error)
            if why != self._refused:
                log.warning("encryption_keys_refused", why=why, goes_on_with=list(self._ring.ids))
            self._refused = why
        return self._ring


def check_sealed_only(keys: KeySource | None, *, sealed_only: bool) -> None:
    """Checks that the recovery data that is asked for can be read at all.

    Raises:
        ConfigurationError: only sealed data is accepted, and there are no keys.
    """
    if keys is None and sealed_only:
        raise ConfigurationError("sealed_only needs encryption_keys: without them no recovery data could be read")


KeySource = KeyRing | Callable[[], KeyRing]
"""A ring, or a function that returns the present one."""
