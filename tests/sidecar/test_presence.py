"""What the sidecar takes for proof that a worker lives, and what it does when the proof ends."""

from __future__ import annotations

import contextlib
import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from coordinator.sidecar.event_queue import EventQueue
from coordinator.sidecar.presence import Presence
from coordinator.sidecar.server import api_server, closed_by_peer, listen_on_path, when_closed
from coordinator.store.keys import Keys
from tests import inside
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import eventually, wait_until

KEYS = Keys("recovery", 0)
Make = Callable[..., Client]


def state_of(server: RedisServer, session: str) -> str:
    """Of a session."""
    raw: Any = server.client().hget(KEYS.session(session), "state")
    return (raw or b"").decode()


def why_dead(server: RedisServer, instance: str) -> tuple[str, str]:
    """Cause and reason."""
    raw: Any = server.client().hmget(KEYS.instance(instance), "cause", "reason")
    return raw[0].decode(), raw[1].decode()


def owned(client: Client) -> list[str]:
    """Ids of the sessions of a worker."""
    answer = client("GET", f"/v1/workers/{client.instance}/sessions").json()
    return [one["session"] for one in answer["sessions"]]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's worker."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def test_the_end_of_its_process_is_a_certificate(
    worker: Make, server: RedisServer, process: subprocess.Popen[bytes]
) -> None:
    """A worker that named its process needs no stream; when the process is killed its calls are offered."""
    client = worker("pid-1", pid=process.pid)
    client.open("pid", {})
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: state_of(server, "pid") == "offered")
    assert why_dead(server, client.instance) == ("exited", f"process {process.pid} ended")
    answer = client("GET", f"/v1/workers/{client.instance}/sessions")
    assert answer.status_code == 410
    assert "ended" in answer.json()["detail"]


def test_the_answer_to_alive_says_for_how_long_it_may_be_trusted(worker: Make) -> None:
    """204 with the rest of the trust window; whoever is not registered is told so."""
    client = worker("trust-1")
    client.stream().wait_for("ping")
    path = f"/v1/workers/{client.instance}/alive"
    wait_until(lambda: 0 < int(client("POST", path, {"ping": 1}).headers["trust-ms"]) <= 750)
    assert client("POST", path, {"ping": 1}).status_code == 204
    assert client("POST", "/v1/workers/nobody~1/alive").status_code == 404


def test_a_stream_that_ends_and_comes_back_in_time(worker: Make, server: RedisServer) -> None:
    """Attached again within the grace: nothing happened. The process at the other end lives all the while."""
    client = worker("back-1")
    first = client.stream()
    first.wait_for("hello")
    client.open("back", {})
    first.close()
    second = client.stream()
    [hello] = second.wait_for("hello")
    assert hello["sessions"] == ["back"]
    second.wait_for("ping", 6)  # more than the grace
    assert state_of(server, "back") == "active"


def test_a_stream_that_ends_for_good(worker: Make, server: RedisServer) -> None:
    """Not attached again when the grace is over: dead, and its calls are offered."""
    client = worker("over-1")
    stream = client.stream()
    stream.wait_for("hello")
    client.open("over", {})
    stream.close()
    wait_until(lambda: state_of(server, "over") == "offered")
    assert why_dead(server, client.instance) == ("exited", "its stream ended")


def test_who_never_opens_a_stream_is_not_kept(worker: Make, server: RedisServer) -> None:
    """Registered, and never heard of again."""
    client = worker("mute-1")
    client.open("mute", {})
    wait_until(lambda: state_of(server, "mute") == "offered", 15)
    assert why_dead(server, client.instance) == ("exited", "it never opened its stream")


def test_polls_are_presence_too(worker: Make, server: RedisServer) -> None:
    """A worker that polls for offers lives as long as it does so."""
    client = worker("poll-1")
    client.open("poll", {})
    for _ in range(7):
        assert client("GET", "/v1/offers?wait=1s").status_code == 200
    assert state_of(server, "poll") == "active"
    wait_until(lambda: state_of(server, "poll") == "offered")


