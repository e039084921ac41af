"""Other names of a session: the caller's number, or a user and a call id."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from coordinator.bounds import MOST_TEXT, check_text
from coordinator.errors import InvalidValueError
from coordinator.keyring import KeyRing
from coordinator.sessions.errors import InvalidStateError

__all__ = ["Alias", "tokens"]

MOST_NAME = 1024


@dataclass(frozen=True, slots=True)
class Alias:
    """A name by which a session can be found; made with `phone` or `user_call`. Its repr does not show the name."""

    kind: str
    name: tuple[str, ...] = field(repr=False)

    @classmethod
    def phone(cls, number: str) -> Alias:
        """A phone number: only its digits and a leading ``+`` count, so ``+1 (555) 123`` is ``+1555123``.

        Raises:
            InvalidStateError: it has no digits, or more than any number has.
        """
        if not isinstance(number, str) or len(number) > MOST_TEXT:
            raise InvalidStateError(f"a phone number is text of at most {MOST_TEXT} characters")
        digits = re.sub(r"\D", "", number)
        if not digits:
            raise InvalidStateError("a phone number needs digits")
        return cls("phone", (("+" if number.strip().startswith("+") else "") + digits,))

    @classmethod
    def user_call(cls, user: str, call_id: str) -> Alias:
        """A user together with a provider's call id.

        Raises:
            InvalidStateError: one of them is empty, too long, or unprintable.
        """
        user, call_id = _checked("a user", user), _checked("a call id", call_id)
        if not user or not call_id:
            raise InvalidStateError("a user and a call id are needed, neither of them empty")
        return cls("user-call", (user, call_id))


def _checked(name: str, value: str) -> str:
    try:
        return check_text(name, value, MOST_NAME)
    except InvalidValueError as error:  # the value itself is in no message: it may be a person's number
        raise InvalidStateError(f"{name} is {error.rule}") from None


def tokens(alias: Alias, tenant: str, ring: KeyRing | None) -> list[str]:
    """The texts that stand for the alias in Redis: first by the present key, then by each older one.

    With keys it is an HMAC-SHA256 under a key of its own purpose, so that a reader of Redis cannot try numbers; without
    keys a SHA-256, which hides nothing from that.
    """
    said = "\0".join((alias.kind, *(f"{len(part)}:{part}" for part in alias.name))).encode()
    if ring is None:
        return [f"{alias.kind}:{hashlib.sha256(said).hexdigest()}"]
    keys = (ring.derive(key_id, "alias", tenant) or b"" for key_id in ring.ids)
    return [f"{alias.kind}:{hmac.new(key, said, hashlib.sha256).hexdigest()}" for key in keys]
