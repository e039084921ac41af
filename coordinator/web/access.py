"""Where a request comes from, and the API token that it shows: one rule for every port of daemon and sidecar."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from coordinator.settings import Settings
from coordinator.web.gate import PROBLEM, Receive, Scope, Send

__all__ = ["OPEN_TO_ALL", "Access", "Guarded", "Refusal", "headers_of"]

OPEN_TO_ALL = ("/healthz", "/readyz", "/metrics")
"""Paths that probes and Prometheus may ask from anywhere, without a token."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
# No other address of 127/8: proxies beside a program pass foreign requests on from there (Istio's from 127.0.0.6).
LOCAL_ADDRESSES = frozenset({ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")})


class Refusal(NamedTuple):
    """Why a request is not let in: its status, one sentence, and headers to be sent along."""

    status: HTTPStatus
    detail: str
    headers: dict[str, str]


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
    def is_unix(scope: Mapping[str, Any]) -> bool:
        """Whether it came over a unix socket."""
        return (scope.get("client") or ("",))[0] == "unix"

    @classmethod
    def is_local(cls, scope: Mapping[str, Any]) -> bool:
        """Whether it came over a unix socket or loopback; False when that is unknown."""
        if cls.is_unix(scope):
            return True
        try:
            address = ipaddress.ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address) in LOCAL_ADDRESSES

    @staticmethod
    def bearer(headers: Mapping[str, list[str]]) -> str:
        """The token in the header Authorization; '' for none (a request with several is refused before)."""
        given = headers.get("authorization", [])
        scheme, _, shown = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return shown.strip() if scheme.lower() == "bearer" else ""

    def has_token(self, headers: Mapping[str, list[str]]) -> bool:
        """Whether a request shows a valid API token; compared in constant time."""
        return self._shows(headers, self._settings.api_tokens())

    def may_drain(self, headers: Mapping[str, list[str]]) -> bool:
        """Whether a request shows a token that is valid for the preStop hook."""
        return self._shows(headers, self._settings.drain_tokens())

    def _shows(self, headers: Mapping[str, list[str]], tokens: Sequence[str]) -> bool:
        shown = self.bearer(headers).encode("latin-1", "replace")
        same = [hmac.compare_digest(shown, token.encode()) for token in tokens]
        return any(same)

    def refusal(self, scope: Mapping[str, Any], headers: Mapping[str, list[str]]) -> Refusal | None:
        """Why a request is not let in at all; None when it is.

        The reasons: it shows several logins at once, comes from another machine without a token, comes from a browser that a foreign
        name led here, or came by a port that serves only health.
        """
        if len(headers.get("authorization", [])) > 1:
            return Refusal(HTTPStatus.BAD_REQUEST, "there is more than one Authorization header: show one token", {})
        if self.is_unix(scope):
            return None
        if self._settings.http_tcp == "health":
            return Refusal(HTTPStatus.FORBIDDEN, "this port serves health and metrics only (setting HTTP_TCP)", {})
        if not self.is_local(scope):
            if self.has_token(headers):
                return None
            reason = "from another machine a valid API token is needed"
            return Refusal(HTTPStatus.UNAUTHORIZED, reason, {"WWW-Authenticate": "Bearer"})
        host = next(iter(headers.get("host", [""])))
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in LOCAL_NAMES | {self._settings.http_host}:
            return Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"the Host header {host[:100]!r} is not a name of this machine's loopback",
                {},
            )
        return None


class Guarded:
    """An ASGI application in front of another: health and metrics are for all clients, the rest for those that `Access` lets in."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        refused = None
        if scope["type"] == "http" and scope["path"] not in OPEN_TO_ALL:
            refused = self._access.refusal(scope, headers_of(scope))
        if refused is None:
            await self._app(scope, receive, send)
            return
        document = {
            "type": "about:blank", "title": refused.status.phrase, "status": int(refused.status), "detail": refused.detail,
        }  # fmt: skip
        body = json.dumps(document).encode() + b"\n"
        headers = {"Content-Type": PROBLEM, "Content-Length": str(len(body)), **refused.headers}
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": int(refused.status), "headers": lines})
        await send({"type": "http.response.body", "body": body})