def test_a_frozen_worker_is_found_by_its_pings(sidecar: Sidecar, server: RedisServer) -> None:
    """Its stream is open and it answers nothing: it is fenced as wedged, and told so when it wakes."""
    quick = Sidecar(server, "--wedged-after", "1s")
    with contextlib.closing(quick), contextlib.closing(Client(quick.path)) as client:
        assert client.register("ice-1").status_code == 201
        stream = client.stream(answering=False)
        client.open("ice", {})
        wait_until(lambda: state_of(server, "ice") == "offered")
        assert why_dead(server, client.instance)[0] == "wedged"
        stream.wait_for("ended")
        wait_until(lambda: stream.over)
        assert client.stream().seen == []
        again = client("GET", f"/v1/workers/{client.instance}/events")
        assert (again.status_code, "no ping" in again.json()["detail"]) == (410, True)


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.looks += 1  # type: ignore[attr-defined]
        asked_for = self.path == "/healthz?worker=1"
        self.send_response(self.server.status if asked_for else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def test_a_health_url_with_thresholds(worker: Make, server: RedisServer) -> None:
    """Asked for as it was given, with its query; one bad answer is none; so many in a row are the end."""
    health = http.server.HTTPServer(("127.0.0.1", 0), _Health)
    health.status, health.looks = 200, 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=health.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{health.server_port}/healthz?worker=1"
        client = worker("well-1", health={"url": url, "interval_ms": 50, "failures": 3})
        client.open("well", {})
        wait_until(lambda: health.looks > 5)  # type: ignore[attr-defined]
        health.status = 500  # type: ignore[attr-defined]
        wait_until(lambda: state_of(server, "well") == "offered")
        assert why_dead(server, client.instance) == ("exited", "3 health checks failed in a row")
    finally:
        health.shutdown()
        thread.join()
        health.server_close()


def test_a_newer_stream_takes_the_place_of_an_older_one(worker: Make) -> None:
    """The older one is told and ends."""
    client = worker("two-1")
    old = client.stream()
    old.wait_for("hello")
    new = client.stream()
    new.wait_for("hello")
    old.wait_for("replaced")
    wait_until(lambda: old.over)
    new.wait_for("ping", 2)


def test_a_worker_that_does_not_read(worker: Make, server: RedisServer) -> None:
    """It is given no more offers than it may have in hand; others get all the rest, and after a lease those as well."""
    deaf, giver = worker("deaf-1", pool="deaf"), worker("deaf-2", pool="giver")
    giver.stream().wait_for("hello")
    deaf.stream(reading=False)
    over = threading.Event()
    lives = threading.Thread(target=_say_alive, args=(deaf, over))
    lives.start()
    try:
        _does_not_read(worker, giver, server)
    finally:
        over.set()
        lives.join()


def _say_alive(deaf: Client, over: threading.Event) -> None:
    """What another thread of a program says, whose reader hangs."""
    with contextlib.closing(Client(deaf.path)) as own:
        own.token = deaf.token
        while not over.wait(0.1):
            own("POST", f"/v1/workers/{deaf.instance}/alive")


def _does_not_read(worker: Make, giver: Client, server: RedisServer) -> None:
    for n in range(80):
        body = {"recovery_data": {"x": "y" * 7000}, "pool": "deaf"}
        assert giver("PUT", f"/v1/sessions/deaf-{n}", body).status_code == 201
        assert giver("POST", f"/v1/sessions/deaf-{n}/release").status_code == 204
    client: Any = server.client()
    wait_until(lambda: client.xpending(KEYS.offers("deaf"), "workers")["pending"])
    assert client.xpending(KEYS.offers("deaf"), "workers")["pending"] <= 16
    heir = worker("deaf-3", pool="deaf")
    stream, adopted = heir.stream(), set()

    def all_adopted() -> bool:
        for event in stream.told("offer"):
            if (
                event["session"] not in adopted
                and heir("POST", f"/v1/sessions/{event['session']}/adopt").status_code == 200
            ):
                adopted.add(event["session"])
        return len(adopted) == 80

    wait_until(all_adopted, 30)


def test_an_offer_that_is_not_answered_blocks_no_other(server: RedisServer) -> None:
    """A worker that answers pings and leaves an offer alone is given the next one all the same."""
    own = Sidecar(server, "--lease", "0.6s")
    with (
        contextlib.closing(own),
        contextlib.closing(Client(own.path)) as client,
        contextlib.closing(Client(own.path)) as giver,
    ):
        assert client.register("sits-1", pool="sits").status_code == 201
        assert giver.register("sits-2", pool="giver").status_code == 201
        stream, giving = client.stream(), giver.stream()
        giving.wait_for("hello")

        def give(session_id: str) -> None:
            assert giver("PUT", f"/v1/sessions/{session_id}", {"recovery_data": {}, "pool": "sits"}).status_code == 201
            assert giver("POST", f"/v1/sessions/{session_id}/release").status_code == 204

        give("sat-on")
        stream.wait_for("offer")
        wait_until(lambda: len({event["epoch"] for event in stream.told("offer")}) > 1, 20)
        give("taken")
        stream.told("offer").clear()

        def adopted() -> bool:
            told = [event for event in stream.told("offer") if event["session"] == "taken"]
            return bool(told) and client("POST", "/v1/sessions/taken/adopt").status_code == 200

        wait_until(adopted, 20)


def test_the_sidecar_dies_alone(server: RedisServer) -> None:
    """The worker's stream ends; attached to the restarted sidecar in time it keeps its calls, with their data."""
    first = Sidecar(server)
    client = Client(first.path)
    try:
        assert client.register("keeps-1", pool="keeps", capacity=3).status_code == 201
        stream = client.stream()
        stream.wait_for("hello")
        epoch = client.open("keeps", {"n": 1})
        first.process.send(signal.SIGKILL)
        wait_until(lambda: stream.over)
        second = Sidecar(server, path=first.path)
        with contextlib.closing(second):
            wrong = Client(first.path)
            wrong.instance, wrong.token = client.instance, "wrong"
            with contextlib.closing(wrong):
                assert wrong("GET", f"/v1/workers/{client.instance}/events").status_code == 401
            again = client.stream()
            [hello] = again.wait_for("hello")
            assert (hello["instance"], hello["sessions"]) == (client.instance, ["keeps"])
            path = "/v1/sessions/keeps/checkpoint"
            assert client("PUT", path, {"recovery_data": {"n": 2}}, If_Match=f'"{epoch}"').status_code == 204
            assert client("GET", "/v1/sessions/keeps").json()["recovery_data"] == {"n": 2}
            again.wait_for("held")
    finally:
        client.close()
        first.close()


def test_a_worker_that_lets_go_itself_does_so_behind_a_restarted_sidecar_too(server: RedisServer) -> None:
    """What it said when it registered holds when it attaches again: its heir has nothing before it let go."""
    first = Sidecar(server)
    client, heir = Client(first.path), Client(first.path)
    try:
        assert client.register("polite-1", lets_go=True).status_code == 201
        client.stream().wait_for("hello")
        client.open("polite", {"n": 1})
        first.process.send(signal.SIGKILL)
        wait_until(lambda: not first.process.alive)
        second = Sidecar(server, path=first.path)
        with contextlib.closing(second):
            again = client.stream()
            again.wait_for("held")
            heir.register("polite-2")
            thread = threading.Thread(target=lambda: heir("POST", "/v1/sessions/polite/adopt?wait=5s"))
            thread.start()
            wait_until(lambda: again.told("letting_go") or again.told("lost"))
            assert again.told("lost") == []
            assert client("POST", "/v1/sessions/polite/let-go", {"recovery_data": {"n": 2}}).status_code == 204
            thread.join()
            assert heir("GET", "/v1/sessions/polite").json()["recovery_data"] == {"n": 2}
    finally:
        client.close()
        heir.close()
        first.close()


def test_where_the_end_of_the_stream_is_the_exit(
    worker: Make, server: RedisServer, process: subprocess.Popen[bytes]
) -> None:
    """It is certified when its stream ends, although its process lives; of a worker that did not promise it nothing follows."""
    promised, other = worker("exits-1", pid=process.pid, stream_end="exit"), worker("stays-1", pid=process.pid)
    streams = [client.stream() for client in (promised, other)]
    for stream in streams:
        stream.wait_for("hello")
    promised.open("exits", {})
    other.open("stays", {})
    for stream in streams:
        stream.close()
    wait_until(lambda: state_of(server, "exits") == "offered")
    assert why_dead(server, promised.instance) == ("exited", "its stream ended")
    assert state_of(server, "stays") == "active"
    assert owned(other) == ["stays"]


@pytest.mark.parametrize("by_peer", [True, False])
async def test_who_closed_a_connection(by_peer: bool, tmp_path: Path) -> None:
    """What the client closed tells of the client's end; what the sidecar closed, as when nothing is read, tells nothing."""
    told: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        closed = anyio.Event()
        when_closed(scope, closed.set)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}", "more_body": True})
        assert not closed_by_peer(scope)
        await closed.wait()
        told.append(closed_by_peer(scope))

    server = api_server(app, [listen_on_path(str(tmp_path / "api.sock"))], 65536, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        async with await anyio.connect_unix(str(tmp_path / "api.sock")) as client:
            await client.send(b"GET /v1/workers/a~1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            while b"{}" not in await client.receive():
                pass
            if by_peer:
                await client.aclose()
            else:
                [connection] = inside.open_connections(server.connections[0])
                connection.transport.abort()
            await eventually(lambda: told)
        server.stop()
    assert told == [by_peer]


def test_a_stream_that_the_sidecar_closed_is_no_exit() -> None:
    """Also of a worker that promised to end with its stream."""
    started: list[Any] = []
    end: Any = None
    worker: Any = SimpleNamespace(start=lambda *call: started.append(call), take_offers=lambda most: None)
    for by_peer in (False, True):
        presence = Presence(
            worker, EventQueue(), ended=lambda: False, end=end, has_proof=True, taken_up=False, stream_is_life=True,
        )  # fmt: skip
        stream = object()
        presence.take_stream(stream, None)
        presence.leave_stream(stream, closed_by_peer=by_peer)
        presence.leave_stream(stream, closed_by_peer=True)  # it is over already
    assert [call[1:] for call in started] == [("exited", "its stream ended")]


def test_a_newer_stream_is_no_end_of_the_older_one(worker: Make, server: RedisServer) -> None:
    """A worker that promised to end with its stream may open another one: the newest counts."""
    client = worker("exits-2", stream_end="exit")
    first = client.stream()
    first.wait_for("hello")
    client.open("exits-again", {})
    second = client.stream()
    second.wait_for("hello")
    first.wait_for("replaced")
    first.close()
    second.wait_for("ping", 6)  # more than the grace
    assert owned(client) == ["exits-again"]
    second.close()
    wait_until(lambda: state_of(server, "exits-again") == "offered")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_sidecar_is_no_exit_of_its_worker(server: RedisServer, number: signal.Signals) -> None:
    """A stream that ends because its sidecar did is opened again, and the promise holds behind the next sidecar."""
    first = Sidecar(server, "--drain-timeout", "0s")
    client = Client(first.path)
    try:
        assert client.register(f"ends-{number}", stream_end="exit").status_code == 201
        stream = client.stream()
        stream.wait_for("hello")
        client.open(f"ends-{number}", {"n": 1})
        first.process.send(number)
        wait_until(lambda: stream.over and not first.process.alive, 30)
        cause = server.client().hget(KEYS.instance(client.instance), "reason") or b""
        assert b"stream" not in cause
        if number == signal.SIGTERM:  # then the sidecar gives its calls to other workers itself
            return
        second = Sidecar(server, path=first.path)
        with contextlib.closing(second):
            again = client.stream()
            again.wait_for("held")
            again.close()
            wait_until(lambda: state_of(server, f"ends-{number}") == "offered")
            assert why_dead(server, client.instance) == ("exited", "its stream ended")
    finally:
        client.close()
        first.close()


def test_the_sidecar_dies_and_stays_away(sidecar: Sidecar, server: RedisServer) -> None:
    """Its calls are offered to others, and the worker that attaches later is told that it was declared dead."""
    first = Sidecar(server, "--sidecar-restart", "2s")
    client = Client(first.path)
    try:
        assert client.register("late-1").status_code == 201
        client.stream().wait_for("hello")
        client.open("late", {})
        first.process.send(signal.SIGKILL)
        wait_until(lambda: state_of(server, "late") == "offered")
        second = Sidecar(server, path=first.path)
        with contextlib.closing(second):
            answer = client("GET", f"/v1/workers/{client.instance}/events")
            assert answer.status_code == 410
            assert "declared dead" in answer.json()["detail"]
    finally:
        client.close()
        first.close()
