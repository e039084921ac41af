"""Other names of a session: the caller's number, or a user and a call id."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from coordinator.sessions.errors import InvalidStateError
from coordinator.sessions.keyring import KeyRing

__all__ = ["Alias", "tokens"]


@dataclass(frozen=True, slots=True)
class Alias:
    """What a session may be found by; made with `phone` or `user_call`. Its repr does not show the name."""

    kind: str
    name: tuple[str, ...] = field(repr=False)

    @classmethod
    def phone(cls, number: str) -> Alias:
        """A phone number: only its digits and a leading ``+`` count, so ``+1 (555) 123`` is ``+1555123``.

        Raises:
            InvalidStateError: it has no digits.
        """
        digits = re.sub(r"\D", "", number)
        if not digits:
            raise InvalidStateError("a phone number needs digits")
        return cls("phone", (("+" if number.strip().startswith("+") else "") + digits,))

    @classmethod
    def user_call(cls, user: str, call_id: str) -> Alias:
        """A user together with a provider's call id.

        Raises:
            InvalidStateError: one of them is empty.
        """
        if not user or not call_id:
            raise InvalidStateError("a user and a call id are needed, neither of them empty")
        return cls("user-call", (user, call_id))


def tokens(alias: Alias, tenant: str, ring: KeyRing | None) -> list[str]:
    """What stands for the alias in Redis: by the key that is in use first, then by each older one.

    With keys it is an HMAC-SHA256 under a key of its own purpose, so that whoever reads Redis cannot try numbers; without
    keys a SHA-256, which hides nothing from that.
    """
    said = "\0".join((alias.kind, *(f"{len(part)}:{part}" for part in alias.name))).encode()
    if ring is None:
        return [f"{alias.kind}:{hashlib.sha256(said).hexdigest()}"]
    keys = (ring.derive(key_id, "alias", tenant) or b"" for key_id in ring.ids)
    return [f"{alias.kind}:{hmac.new(key, said, hashlib.sha256).hexdigest()}" for key in keys]
