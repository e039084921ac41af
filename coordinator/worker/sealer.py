"""Between recovery data as a program gives it and as the store keeps it: sealed, where there are keys. The one place for both ways.

Sealed data is ``nonce | AES-256-GCM``, under a key that is derived from the ring's key for this deployment, tenant and session. What
it was sealed for stands in ``encoding``, in clear: ``sealed:1:<key id>:<epoch>:<json or bytes>:<fingerprint>``. Bound to it
(additional data) are that text, the prefix, the tenant and the session, so that what is copied to another place, or given another
header, does not open. The fingerprint tells a key from another of the same id: who has the other one lacks the key.

The epoch is the one under which the writer wrote; 0 where it does not know it yet, as it opens the session. Data that says a higher
epoch than the store has for the session does not open either. Scripts move both as they are.
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
"""The epoch of data that was written as its session was opened."""
MORE_BYTES = 28
"""By so many sealed data is longer than it was: its nonce, and the tag."""
MOST_MISSED = 100
_NONCE = 12
_SEALED = re.compile(rf"sealed:1:({KEY_ID}):(0|[1-9][0-9]{{0,15}}):(json|bytes)(?::([0-9a-f]{{8}}))?")
_PREFIX = "sealed:"

log = structlog.get_logger()


class Place(NamedTuple):
    """What data belongs to. ``epoch``: of a writer its own, of a reader the highest that the data may say."""

    session: str
    tenant: str
    epoch: int


class Written(TypedDict):
    """Recovery data as a call to the store takes it."""

    data: bytes
    encoding: str


def is_sealed(encoding: str) -> bool:
    """Whether data of that encoding is sealed, in whatever version."""
    return encoding.startswith(_PREFIX)


def key_of(encoding: str) -> str:
    """The id of the key that sealed it; of a form that this program does not know the whole text stands for it."""
    match = _SEALED.fullmatch(encoding)
    return match[1] if match else encoding


class Sealer:
    """One a worker, or whoever else reads recovery data.

    Args:
        prefix: of the deployment's keys.
        keys: seals with their first, opens with all; None seals nothing.
        sealed_only: data that is not sealed is taken for broken.

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
        """As the settings say.

        Raises:
            ConfigurationError: the keys are of a wrong form, or the package for sealing is missing.
        """
        return cls(settings.prefix, settings.key_source(), sealed_only=settings.sealed_only)

    @property
    def _ring(self) -> KeyRing | None:
        return self._keys if self._keys is None or isinstance(self._keys, KeyRing) else self._keys()

    def look(self) -> None:
        """Reads the keys again if their file changed, so that a wrong one is told before a call needs it."""
        _ = self._ring

    def seal(self, place: Place, data: bytes, encoding: str) -> Written:
        """What to store. Each call gives other bytes. What is sealed already, or is no data at all, stays as it is."""
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
        """Looks at an encoding alone, as the data itself may not have travelled along.

        Raises:
            KeyUnknownError: the ring lacks the key that it is sealed with (it may have another of that id), or its form is not known.
        """
        if is_sealed(encoding):
            self._known(session, encoding)

    def open(self, place: Place, data: bytes, encoding: str) -> tuple[bytes, str]:
        """The data as it was given, and its encoding (``json`` or ``bytes``). What is not sealed stays as it is.

        Raises:
            KeyUnknownError: as `check`.
            SealBrokenError: it was sealed for another place, or changed since; or it is not sealed, and should be.
        """
        if not is_sealed(encoding):
            if self._sealed_only and encoding:
                raise SealBrokenError(
                    place.session, "it is not sealed, and this program takes sealed data only (sealed_only)"
                )
            return data, encoding
        match, ring = self._known(place.session, encoding)
        if int(match[2]) > place.epoch:
            raise SealBrokenError(place.session, f"it says epoch {match[2]}, which is above {place.epoch}")
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
        """As `open`, of a session that is this program's whatever its data says: what does not open stays as it is stored."""
        try:
            return self.open(place, data, encoding)
        except (KeyUnknownError, SealBrokenError) as error:
            log.warning("data_not_opened", session=place.session, reason=str(error))
            return data, encoding

    def may_overwrite(self, session: str, encoding: str) -> None:
        """Looks whether this program may write where data of that encoding is stored: nothing sealed is followed by clear text.

        Raises:
            KeyUnknownError: there is something sealed, and this program has no keys.
        """
        if is_sealed(encoding) and self._keys is None:
            raise KeyUnknownError(session, key_of(encoding))

    def misses(self, key_id: str) -> bool:
        """Notes that a key is missing; True the first time, when there is something to tell. Of endlessly many nothing is told."""
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
