"""Draining and ending of the sidecar, and who may ask for what."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)


@pytest.fixture
def leaving(server: RedisServer) -> Iterator[Sidecar]:
    """A sidecar that the test ends."""
    made = Sidecar(server, "--api-token", "one,two", "--drain-port", "0", "--drain-timeout", "20s")
    yield made
    made.close()


@pytest.fixture
def elsewhere(sidecar: Sidecar) -> Iterator[Client]:
    """A worker behind another sidecar, that takes what it is offered."""
    client = Client(sidecar.path)
    yield client
    client.close()


def test_sigterm_hands_over_then_ends(leaving: Sidecar, elsewhere: Client, server: RedisServer) -> None:
    """With nobody to take the call the sidecar stays, a second SIGTERM too; when there is somebody the call moves and it ends."""
    client = Client(leaving.path)
    with contextlib.closing(client):
        client.register("term-1", pool="term")
        stream = client.stream()
        client.open("term", {"n": 1})
        leaving.process.send(signal.SIGTERM)
        stream.wait_for("drain")
        leaving.process.send(signal.SIGTERM)
        wait_until(lambda: "sidecar_still_draining" in leaving.log.read_text())
        assert client("GET", "/v1/sessions/term/owner").json()["instance"] == client.instance
        assert client("GET", "/readyz").status_code == 503
        assert client.register("term-2").status_code == 503
        elsewhere.register("term-3", pool="term")
        heir = elsewhere.stream()
        heir.wait_for("offer")
        adopted = elsewhere("POST", "/v1/sessions/term/adopt")
        assert (adopted.status_code, adopted.json()["planned"]) == (200, True)
        [lost] = stream.wait_for("lost")
        assert lost["heir"] == elsewhere.instance
        stream.wait_for("ended")
        wait_until(lambda: not leaving.process.alive)
        assert leaving.process.exit_status == 0


def test_a_drain_reports_what_moved(leaving: Sidecar, elsewhere: Client) -> None:
    """POST /v1/drain?wait=1: each call with its heir and how long nobody had it; a second one tells the same."""
    client = Client(leaving.path)
    with contextlib.closing(client):
        client.register("drain-1", pool="drain")
        client.stream()
        client.open("drain", {})
        elsewhere.register("drain-2", pool="drain")
        heir = elsewhere.stream()
        started = client("POST", "/v1/drain", {"reason": "rollout"})
        assert started.status_code == 202
        heir.wait_for("offer")
        assert elsewhere("POST", "/v1/sessions/drain/adopt").status_code == 200
        done = client("POST", "/v1/drain?wait=1").json()
        assert done["done"]
        [row] = done["workers"]
        assert row["handed_over"] == {"drain": elsewhere.instance}
        assert set(row["silence_ms"]) == {"drain"}
        assert client("GET", "/v1/drain").json() == done


def test_who_attaches_to_a_sidecar_that_ends_may_try_again(leaving: Sidecar) -> None:
    """A worker of the sidecar before it: 503 with Retry-After, since 404 would say that its calls are lost."""
    with contextlib.closing(Client(leaving.path)) as client:
        client.register("next-1")
        token = client.token
        assert client("POST", "/v1/drain?wait=1").status_code == 200
        late = client("GET", "/v1/workers/before-1~1/events", Worker_Token=token)
        assert (late.status_code, "retry-after" in late.headers) == (503, True)
        assert client("GET", "/v1/workers/before-1~1/sessions").status_code == 404


def test_the_hook_of_a_kubelet(leaving: Sidecar) -> None:
    """GET /prestop on its own port: only that, only with the token in a header; it answers when all is drained."""
    base = f"http://127.0.0.1:{leaving.drain_port}"
    client = Client(leaving.path)
    with contextlib.closing(client), httpx.Client(base_url=base, timeout=60) as kubelet:
        client.register("stop-1", pool="stop")
        client.stream()
        assert kubelet.get("/prestop").status_code == 401
        refused = kubelet.get("/prestop", headers={"Authorization": "Bearer no"})
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        assert (refused.headers["www-authenticate"], "DRAIN_TOKEN" in refused.json()["detail"]) == ("Bearer", True)
        good = {"Authorization": "Bearer two"}
        assert kubelet.get("/v1/drain", headers=good).status_code == 404
        assert kubelet.post("/prestop", headers=good).status_code == 404
        assert not client("GET", "/v1/drain").json()["draining"]
        answer = kubelet.get("/prestop", headers=good)
        assert (answer.status_code, answer.json()["done"]) == (200, True)


def address_of_this_machine() -> str:
    """Another than loopback; the test is skipped where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def test_from_elsewhere_a_token_is_needed(server: RedisServer) -> None:
    """On an address that is not loopback: 401 without a valid token, health and metrics excepted."""
    flags = ("--api-token", "one", "--drain-port", "0", "--http-host", "0.0.0.0")
    with (
        contextlib.closing(Sidecar(server, *flags)) as open_to_all,
        httpx.Client(base_url=f"http://{address_of_this_machine()}:{open_to_all.http_port}", timeout=10) as stranger,
    ):
        assert stranger.get("/healthz").status_code == 200
        assert stranger.get("/metrics").status_code == 200
        assert [stranger.get(path).status_code for path in ("/v1/drain", "/", "/openapi.json")] == [401, 401, 401]
        assert stranger.get("/v1/drain", headers={"Authorization": "Bearer one"}).status_code == 200
        assert stranger.get("/v1/drain", headers={"Authorization": "Basic one"}).status_code == 401


