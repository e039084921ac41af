"""Where the server of a partition is: read from the URL, asked of Sentinel, or asked of the cluster."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from redis.crc import key_slot

from coordinator.errors import ConfigurationError

__all__ = ["Address", "StoreUrl", "UrlSource", "parse_url", "slot_owner"]

_FORMS = (
    "redis://host:port/db, rediss://host:port/db, unix:///path/to/socket, "
    "redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port"
)


@dataclass(frozen=True, slots=True)
class Address:
    """One server: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A Redis URL, taken apart.

    Attributes:
        kind: ``standalone``, ``sentinel`` or ``cluster``.
        addresses: the server; or the sentinels; or some nodes of the cluster.
        service: name that the sentinels know the primary by.
        shown: the URL without its password.
    """

    kind: str
    addresses: tuple[Address, ...]
    shown: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    service: str = ""
    tls: bool = False
    tls_options: dict[str, Any] = field(default_factory=dict)

    def connection_options(self) -> dict[str, Any]:
        """What redis-py's connections need beside the address."""
        options: dict[str, Any] = {"username": self.username, "password": self.password, "db": self.db}
        if self.tls:
            options |= {"ssl_cert_reqs": ssl.CERT_REQUIRED, **self.tls_options}
        return options


def _host_port(text: str, url: str) -> Address:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, "6379"
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"redis_url {url}: {text!r} is not host:port")
    return Address(host.strip("[]"), int(port))


def _db(text: str, url: str) -> int:
    if text and not text.isdigit():
        raise ConfigurationError(f"redis_url {url}: {text!r} is not a database number")
    return int(text or 0)


def parse_url(url: str) -> StoreUrl:
    """Takes a Redis URL apart.

    Raises:
        ConfigurationError: it is of no known form; the message does not repeat the password.
    """
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    netloc = f"{user}:***@{hosts}" if at and password else parts.netloc
    shown = urlunsplit((parts.scheme, netloc, parts.path, "", ""))
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    login: dict[str, Any] = {"username": unquote(user) or None, "password": unquote(password) or None}
    segments = [unquote(s) for s in parts.path.split("/") if s]
    tls_options = {f"ssl_{k.removeprefix('ssl_')}": v for k, v in query.items() if k.startswith("ssl_")}
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigurationError(f"redis_url {shown}: a unix URL needs the path of a socket")
        path = Address(path=unquote(parts.path))
        return StoreUrl("standalone", (path,), shown, **login, db=_db(query.get("db", ""), shown))
    if parts.scheme in ("redis", "rediss"):
        address = _host_port(hosts or "localhost", shown)
        database = _db(segments[0] if segments else query.get("db", ""), shown)
        tls = parts.scheme == "rediss"
        return StoreUrl("standalone", (address,), shown, **login, db=database, tls=tls, tls_options=tls_options)
    addresses = tuple(_host_port(h, shown) for h in hosts.split(",")) if hosts else ()
    if parts.scheme == "redis+sentinel":
        if not addresses or not segments:
            raise ConfigurationError(
                f"redis_url {shown}: a sentinel URL is redis+sentinel://host:port,host:port/service/db"
            )
        return StoreUrl(
            "sentinel", addresses, shown, **login, service=segments[0], db=_db("".join(segments[1:2]), shown)
        )
    if parts.scheme == "redis+cluster":
        if not addresses:
            raise ConfigurationError(f"redis_url {shown}: a cluster URL names at least one host:port")
        return StoreUrl("cluster", addresses, shown, **login)
    raise ConfigurationError(f"redis_url {shown}: {parts.scheme or 'no'} scheme is not known; use {_FORMS}")


class UrlSource:
    """Where the URL comes from: given once, or read again for each connection, since secrets in files change.

    Args:
        url: the URL, or what returns it now.

    Raises:
        ConfigurationError: the URL is of no known form.
    """

    def __init__(self, url: str | Callable[[], str]) -> None:
        self._given = url
        self._text = self._read()
        self._url = parse_url(self._text)

    def _read(self) -> str:
        return self._given if isinstance(self._given, str) else self._given()

    def now(self) -> StoreUrl:
        """The URL for a new connection; the last good one where what stands there now is none."""
        text = self._read()
        if text != self._text:
            with contextlib.suppress(ConfigurationError):
                self._url = parse_url(text)
                self._text = text
        return self._url


def slot_owner(slots: list[list[Any]], key: str, asked: Address) -> Address | None:
    """The primary that holds a key, from the answer of CLUSTER SLOTS; None when nobody does.

    Args:
        slots: rows of first slot, last slot, primary, replicas.
        key: any key with the hash tag of the partition.
        asked: the node that answered: it leaves its own host out when it does not know it.
    """
    slot = key_slot(key.encode())
    for first, last, primary, *_ in slots:
        if first <= slot <= last:
            host = (primary[0] or b"").decode()
            return Address(host or asked.host, int(primary[1]))
    return None
