"""Sealed sessions: what was said, who called and all data are encrypted; status and times stay readable.

Envelope encryption: each save makes a new data key, encrypts the session's whole JSON with it (AES-256-GCM), and wraps it with a
key that is derived from the ring's first key for this tenant and session. Both are bound to tenant, session, sequence, status and key
id as additional data, so a sealed part that is copied elsewhere, or put together from two, does not open.

The sealed text stands in the place of ``history``. A Go program then fails to read the session, instead of reading it as an empty
one and erasing the sealed part with its next save; it can still list and delete it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coordinator.keyring import KeyRing, KeySource
from coordinator.sessions import wire
from coordinator.sessions.errors import (
    InvalidStateError,
    KeyUnknownError,
    PlaintextRefusedError,
    SealBrokenError,
)
from coordinator.sessions.header import version_of
from coordinator.sessions.state import Origin, SessionState

__all__ = ["Codec"]

_SEALED = re.compile(r"sealed:1:([A-Za-z0-9._-]{1,63}):(\d{1,18}):([A-Za-z0-9+/=]+)")
_NONCE, _TAG, _KEY = 12, 16, 32
_WRAPPED = _NONCE + _KEY + _TAG
_SHORTEST_NUMBER = 7


class Codec:
    """Between a state and the bytes that are stored.

    Args:
        tenant: the tenant of the sessions, '' for those without one.
        keys: seals with their first; None stores plain text, as omnivoice-core does.
        accept_plaintext: with keys, whether a session in plain text is read too (while a deployment moves to keys).
    """

    def __init__(self, tenant: str = "", keys: KeySource | None = None, *, accept_plaintext: bool = False) -> None:
        self.tenant, self._keys, self._accept_plaintext = tenant, keys, accept_plaintext

    @property
    def ring(self) -> KeyRing | None:
        """The keys as they stand now."""
        return self._keys if self._keys is None or isinstance(self._keys, KeyRing) else self._keys()

    def write(self, state: SessionState, *, first: bool = False) -> tuple[bytes, Origin]:
        """The bytes to store, and what to remember of them once they are.

        Args:
            state: what to write.
            first: whether it is to be the first of its id, whatever was stored before.

        The same state gives the same bytes again, but for ``updated_at``: a save whose answer was lost can be repeated.

        Raises:
            InvalidStateError: the state cannot be written; or its id contains a phone number that is to be sealed.
        """
        plain, ring = wire.encode(state), self.ring
        if ring is None:
            return plain, Origin(self.tenant, version_of(plain), 0, state.ended)
        for number in (state.from_, state.to):
            digits = re.sub(r"\D", "", number)
            if len(digits) >= _SHORTEST_NUMBER and digits in re.sub(r"\D", "", state.id):
                raise InvalidStateError(
                    "the session's id contains its caller's or callee's number, which keys in Redis would show: "
                    "use another id, and an alias for the number"
                )
        sequence = 1 if first or state.origin is None else state.origin.sequence + 1
        content = f"{self.tenant}:{ring.ids[0]}:{sequence}:{version_of(plain)}"
        if state.sealed is None or state.sealed[0] != content:
            state.sealed = (content, self._seal(state, plain, sequence, ring))
        outside = SessionState(
            id=state.id, created_at=state.created_at, updated_at=state.updated_at, provider=state.provider,
            direction=state.direction, status=state.status,
        )  # fmt: skip
        value = wire.encode(outside, history=f'"{state.sealed[1]}"')
        return value, Origin(self.tenant, version_of(value), sequence, state.ended)

    def read(self, session_id: str, value: bytes) -> SessionState:
        """The state in stored bytes.

        Raises:
            KeyUnknownError: it is sealed with a key that the ring lacks, or there is no ring.
            SealBrokenError: it was sealed for another place, or changed since.
            PlaintextRefusedError: it is not sealed, and should be.
            CorruptSessionError: it is not a session.
        """
        document = wire.parse(session_id, value)
        history = document.get("history")
        if isinstance(history, str) and history.startswith("sealed:"):
            state, sequence = self._open(session_id, document, history)
        elif self._keys is not None and not self._accept_plaintext:
            raise PlaintextRefusedError(session_id)
        else:
            state, sequence = wire.decode(session_id, value), 0
        state.origin = Origin(self.tenant, version_of(value), sequence, state.ended)
        return state

    def _bound(self, session_id: str, sequence: int, status: str, key_id: str) -> bytes:
        bound = ["recovery-sessions", 1, self.tenant, session_id, sequence, wire.whole_text(status), key_id]
        return json.dumps(bound).encode()

    def _seal(self, state: SessionState, plain: bytes, sequence: int, ring: KeyRing) -> str:
        key_id = ring.ids[0]
        bound = self._bound(state.id, sequence, state.status, key_id)
        wrapping = ring.derive(key_id, "wrap", self.tenant, state.id) or b""
        key, outer, inner = os.urandom(_KEY), os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = AESGCM(wrapping).encrypt(outer, key, bound)
        blob = outer + wrapped + inner + AESGCM(key).encrypt(inner, plain, bound)
        return f"sealed:1:{key_id}:{sequence}:{base64.b64encode(blob).decode()}"

    def _open(self, session_id: str, document: dict[str, object], history: str) -> tuple[SessionState, int]:
        match = _SEALED.fullmatch(history)
        if match is None:
            raise SealBrokenError(session_id, "its sealed part has a form that this program does not know")
        key_id, sequence, ring = match[1], int(match[2]), self.ring
        wrapping = ring.derive(key_id, "wrap", self.tenant, session_id) if ring else None
        if wrapping is None:
            raise KeyUnknownError(session_id, key_id)
        bound = self._bound(session_id, sequence, str(document.get("status")), key_id)
        try:
            blob = base64.b64decode(match[3], validate=True)
            key = AESGCM(wrapping).decrypt(blob[:_NONCE], blob[_NONCE:_WRAPPED], bound)
            inner = blob[_WRAPPED : _WRAPPED + _NONCE]
            plain = AESGCM(key).decrypt(inner, blob[_WRAPPED + _NONCE :], bound)
        except (InvalidTag, binascii.Error, ValueError):
            detail = "its sealed part does not belong to this tenant, session, sequence and status, or was changed"
            raise SealBrokenError(session_id, detail) from None
        state = wire.decode(session_id, plain)
        state.updated_at = wire.decode_time(session_id, document, "updated_at")  # heartbeats move it without a key
        return state, sequence
