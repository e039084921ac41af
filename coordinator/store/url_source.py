"""Where the store's URL comes from: it is given once, or read again for each connection, since secrets in files change."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import structlog

from coordinator.errors import ConfigurationError
from coordinator.store.address import Address
from coordinator.store.lookout import Lookout
from coordinator.store.url import StoreUrl, parse_url
from coordinator.store.url_options import try_tls

__all__ = ["UrlSource", "say_in_the_log"]

log = structlog.get_logger()


def say_in_the_log(url: StoreUrl) -> None:
    """Warns of a URL that leaves certificates unverified."""
    log.warning("tls_not_verified", store=url.shown, why=url.unverified)


class UrlSource:
    """The URL for each new connection.

    Args:
        url: the URL, or a function that returns it now.
        warn: called once with a URL that leaves certificates unverified.

    Attributes:
        lookout: knows where the primary is that Sentinels name; does nothing before it is asked.
        tells_server: whether a connection has learnt the run id of its server; then each later one needs it.

    Raises:
        ConfigurationError: the URL's form is unknown, or it names files that cannot be used.
    """

    def __init__(self, url: str | Callable[[], str], warn: Callable[[StoreUrl], None] = say_in_the_log) -> None:
        self.tells_server = False
        self.lookout = Lookout(self.now)
        self._turns = itertools.count()
        self._given, self._warn = url, warn
        self._text = self._refused = self._read()
        self._url = self._usable(self._text)

    def nodes(self) -> tuple[Address, ...]:
        """Nodes of a Cluster to ask one after the other, each time another one first.

        A node that is cut off from the rest does not know which primaries were replaced, and answers all the same.
        """
        addresses = self._url.addresses
        first = next(self._turns) % len(addresses)
        return addresses[first:] + addresses[:first]

    def _read(self) -> str:
        return self._given if isinstance(self._given, str) else self._given()

    def _usable(self, text: str) -> StoreUrl:
        url = parse_url(text)
        if url.tls:
            try:
                try_tls(url.tls_options)
            except ValueError as error:
                raise ConfigurationError(f"redis_url {url.shown}: {error}") from None
        if url.unverified:
            self._warn(url)
        return url

    def now(self) -> StoreUrl:
        """The URL for a new connection; the last good one where the present text is invalid, which is logged once."""
        text = self._read()
        if text != self._text:
            try:
                self._url = self._usable(text)
                self._text = text
            except ConfigurationError as error:
                if text != self._refused:
                    log.warning("redis_url_refused", why=str(error), goes_on_with=self._url.shown)
                self._refused = text
        return self._url
