"""Who may ask: a unix socket and loopback may, everybody else needs a token; the Host header must be one of ours."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from coordinator.settings import Settings
from coordinator.sidecar.problems import Problem

__all__ = ["Access", "headers_of"]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def headers_of(scope: Mapping[str, Any]) -> dict[str, list[str]]:
    """Header values by name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


class Access:
    """Looks at where a request came from and what it shows.

    Args:
        settings: with the tokens (`api_token`, two may be valid, separated by a comma).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @staticmethod
    def is_local(scope: Mapping[str, Any]) -> bool:
        """Whether it came over a unix socket or loopback."""
        client = scope.get("client")
        if client is None or client[0] == "unix":
            return True
        try:
            return ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            return False

    @staticmethod
    def bearer(headers: Mapping[str, list[str]]) -> str:
        """The token in the header Authorization; '' for none."""
        scheme, _, shown = next(iter(headers.get("authorization", [""]))).partition(" ")
        return shown.strip() if scheme.lower() == "bearer" else ""

    def has_token(self, headers: Mapping[str, list[str]]) -> bool:
        """Whether it shows a valid API token; compared in constant time."""
        return self._shows(headers, self._settings.api_tokens())

    def may_drain(self, headers: Mapping[str, list[str]]) -> bool:
        """Whether it shows a token that is valid for the preStop hook."""
        return self._shows(headers, self._settings.drain_tokens())

    def _shows(self, headers: Mapping[str, list[str]], tokens: Sequence[str]) -> bool:
        shown = self.bearer(headers).encode("latin-1", "replace")
        same = [hmac.compare_digest(shown, token.encode()) for token in tokens]
        return any(same)

    def check(self, scope: Mapping[str, Any], headers: Mapping[str, list[str]]) -> None:
        """Refuses what comes from elsewhere without a token, and browsers that were led here by a foreign name.

        Raises:
            Problem: 401 or 421.
        """
        if not self.is_local(scope):
            if not self.has_token(headers):
                raise Problem(
                    HTTPStatus.UNAUTHORIZED, "from another machine a valid API token is needed",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            return
        if (scope.get("client") or ("unix",))[0] == "unix":
            return
        host = next(iter(headers.get("host", [""])))
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in LOCAL_NAMES | {self._settings.http_host}:
            raise Problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"the Host header {host[:100]!r} is not a name of this machine's loopback",
            )
