"""How a program without this library reaches the server of a partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.store.address import Address
from coordinator.store.url import StoreUrl

__all__ = ["Endpoint"]

NUMBERS = ("cert_reqs", "min_version")
FILES = ("ca_certs", "ca_path", "certfile", "keyfile")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and how to log in there: plain values, which can be written down as JSON.

    Attributes:
        address: of the server.
        greeting: commands that log in and choose the database, in order.
        tls: options of the TLS connection, named as in a Redis URL without ``ssl_``, enumerations as numbers; None without TLS.
    """

    address: Address
    greeting: tuple[tuple[str, ...], ...] = field(repr=False)
    tls: dict[str, Any] | None = field(repr=False)

    @classmethod
    def of(cls, url: StoreUrl, address: Address) -> Endpoint:
        """The endpoint of a server of this URL."""
        options = url.connection_options()
        greeting: list[tuple[str, ...]] = []
        if options["username"] or options["password"]:
            user = (options["username"],) if options["username"] else ()
            greeting.append(("AUTH", *user, options["password"] or ""))
        if options["db"]:
            greeting.append(("SELECT", str(options["db"])))
        tls = None
        if url.tls:
            given = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
            del given["exclude_verify_flags"]  # the same for all
            tls = {name: int(value) if name in NUMBERS else value for name, value in given.items()}
            tls |= {
                name: str(Path(given[name]).absolute()) for name in FILES if name in given
            }  # it runs in another folder
        return cls(address, tuple(greeting), tls)

    def described(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "host": self.address.host,
            "port": self.address.port,
            "path": self.address.path,
            "greeting": [list(words) for words in self.greeting],
            "tls": self.tls,
        }
