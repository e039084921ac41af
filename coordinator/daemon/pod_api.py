"""The three requests to the API server that pod events need: list, watch, and one annotation.

Needs the extra ``kubernetes``; nothing else of the program imports this module before ``POD_EVENTS`` is on.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from coordinator.daemon.pod_evidence import COST_ANNOTATION, Pod
from coordinator.errors import ConfigurationError, PodApiError
from coordinator.settings import Settings

__all__ = ["PodApi"]

PAGE = 100
"""Pods that a list asks for at a time: about a megabyte, so that reading it does not hold up detection."""
WATCH_SECONDS = 290
"""Seconds after which the API server ends a watch by itself, so that its load is spread anew; a normal end."""
REQUEST_SECONDS = 10.0
LONGEST_LINE = 8 * 1024 * 1024
"""Bytes; an object of the API is bounded by what etcd takes, 1.5 MiB."""
_STATUS_KINDS = {401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict", 410: "gone"}


class PodApi:
    """One namespace's pods.

    Args:
        url: of the API server.
        namespace: whose pods.
        selector: a label selector, '' for all.
        credentials: directory with ``token`` and ``ca.crt``, each read again for new requests; either may be missing.
    """

    def __init__(self, url: str, namespace: str, selector: str, credentials: Path) -> None:
        self.url, self.namespace, self.selector = url.rstrip("/"), namespace, selector
        self._token_file, self._ca_file = credentials / "token", credentials / "ca.crt"
        self._token, self._ca_stamp = "", 0
        self._client: httpx2.AsyncClient | None = None
        self._former: list[httpx2.AsyncClient] = []

    @classmethod
    def from_settings(cls, settings: Settings) -> PodApi:
        """The API server of the cluster that this process runs in, or the one that is set.

        Raises:
            ConfigurationError: this process is not in a cluster, or has no service account.
        """
        credentials = Path(settings.pod_credentials)
        url = settings.pod_api
        if not url:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise ConfigurationError(
                    "pod_events: this process is not in a cluster (KUBERNETES_SERVICE_HOST is not set): set pod_api"
                )
            url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
            if not (credentials / "token").is_file():
                raise ConfigurationError(
                    f"pod_events: there is no token in {credentials}: the pod needs a service account that is mounted"
                )
        namespace = settings.pod_namespace or _read(credentials / "namespace")
        if not namespace:
            raise ConfigurationError(f"pod_namespace is not set, and there is no {credentials / 'namespace'}")
        return cls(url, namespace, settings.pod_selector, credentials)

    async def list(self) -> tuple[list[Any], str]:
        """Reads all pods, page by page, and the version from which a watch goes on. Safe to repeat.

        Raises:
            PodApiError: ``gone`` when it took so long that the pages do not fit together any more.
        """
        pods: list[Any] = []
        more = ""
        while True:
            answer = await self._request(
                "GET", self._pods(), params=self._params(limit=str(PAGE), **_given("continue", more))
            )
            try:
                page = answer.json()
                pods += page["items"]
                more, version = page["metadata"].get("continue"), page["metadata"]["resourceVersion"]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PodApiError("malformed", f"a list of pods: {error!r}"[:200]) from error
            if not more:
                return pods, str(version)

    @asynccontextmanager
    async def watch(self, version: str) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
        """Yields each change after ``version``, bookmarks included, as type and object; ends when the server ends it.

        Raises:
            PodApiError: on entering, and while it is read; ``gone`` when the server has forgotten that version.
        """
        params = self._params(
            watch="1", allowWatchBookmarks="true", resourceVersion=version, timeoutSeconds=str(WATCH_SECONDS)
        )
        request = self._open().build_request(
            "GET",
            self._pods(),
            params=params,
            headers=self._headers(),
            timeout=httpx2.Timeout(REQUEST_SECONDS, read=WATCH_SECONDS + 30),
        )
        answer = await self._send(request, stream=True)
        try:
            async with aclosing(_events(answer)) as events:
                yield events
        finally:
            await answer.aclose()

    async def set_cost(self, pod: Pod, cost: int) -> None:
        """Sets the annotation, if the pod has not changed since it was seen: of several coordinators one succeeds.

        Raises:
            PodApiError: ``conflict`` when it has changed, ``not_found`` when it is gone.
        """
        change = {"metadata": {"resourceVersion": pod.version, "annotations": {COST_ANNOTATION: str(cost)}}}
        await self._request(
            "PATCH",
            f"{self._pods()}/{quote(pod.name, safe='')}",
            content=json.dumps(change),
            headers={"Content-Type": "application/merge-patch+json"},
        )

    async def aclose(self) -> None:
        """Closes the connections. Safe to repeat."""
        clients = [*self._former, *([self._client] if self._client else [])]
        self._former, self._client = [], None
        for client in clients:
            await client.aclose()

    def _pods(self) -> str:
        return f"{self.url}/api/v1/namespaces/{quote(self.namespace, safe='')}/pods"

    def _params(self, **params: str) -> dict[str, str]:
        return {**params, **_given("labelSelector", self.selector)}

    def _headers(self) -> dict[str, str]:
        self._token = _read(self._token_file) or self._token  # empty while it is replaced: the last one serves
        return _given("Authorization", f"Bearer {self._token}" if self._token else "")

    def _open(self) -> httpx2.AsyncClient:
        """The client, made anew when the authority's certificate was replaced (a watch goes on over the old one)."""
        try:
            stamp = self._ca_file.stat().st_mtime_ns
        except OSError:
            stamp = 0
        if self._client is None or (stamp and stamp != self._ca_stamp):
            try:
                context = ssl.create_default_context(cafile=str(self._ca_file) if stamp else None)
            except (OSError, ssl.SSLError) as error:
                raise PodApiError("unreachable", f"{self._ca_file}: {error}") from error
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # authorities of older clusters have no key identifier
            self._ca_stamp = stamp
            if self._client is not None:
                self._former.append(self._client)
            self._client = httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(verify=context, trust_env=False, socket_options=_KEEPALIVE),
                trust_env=False,
                timeout=httpx2.Timeout(REQUEST_SECONDS),
            )
        return self._client

    async def _request(
        self, method: str, url: str, headers: dict[str, str] | None = None, **what: Any
    ) -> httpx2.Response:
        client = self._open()
        return await self._send(
            client.build_request(method, url, headers={**self._headers(), **(headers or {})}, **what), stream=False
        )

    async def _send(self, request: httpx2.Request, *, stream: bool) -> httpx2.Response:
        try:
            answer = await self._open().send(request, stream=stream)
            if answer.is_success:
                return answer
            try:
                said = (await answer.aread()).decode("utf-8", "replace")
            finally:
                await answer.aclose()
        except (httpx2.HTTPError, ssl.SSLError) as error:
            raise _transport_error(error) from error
        raise _status_error(answer.status_code, said)


