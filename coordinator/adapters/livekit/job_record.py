"""What another worker needs to run a job again: the job itself, how it was accepted, and what its room token allowed. Pure.

The token is not kept, as it expires and opens the room to whoever reads it; its claims are signed anew by the heir.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from coordinator.errors import InvalidDataError

__all__ = ["JobRecord", "other_identity"]

LIVES_FOR_SECONDS = 3600
NOT_KEPT = ("exp", "nbf", "iat", "jti")
VERSION = 1
MOVED = re.compile(r"^(?P<name>.*)~(?P<moves>\d+)$")


def other_identity(identity: str) -> str:
    """Under which name an heir joins while its predecessor is still in the room: ``agent``, ``agent~1``, ``agent~2``, ..."""
    found = MOVED.match(identity)
    return f"{found['name']}~{int(found['moves']) + 1}" if found else f"{identity}~1"


@dataclass(frozen=True)
class JobRecord:
    """One job.

    Attributes:
        job: LiveKit's ``Job`` message, serialized.
        name, identity, metadata: with which the job was accepted; the identity is the one in the room now.
        claims: of the room token, without what dates it.
    """

    job: bytes
    name: str
    identity: str
    metadata: str
    claims: Mapping[str, Any]

    @classmethod
    def of(cls, job: bytes, name: str, identity: str, metadata: str, claims: Mapping[str, Any]) -> Self:
        """A record of a job that was accepted."""
        kept = {key: value for key, value in claims.items() if key not in NOT_KEPT}
        return cls(job, name, str(claims.get("sub") or identity), metadata, kept)

    def as_json(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return {
            "version": VERSION,
            "job": base64.b64encode(self.job).decode(),
            "name": self.name,
            "identity": self.identity,
            "metadata": self.metadata,
            "claims": dict(self.claims),
        }

    @classmethod
    def from_json(cls, said: object) -> Self:
        """The other way round.

        Raises:
            InvalidDataError: it is not what `as_json` returns, or of a newer version.
        """
        if not isinstance(said, Mapping):
            raise InvalidDataError("the recovery data holds no LiveKit job")
        if said.get("version") != VERSION:
            raise InvalidDataError(
                f"the LiveKit job is of version {said.get('version')!r}, and this program knows {VERSION}"
            )
        texts = {name: said.get(name) for name in ("job", "name", "identity", "metadata")}
        claims = said.get("claims")
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(claims, Mapping):
            raise InvalidDataError("the LiveKit job in the recovery data is broken")
        try:
            job = base64.b64decode(str(texts.pop("job")), validate=True)
        except ValueError:
            raise InvalidDataError("the LiveKit job in the recovery data is broken") from None
        return cls(job, **{name: str(text) for name, text in texts.items()}, claims=claims)

    def moved(self) -> Self:
        """The same job under the identity for an heir that joins beside its predecessor."""
        return replace(self, identity=other_identity(self.identity))

    def token_claims(self, now: float) -> dict[str, Any]:
        """The claims of a new token, for one hour.

        Args:
            now: seconds since 1970.
        """
        return {**self.claims, "sub": self.identity, "nbf": int(now) - 60, "exp": int(now) + LIVES_FOR_SECONDS}
