"""A Redis URL, taken apart by a strict grammar; only parts that were understood are ever shown."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import ConfigurationError
from coordinator.masking import MASK
from coordinator.store.address import Address
from coordinator.store.url_options import SENTINEL, TLS, check_tls, decoded, parse_options, unverified

__all__ = ["StoreUrl", "parse_url"]

_KINDS = {
    "redis": "standalone",
    "rediss": "standalone",
    "unix": "standalone",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_FORMS = {
    "redis": "redis://host:port/db",
    "rediss": "rediss://host:port/db",
    "unix": "unix:///path/to/socket?db=0",
    "redis+sentinel": "redis+sentinel://host:port,host:port/service/db",
    "rediss+sentinel": "rediss+sentinel://host:port,host:port/service/db",
    "redis+cluster": "redis+cluster://host:port,host:port",
    "rediss+cluster": "rediss+cluster://host:port,host:port",
}
_OTHERS = frozenset({"http", "https", "tcp", "tls", "valkey", "valkeys", "redis-sentinel", "redis+socket", "redis+tls"})
"""Schemes of others that a message repeats; it repeats no other text in that place, which may be a part of a password."""
_URL = re.compile(
    r"""[A-Za-z+]+://
    (?:(?P<user>[^:@/?#\x00-\x20\x7f]*)(?P<colon>:(?P<password>[^/?#\x00-\x20\x7f]*))?@)?
    (?P<hosts>[^@/?#\x00-\x20\x7f]*)
    (?P<path>/[^@?#\x00-\x20\x7f]*)?
    (?:\?(?P<query>[^@#\x00-\x20\x7f]*))?""",
    re.VERBOSE,
)
"""An ``@`` behind the hosts means that a password contains ``/``, ``?`` or ``#``: then no part is what it seems to be."""
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::(?P<port>[0-9]{1,5}))?")
_ENCODE = (
    "in user and password a percent sign is %25, a colon %3A, an at sign %40, a slash %2F, a question mark %3F, a hash %23, "
    "a space %20"
)
"""It has no at sign itself: `masked` takes the text between one and a URL for a password."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A Redis URL, taken apart. Neither its text nor its representation tells a secret.

    Attributes:
        kind: ``standalone``, ``sentinel`` or ``cluster``.
        addresses: of the server, of the Sentinels, or of some nodes of the Cluster.
        shown: the URL without user, password and options.
        service: name by which the Sentinels know the primary.
        tls: whether connections to servers and Sentinels use TLS.
        unverified: what is wrong with the check of the server's certificate, '' when nothing is.
    """

    kind: str
    addresses: tuple[Address, ...]
    shown: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int = 0
    service: str = ""
    tls: bool = False
    tls_options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    unverified: str = ""

    @property
    def has_secret(self) -> bool:
        """Whether the URL tells more than where the server is."""
        told = (self.username, self.password, self.sentinel_username, self.sentinel_password)
        return any(told) or "ssl_password" in self.tls_options

    def connection_options(self, *, sentinel: bool = False) -> dict[str, Any]:
        """The options of redis-py's connections beside the address, to servers or to the Sentinels."""
        if sentinel:
            options: dict[str, Any] = {"username": self.sentinel_username, "password": self.sentinel_password}
        else:
            options = {"username": self.username, "password": self.password, "db": self.db}
        if self.tls:
            # Without a password OpenSSL would ask for a key's at the terminal. Python 3.13 refuses authorities without
            # a key identifier, as many private ones are: a newer Python must not lose the store.
            options |= {
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
                "ssl_check_hostname": True,
                "ssl_password": "",
                "ssl_exclude_verify_flags": [ssl.VERIFY_X509_STRICT],
                **self.tls_options,
            }
        return options


def parse_url(url: str) -> StoreUrl:
    """Takes a Redis URL apart.

    Raises:
        ConfigurationError: its form is unknown, or options do not fit; the message repeats scheme and hosts at most.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _KINDS or "://" not in url:
        known = ", ".join(f"{one}://" for one in _FORMS)
        begins = (
            f"{scheme}://, which is not supported" if scheme in _OTHERS else "none of its forms (quotes are part of it)"
        )
        raise ConfigurationError(f"redis_url begins with {begins}; known are {known}")
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigurationError(f"redis_url {scheme}://… is not of the form {_FORMS[scheme]}; {_ENCODE}")
    try:
        addresses = _addresses(found["hosts"])
    except ValueError as error:
        raise ConfigurationError(f"redis_url {scheme}://… is not of the form {_FORMS[scheme]}: {error}") from None
    try:
        return _typed(scheme, found, addresses)
    except ValueError as error:
        raise ConfigurationError(f"redis_url {scheme}://{found['hosts']} is invalid: {error}") from None


def _addresses(hosts: str) -> tuple[Address, ...]:
    addresses = []
    for text in hosts.split(",") if hosts else ():
        found = _HOST.fullmatch(text)
        port = int((found and found["port"]) or 6379)
        if not found or not 0 < port < 65536:
            raise ValueError("a host is host or host:port, with a port from 1 to 65535")
        addresses.append(Address(found["host"].strip("[]"), port))
    return tuple(addresses)


def _typed(scheme: str, found: re.Match[str], addresses: tuple[Address, ...]) -> StoreUrl:
    kind, tls = _KINDS[scheme], scheme.startswith("rediss")
    known = [
        *(["db"] if kind == "standalone" else []),
        *(TLS if tls else []),
        *(SENTINEL if kind == "sentinel" else []),
    ]
    options = parse_options(found["query"] or "", known)
    tls_options = {name: value for name, value in options.items() if name in TLS}
    check_tls(tls_options)
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise ValueError("sentinel_username needs sentinel_password")
    user, password = decoded(found["user"] or ""), decoded(found["password"] or "")
    if user and found["colon"] and not password:
        raise ValueError("there is a user and a colon, but no password")
    credentials = f"{MASK}@" if user or password else ""
    parts: dict[str, Any] = {"db": options.get("db", 0), "service": ""}
    if scheme == "unix":
        addresses, place = _socket(found["path"] or "", addresses), found["path"]
    else:
        parts |= _in_path(kind, found["path"] or "", options)
        addresses = addresses or ((Address("localhost", 6379),) if kind == "standalone" else ())
        if not addresses or (kind == "standalone" and len(addresses) > 1):
            raise ValueError(f"{'at least' if not addresses else 'just'} one host:port is needed: {_FORMS[scheme]}")
        place = f"{found['hosts'] or 'localhost'}{found['path'] or ''}"
    return StoreUrl(
        kind,
        addresses,
        f"{scheme}://{credentials}{place}",
        username=user or None,
        password=password or None,
        tls=tls,
        tls_options=tls_options,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        unverified=unverified(tls_options),
        **parts,
    )


def _socket(path: str, hosts: tuple[Address, ...]) -> tuple[Address, ...]:
    if hosts:
        raise ValueError("a unix URL names no host: it has three slashes, unix:///path/to/socket")
    if len(path) < 2:
        raise ValueError("a unix URL needs the path of a socket")
    return (Address(path=decoded(path)),)


def _in_path(kind: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Service and database, as far as the path names them."""
    segments = [decoded(segment) for segment in path.split("/") if segment]
    parts: dict[str, Any] = {}
    if kind == "sentinel":
        if not segments:
            raise ValueError("a sentinel URL names the service: redis+sentinel://host:port,host:port/service/db")
        parts["service"] = segments.pop(0)
    if segments:
        text = segments.pop(0)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ValueError("the database in the path is not a number")
        if "db" in options:
            raise ValueError("the database is given twice, in the path and as an option")
        parts["db"] = int(text)
    if segments:
        raise ValueError("there is more in the path than the database")
    if kind == "cluster" and parts.get("db"):
        raise ValueError("a cluster has the database 0 and no other")
    return parts