def test_without_a_token_only_health_is_seen_from_elsewhere(server: RedisServer) -> None:
    """Health and metrics answer on all addresses; the calls answer loopback only, whatever token is shown."""
    with contextlib.closing(
        Sidecar(server, "--drain-token", "of-the-hook", "--drain-port", "0", "--http-host", "0.0.0.0")
    ) as open_to_all:
        with httpx.Client(
            base_url=f"http://{address_of_this_machine()}:{open_to_all.http_port}", timeout=10
        ) as stranger:
            assert [stranger.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
            for token in ("none", "of-the-hook"):
                shown = {"Authorization": f"Bearer {token}"}
                assert stranger.get("/v1/drain", headers=shown).status_code == 401
        with httpx.Client(base_url=f"http://127.0.0.1:{open_to_all.http_port}", timeout=10) as neighbour:
            assert neighbour.get("/openapi.json").status_code == 200
            assert neighbour.get("/v1/drain").status_code == 401
        with httpx.Client(base_url=f"http://127.0.0.1:{open_to_all.drain_port}", timeout=10) as kubelet:
            assert kubelet.get("/prestop", headers={"Authorization": "Bearer of-the-hook"}).status_code == 200


def test_its_own_labels_are_its_workers_too(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the sidecar's labels, such as the pod's uid, beside its own, which win."""
    monkeypatch.setenv("COORDINATOR_LABELS", "pod_uid=the-uid,zone=a")
    with contextlib.closing(Sidecar(server)) as labelled, contextlib.closing(Client(labelled.path)) as client:
        client.register("labelled-1", labels={"zone": "b"})
        client.stream().wait_for("hello")
        [row] = [row for row in instances(server) if row["name"] == "labelled-1"]
        assert row["labels"] == {"pod_uid": "the-uid", "zone": "b"}


def instances(server: RedisServer) -> list[Any]:
    """What the command says."""
    command = [sys.executable, "-m", "coordinator", "instances", "--json", "--redis-url", server.url]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    return list(found["instances"] if isinstance(found, dict) else found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--http-socket", "/no/such/folder/s.sock"), "http_socket: /no/such/folder/s.sock cannot be taken"),
        (("--http-socket", __file__), "exists and is not a socket"),
    ],
)
def test_wrong_settings(server: RedisServer, flags: tuple[str, ...], message: str) -> None:
    """Exit status 2 and one line."""
    command = [sys.executable, "-m", "coordinator", "sidecar", "--redis-url", server.url, "--http-port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


def test_a_socket_in_use_is_not_taken(sidecar: Sidecar, server: RedisServer) -> None:
    """Another sidecar listens there: exit status 2; one that is gone left its socket: it is replaced (see the restarts)."""
    command = [
        sys.executable, "-m", "coordinator", "sidecar", "--redis-url", server.url, "--http-port", "0", "--http-socket", sidecar.path,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"another program listens on {sidecar.path}" in done.stderr


def test_an_unreachable_store_is_said(server: RedisServer) -> None:
    """503 with Retry-After while the store stands still; readyz and one line of the log tell; nothing is lost when it goes on."""
    own = RedisServer()
    sidecar = Sidecar(own)
    client = Client(sidecar.path)
    try:
        client.register("away-1")
        stream = client.stream()
        epoch = client.open("away", {"n": 1})
        own.pause()
        answer = client("PUT", "/v1/sessions/away/checkpoint", {"recovery_data": {"n": 2}}, If_Match=f'"{epoch}"')
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        wait_until(lambda: client("GET", "/readyz").status_code == 503)
        doubt, *_ = stream.wait_for("in_doubt")
        assert (doubt["sessions"], doubt["may_speak"]) == (["away"], True)
        own.resume()
        wait_until(lambda: b'"store_available"' in sidecar.log.read_bytes())
        assert sidecar.log.read_bytes().count(b'"store_unavailable"') == 1
        stream.wait_for("held", 2)
        good = client("PUT", "/v1/sessions/away/checkpoint", {"recovery_data": {"n": 3}}, If_Match=f'"{epoch}"')
        assert good.status_code == 204
        found: Any = own.client().hget(KEYS.session("away"), "data")
        assert found == b'{"n":3}'
    finally:
        client.close()
        sidecar.close()
        own.close()


def test_whether_it_may_speak_is_told_when_it_changes() -> None:
    """In doubt by the store alone it may; once its sidecar itself stood still it is told that it may not."""
    own = RedisServer()
    sidecar = Sidecar(own)
    client = Client(sidecar.path)
    try:
        client.register("doubt-1")
        stream = client.stream()
        client.open("doubt", {})
        own.pause()
        [first] = stream.wait_for("in_doubt")
        sidecar.process.send(signal.SIGSTOP)
        threading.Event().wait(1.5)  # longer than a process may stand still and not know it
        sidecar.process.send(signal.SIGCONT)
        [first, second] = stream.wait_for("in_doubt", 2)
        assert (first["may_speak"], second["may_speak"]) == (True, False)
    finally:
        client.close()
        sidecar.close()
        own.close()


def test_a_numbered_checkpoint_without_an_answer_is_written_when_it_comes_again() -> None:
    """503 while the store stands still; the same number again: 204, and then the store has the data."""
    own = RedisServer()
    sidecar = Sidecar(own)
    client = Client(sidecar.path)
    try:
        client.register("twice-1")
        stream = client.stream()
        epoch = client.open("twice", {"n": 1})
        checkpoint = {"recovery_data": {"n": 2}, "sequence": 7}
        path, key = "/v1/sessions/twice/checkpoint", KEYS.session("twice")
        own.pause()
        assert client("PUT", path, checkpoint, If_Match=f'"{epoch}"').status_code == 503
        own.resume()
        stream.wait_for("held", 2)
        own.client().hset(key, mapping={"data": '{"n":1}', "checkpoint": "0"})  # as if it had never come
        assert client("PUT", path, checkpoint, If_Match=f'"{epoch}"').status_code == 204
        found: Any = own.client().hmget(key, "data", "checkpoint")
        assert found == [b'{"n":2}', b"7"]
    finally:
        client.close()
        sidecar.close()
        own.close()
