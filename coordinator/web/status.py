"""Health, readiness, metrics and a status page over HTTP (Starlette)."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coordinator.clock import in_seconds
from coordinator.printable import printable
from coordinator.store import reads

__all__ = ["application", "page"]


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
        reasons = [printable(reason) for reason in not_ready()]
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        return HTMLResponse(page(not_ready(), overviews()))

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/", status),
        ]
    )
    app.router.redirect_slashes = False  # an address would be made from the client's Host header
    return app


def _text(value: object) -> str:
    """A value, which may come from the store, as text of the page."""
    return html.escape(printable(str(value)))


def _row(*cells: object) -> str:
    return "<tr>" + "".join(f"<td>{_text(cell)}" for cell in cells)


def page(reasons: Sequence[str], views: Sequence[reads.Overview | None]) -> str:
    """The status page, as HTML.

    Args:
        reasons: why this process is not ready; none when it is.
        views: the last look at each partition, None where the store cannot be seen.
    """
    rows, people = [], []
    for number, view in enumerate(views):
        if view is None:
            rows.append(_row(number, "the store cannot be seen", "", "", "", "", ""))
            continue
        age = f"{in_seconds(view.now_ms - view.oldest_orphan_ms):.1f} s" if view.oldest_orphan_ms else "-"
        rows.append(
            _row(number, view.active, view.orphans, age, view.dead_lettered, view.graves, view.hold_reason or "-")
        )
        people += [
            _row(i.id, number, i.state, i.pool, f"{i.owned} / {i.capacity}", f"{i.beat_age_ms} ms")
            for i in view.instances
        ]
    state = "ready" if not reasons else "not ready: " + "; ".join(reasons)
    return (
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>recovery coordinator</title>"
        "<style>body{font:15px system-ui;margin:2em}table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.3em 1em;border-bottom:1px solid #ccc;text-align:left}</style>"
        f"<h1>Recovery coordinator</h1><p>{_text(state)}"
        "<table><tr><th>partition<th>active<th>orphaned<th>oldest<th>dead letters<th>graves<th>hold"
        f"{''.join(rows)}</table><table><tr><th>instance<th>partition<th>state<th>pool<th>sessions<th>last beat"
        f"{''.join(people)}</table>"
    )
