"""Health, readiness, metrics and a status page over HTTP (Starlette on uvicorn)."""

from __future__ import annotations

import contextlib
import html
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coordinator.errors import ConfigurationError
from coordinator.store import reads

__all__ = ["HttpServer", "application", "listen"]


def application(
    registry: CollectorRegistry,
    not_ready: Callable[[], list[str]],
    overviews: Callable[[], Sequence[reads.Overview | None]],
) -> Starlette:
    """The ASGI application.

    Args:
        not_ready: returns why this process is not ready, one reason a line; empty when it is.
        overviews: returns the last look at each partition, None where the store cannot be seen.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reasons = not_ready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        return HTMLResponse(_page(not_ready(), overviews()))

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/", status),
        ]
    )


def _page(reasons: Sequence[str], views: Sequence[reads.Overview | None]) -> str:
    rows, people = [], []
    for number, view in enumerate(views):
        if view is None:
            rows.append(f"<tr><td>{number}<td colspan=6>the store cannot be seen")
            continue
        age = f"{(view.now_ms - view.oldest_orphan_ms) / 1000:.1f} s" if view.oldest_orphan_ms else "-"
        rows.append(
            f"<tr><td>{number}<td>{view.active}<td>{view.orphans}<td>{age}<td>{view.dead_lettered}"
            f"<td>{view.graves}<td>{html.escape(view.hold_reason or '-')}"
        )
        people += [
            f"<tr><td>{html.escape(i.id)}<td>{number}<td>{i.state}<td>{html.escape(i.pool)}<td>{i.owned} / {i.capacity}"
            f"<td>{i.beat_age_ms} ms"
            for i in view.instances
        ]
    state = "ready" if not reasons else "not ready: " + "; ".join(reasons)
    return (
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>recovery coordinator</title>"
        "<style>body{font:15px system-ui;margin:2em}table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.3em 1em;border-bottom:1px solid #ccc;text-align:left}</style>"
        f"<h1>Recovery coordinator</h1><p>{html.escape(state)}"
        "<table><tr><th>partition<th>active<th>orphaned<th>oldest<th>dead letters<th>graves<th>hold"
        f"{''.join(rows)}</table><table><tr><th>instance<th>partition<th>state<th>pool<th>sessions<th>last beat"
        f"{''.join(people)}</table>"
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigurationError: the address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise ConfigurationError(f"http_port: {host}:{port} cannot be taken: {error.strerror}") from error
    return found


class _Server(uvicorn.Server):
    """Leaves signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an ASGI application on sockets until `stop`.

    Args:
        options: more of Uvicorn's.
    """

    def __init__(self, app: Any, sockets: Sequence[socket.socket], **options: Any) -> None:
        self._sockets = list(sockets)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                ws="none",
                **options,
            )
        )

    async def run(self) -> None:
        """Serves; returns after `stop`."""
        await self._server.serve(sockets=self._sockets)

    def stop(self) -> None:
        """Ends `run` soon. Safe to repeat."""
        self._server.should_exit = True
