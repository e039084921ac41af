"""Names of keys in Redis: omnivoice-core's for sessions, this project's own for everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coordinator.bounds import NAME, NAME_RULE
from coordinator.errors import ConfigurationError
from coordinator.printable import has_hidden, named
from coordinator.sessions.errors import InvalidStateError

__all__ = ["DEFAULT_PREFIX", "SessionKeys", "check_id", "check_tenant"]

DEFAULT_PREFIX = "voicesession:"
"""omnivoice-core's."""
OWN = "sessionindex:"
TENANTS = "tenant:"
MAX_ID = 512

_TENANT = re.compile(NAME)


def check_id(session_id: str) -> str:
    """The session id itself.

    Raises:
        InvalidStateError: it is empty, too long, has unprintable characters, or is ``active``.
    """
    if not isinstance(session_id, str) or not session_id or len(session_id) > MAX_ID or not session_id.isprintable():
        raise InvalidStateError(f"a session id is 1 to {MAX_ID} printable characters, not {named(session_id)}")
    if session_id == "active":
        raise InvalidStateError(
            "'active' cannot be a session's id: its key would be that of the set of active sessions, and destroy it"
        )
    return session_id


def check_tenant(tenant: str) -> str:
    """The tenant's name itself.

    Raises:
        ConfigurationError: it is not 1 to 63 characters of A-Z a-z 0-9 . _ -
    """
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise ConfigurationError(f"a tenant's name is {NAME_RULE}, not {named(tenant)}")
    return tenant


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of one store.

    Args:
        prefix: of omnivoice-core's keys. In a cluster it has a hash tag, as in ``{voice}:``, so that all keys share a slot.
        tenant: stands before the prefix, so that no id of another tenant can spell a key of this one; '' for none.

    Raises:
        ConfigurationError: the prefix is empty, too long, unprintable or begins like keys of this project, or the tenant's name
            breaks its rule.
    """

    prefix: str = DEFAULT_PREFIX
    tenant: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or len(self.prefix) > MAX_ID or has_hidden(self.prefix):
            raise ConfigurationError(
                f"a prefix of sessions has at most {MAX_ID} printable characters, not {named(self.prefix)}"
            )
        if not self.prefix or self.prefix.startswith((OWN, TENANTS)):
            raise ConfigurationError(
                f"a prefix of sessions must not be empty, nor begin with {OWN!r} or {TENANTS!r}, as {self.prefix!r} does"
            )
        if self.tenant:
            check_tenant(self.tenant)

    @property
    def sessions(self) -> str:
        """What the key of each session begins with."""
        return f"{TENANTS}{self.tenant}:{self.prefix}" if self.tenant else self.prefix

    @property
    def active(self) -> str:
        """SET: ids of the sessions that are under way; never expires."""
        return f"{self.sessions}active"

    def session(self, session_id: str) -> str:
        """STRING: a session's JSON."""
        return f"{self.sessions}{session_id}"

    def alias(self, token: str) -> str:
        """STRING: the session id that an alias stands for."""
        return f"{OWN}{self.sessions}alias:{token}"