def _given(name: str, value: str | None) -> dict[str, str]:
    return {name: value} if value else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _transport_error(error: Exception) -> PodApiError:
    if isinstance(error, httpx2.TimeoutException):
        return PodApiError("timeout", str(error) or type(error).__name__)
    if isinstance(error, httpx2.ConnectError):
        return PodApiError("unreachable", str(error))
    return PodApiError("closed", str(error) or type(error).__name__)


def _status_error(code: int, said: str) -> PodApiError:
    """From an HTTP status and the ``Status`` object that came with it."""
    kind = _STATUS_KINDS.get(code) or ("server" if code == 429 or code >= 500 else "refused")
    with suppress(ValueError, KeyError, TypeError):
        said = str(json.loads(said)["message"])
    return PodApiError(kind, f"{code}: {said[:300]}")


async def _events(answer: httpx2.Response) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """One event a line; lines end with LF only, since names and annotations may hold other line ends of Unicode."""
    rest = bytearray()
    try:
        async for chunk in answer.aiter_bytes():
            *lines, last = (bytes(rest) + chunk).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                if line.strip():
                    yield _event(line)
            if len(rest) > LONGEST_LINE:
                raise PodApiError("malformed", f"an event of more than {LONGEST_LINE} bytes")
    except httpx2.HTTPError as error:
        raise _transport_error(error) from error


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        event = json.loads(line)
        kind, about = event["type"], event["object"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PodApiError("malformed", f"an event of the watch: {error!r}"[:200]) from error
    if not isinstance(kind, str) or not isinstance(about, dict):
        raise PodApiError("malformed", "an event of the watch without type and object")
    if kind == "ERROR":
        code = about.get("code")
        raise _status_error(code if isinstance(code, int) else 500, str(about.get("message")))
    return kind, about


_KEEPALIVE: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""A watch whose other end vanished ends within half a minute, although the client sends nothing on it."""
