"""Health, readiness, metrics and the status page of a running daemon."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette

from coordinator.daemon.daemon import Daemon
from coordinator.settings import load
from coordinator.web.server import HttpServer, listen
from tests.redis_server import RedisServer
from tests.waiting import eventually

CONTRACT = {
    "sessions",
    "orphaned_sessions",
    "oldest_orphan_timestamp_seconds",
    "instances",
    "free_slots",
    "fullest_instance_sessions",
    "in_doubt_sessions",
    "hold_active",
    "breaker_open",
    "paused",
    "last_scan_timestamp_seconds",
    "store_up",
    "drain_sessions_remaining",
    "drain_deadline_timestamp_seconds",
    "build_info",
    "instance_deaths_total",
    "orphans_total",
    "offers_total",
    "adoptions_total",
    "handovers_total",
    "dead_letters_total",
    "fenced_writes_total",
    "holds_total",
    "quarantined_total",
    "cannot_serve_total",
    "loop_errors_total",
    "store_errors_total",
    "session_seconds_total",
    "orphaned_session_seconds_total",
    "detection_duration_seconds",
    "takeover_duration_seconds",
    "resume_duration_seconds",
    "handover_duration_seconds",
    "data_age_seconds",
    "scan_duration_seconds",
    "store_request_duration_seconds",
}
"""Names on which dashboards and alerts rely."""
OF_PODS = {"pod_watch_up", "pod_watch_errors_total", "pod_deletion_costs_total"}
"""Those that are exported with POD_EVENTS only."""
METRICS_PAGE = Path(__file__).parents[2] / "docs/metrics.md"


async def get(port: int, path: str, source: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    """Status and body; header names with underscores for hyphens."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(source, 0))
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await anyio.to_thread.run_sync(ask)


async def test_health_and_readiness_follow_the_process_and_the_store() -> None:
    """healthz never looks at Redis; readyz is 503 with the reason while the store is away, and 200 again after."""
    server = RedisServer()
    try:
        daemon = Daemon(load(redis_url=server.url, http_port=0))
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(daemon.run)
            await eventually(lambda: not daemon.not_ready())
            assert await get(port, "/readyz") == (200, '{"ready":true,"reasons":[]}')
            server.pause()
            await eventually(lambda: bool(daemon.not_ready()))
            status, body = await get(port, "/readyz")
            assert status == 503
            assert json.loads(body)["reasons"] == ["partition 0: the store does not answer"]
            assert await get(port, "/healthz") == (200, "ok\n")
            assert "the store cannot be seen" in (await get(port, "/"))[1]
            server.resume()
            await eventually(lambda: not daemon.not_ready())
            assert (await get(port, "/readyz"))[0] == 200
            assert (await get(port, "/nothing"))[0] == 404
            tasks.cancel_scope.cancel()
    finally:
        server.close()


async def test_one_partition_that_does_not_answer_is_its_own_matter(url: str) -> None:
    """A coordinator that looks after the others is ready; when none answers each is named."""
    daemon = Daemon(load(redis_url=url, http_port=0, partitions=2))
    for up in (True, False):
        daemon.loops[1].up = up
        assert daemon.not_ready() == ([] if up else [f"partition {n}: the store does not answer" for n in (0, 1)])


async def test_every_documented_metric_is_exported_and_every_exported_one_documented(url: str) -> None:
    """The table of docs/metrics.md and /metrics have the same names; those of pods are exported with pod events only."""
    daemon = Daemon(load(redis_url=url, http_port=0))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(daemon.run)
        await eventually(lambda: not daemon.not_ready())
        _, text = await get(port, "/metrics")
        tasks.cancel_scope.cancel()
    exported = set(re.findall(r"^# TYPE recovery_(\w+) ", text, re.MULTILINE))
    exported = {name for name in exported if not name.endswith("_created")}
    documented = set(
        re.findall(r"^\| `(\w+)` \| (?:gauge|counter|histogram) \|", METRICS_PAGE.read_text(), re.MULTILINE)
    )
    assert exported | OF_PODS == documented
    assert exported == CONTRACT
    assert 'recovery_store_request_duration_seconds_count{operation="scan"}' in text


async def test_who_may_see_the_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health and metrics are for everybody; the page is for 127.0.0.1 under a name of loopback, elsewhere an API token opens it."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # Uvicorn's own: whoever passes requests on must not say who asks
    daemon = Daemon(load(redis_url=url, http_port=0, api_token="one,two"))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(daemon.run)
        await eventually(lambda: not daemon.not_ready())
        for source in ("127.0.0.1", "127.0.0.6"):
            assert [(await get(port, path, source))[0] for path in ("/healthz", "/readyz", "/metrics")] == [
                200,
                200,
                200,
            ]
        for headers in ({}, {"Authorization": "Bearer three"}, {"X_Forwarded_For": "127.0.0.1"}):
            status, text = await get(port, "/", "127.0.0.6", **headers)
            assert (status, json.loads(text)["status"]) == (401, 401)
        assert (await get(port, "/", "127.0.0.6", Authorization="Bearer two"))[0] == 200
        assert (await get(port, "/"))[0] == 200
        assert (await get(port, "/", Host="evil.example"))[0] == 421
        assert (await get(port, "/", Authorization="Bearer one", authorization="Bearer one"))[0] == 400
        tasks.cancel_scope.cancel()


async def test_the_port_may_serve_health_only_or_be_off(url: str) -> None:
    """HTTP_TCP=health: no page, whatever is shown; off: it coordinates without a port."""
    daemon = Daemon(load(redis_url=url, http_port=0, http_tcp="health", api_token="one"))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(daemon.run)
        assert (await get(port, "/healthz"))[0] == 200
        assert (await get(port, "/", Authorization="Bearer one"))[0] == 403
        tasks.cancel_scope.cancel()
    silent = Daemon(load(redis_url=url, http_tcp="off"))
    async with anyio.create_task_group() as tasks:
        assert await tasks.start(silent.run) == 0
        await eventually(lambda: not silent.not_ready())
        tasks.cancel_scope.cancel()


def test_half_an_answer_waits_for_nothing() -> None:
    """Connections of a listener send at once what they have: else each answer took 40 ms, until its first half is acknowledged."""
    with listen("127.0.0.1", 0) as found:
        assert found.proto == socket.IPPROTO_TCP  # the sign by which asyncio switches Nagle's algorithm off


async def test_a_cancelled_server_listens_no_longer() -> None:
    """A server that is cancelled, not stopped, leaves nothing that listens: loops of uvloop would wait for that when they close."""
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(HttpServer(Starlette(), [taken]).run)
        await eventually(lambda: get(port, "/"))
        tasks.cancel_scope.cancel()
    assert taken.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        await get(port, "/")
