"""Seals recovery data for the store, and opens it for the program, where there are keys. The one place for both ways.

Sealed data is ``nonce | AES-256-GCM``, under a key that is derived from the ring's key for this deployment, tenant and session.
The place that it was sealed for stands in ``encoding``, in clear: ``sealed:1:<key id>:<epoch>:<json or bytes>:<fingerprint>``. That
text, the prefix, the tenant and the session are bound to the data (additional data), so that data which is copied to another place,
or given another header, does not open. The fingerprint tells a key from another of the same id: a program with the other one lacks
the key.

The epoch is the one under which the writer wrote; 0 while a session is opened, as it is not known yet. Data with a higher epoch
than the store has for the session does not open either. Scripts move both as they are.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import structlog

from coordinator.errors import KeyUnknownError, SealBrokenError
from coordinator.keyring import KEY_ID, KeyRing, KeySource, check_installed, check_sealed_only
from coordinator.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["MORE_BYTES", "OPENING", "Place", "Sealer", "Written", "is_sealed", "key_of"]

OPENING = 0
"""The epoch in data that was written as its session was opened."""
MORE_BYTES = 28
"""Bytes by which sealed data is longer: the nonce and the tag."""
MOST_MISSED = 100
_NONCE = 12
_SEALED = re.compile(rf"sealed:1:({KEY_ID}):(0|[1-9][0-9]{{0,15}}):(json|bytes)(?::([0-9a-f]{{8}}))?")
_PREFIX = "sealed:"

log = structlog.get_logger()


class Place(NamedTuple):
    """The place that data belongs to. ``epoch``: a writer's own, or the highest that a reader accepts."""

    session: str
    tenant: str
    epoch: int


class Written(TypedDict):
    """Recovery data as a script takes it."""

    data: bytes
    encoding: str


def is_sealed(encoding: str) -> bool:
    """Whether data of that encoding is sealed, in any version."""
    return encoding.startswith(_PREFIX)


def key_of(encoding: str) -> str:
    """The id of the key that sealed it; the whole text, where this program does not know its form."""
    match = _SEALED.fullmatch(encoding)
    return match[1] if match else encoding


class Sealer:
    """One per worker, or per other reader of recovery data.

    Args:
        prefix: the prefix of the deployment's keys.
        keys: the first one seals, all of them open; None seals nothing.
        sealed_only: whether data that is not sealed counts as broken.

    Raises:
        ConfigurationError: there are keys, and the package for sealing is missing; or there are none, and `sealed_only` asks for them.
    """

    def __init__(self, prefix: str, keys: KeySource | None = None, *, sealed_only: bool = False) -> None:
        self._prefix, self._keys, self._sealed_only = prefix, keys, sealed_only
        self._missed: set[str] = set()
        check_sealed_only(keys, sealed_only=sealed_only)
        if keys is not None:
            check_installed()

    @classmethod
    def of(cls, settings: Settings) -> Sealer:
        """Makes one as the settings say.

        Raises:
            ConfigurationError: the keys have an invalid form, or the package for sealing is missing.
        """
        return cls(settings.prefix, settings.key_source(), sealed_only=settings.sealed_only)

    @property
    def _ring(self) -> KeyRing | None:
        return self._keys if self._keys is None or isinstance(self._keys, KeyRing) else self._keys()

    def look(self) -> None:
        """Reads the keys again if their file changed, so that a wrong one is reported before a call needs it."""
        _ = self._ring

    def seal(self, place: Place, data: bytes, encoding: str) -> Written:
        """Returns what to store; each time other bytes. Sealed data, and no data at all, stay as they are."""
        ring = self._ring
        if ring is None or not encoding or is_sealed(encoding):
            return {"data": data, "encoding": encoding}
        key_id = ring.ids[0]
        header = f"sealed:1:{key_id}:{place.epoch}:{encoding}:{ring.fingerprint(key_id)}"
        nonce = os.urandom(_NONCE)
        return {
            "data": nonce + self._cipher(ring, key_id, place).encrypt(nonce, data, self._bound(place, header)),
            "encoding": header,
        }

    def check(self, session: str, encoding: str) -> None:
        """Checks an encoding alone, as the data itself may not have come along.

        Raises:
            KeyUnknownError: the ring lacks the key (it may have another of that id), or the form is not known.
        """
        if is_sealed(encoding):
            self._known(session, encoding)

    def open(self, place: Place, data: bytes, encoding: str) -> tuple[bytes, str]:
        """Returns the data as it was given, and its encoding (``json`` or ``bytes``). Data that is not sealed stays as it is.

        Raises:
            KeyUnknownError: as `check`.
            SealBrokenError: the data was sealed for another place, or changed since; or it is not sealed, and should be.
        """
        if not is_sealed(encoding):
            if self._sealed_only and encoding:
                raise SealBrokenError(
                    place.session, "it is not sealed, and this program takes sealed data only (sealed_only)"
                )
            return data, encoding
        match, ring = self._known(place.session, encoding)
        if int(match[2]) > place.epoch:
            raise SealBrokenError(place.session, f"its epoch {match[2]} is above {place.epoch}")
        from cryptography.exceptions import InvalidTag

        try:
            opened = self._cipher(ring, match[1], place).decrypt(
                data[:_NONCE], data[_NONCE:], self._bound(place, encoding)
            )
        except (InvalidTag, ValueError):
            detail = "it was sealed for another deployment, tenant, session or epoch, or was changed since"
            raise SealBrokenError(place.session, detail) from None
        return opened, match[3]

    def open_own(self, place: Place, data: bytes, encoding: str) -> tuple[bytes, str]:
        """As `open`, for a session that this program owns in any case: data that does not open stays as it is stored."""
        try:
            return self.open(place, data, encoding)
        except (KeyUnknownError, SealBrokenError) as error:
            log.warning("data_not_opened", session=place.session, reason=str(error))
            return data, encoding

    def may_overwrite(self, session: str, encoding: str) -> None:
        """Checks that this program may write where data of that encoding is stored: clear text never replaces sealed data.

        Raises:
            KeyUnknownError: sealed data is stored, and this program has no keys.
        """
        if is_sealed(encoding) and self._keys is None:
            raise KeyUnknownError(session, key_of(encoding))

    def misses(self, key_id: str) -> bool:
        """Notes that a key is missing. True the first time, when it is worth a log line, up to a limit of keys."""
        if key_id in self._missed or len(self._missed) >= MOST_MISSED:
            return False
        self._missed.add(key_id)
        return True

    def _known(self, session: str, encoding: str) -> tuple[re.Match[str], KeyRing]:
        match, ring = _SEALED.fullmatch(encoding), self._ring
        if match is None or ring is None or match[1] not in ring.ids:
            raise KeyUnknownError(session, key_of(encoding))
        if match[4] not in (None, ring.fingerprint(match[1])):  # None: sealed before there were fingerprints
            raise KeyUnknownError(session, match[1], has_another=True)
        return match, ring

    def _bound(self, place: Place, header: str) -> bytes:
        return json.dumps(["recovery-data", self._prefix, place.tenant, place.session, header]).encode()

    def _cipher(self, ring: KeyRing, key_id: str, place: Place) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(ring.derive(key_id, "recovery-data", self._prefix, place.tenant, place.session) or b"")
