"""The sidecar's interface over HTTP."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
Make = Callable[..., Client]
NUMBERS = itertools.count(1)


def stored(server: RedisServer, session: str) -> dict[str, str]:
    """The record of a session."""
    raw: Any = server.client().hgetall(KEYS.session(session))
    return {k.decode(): v.decode("utf-8", "replace") for k, v in raw.items()}


def test_a_worker_registers(worker: Make, server: RedisServer) -> None:
    """201 with its id, its token and the times it must keep; the store knows what it said of itself."""
    client = worker()
    answer = client.register("reg-1", pool="gold", capacity=7, labels={"zone": "a"}, address="10.0.0.1:5060")
    body = answer.json()
    assert answer.headers["location"] == f"/v1/workers/{body['instance']}"
    assert body["instance"].startswith("reg-1~")
    assert (body["heartbeat_ms"], body["answer_within_ms"], body["grace_ms"]) == (250, 5000, 750)
    found: Any = server.client().hgetall(KEYS.instance(body["instance"]))
    told = {name: found[name.encode()].decode() for name in ("pool", "capacity", "labels", "address", "state")}
    assert told == {
        "pool": "gold",
        "capacity": "7",
        "labels": '{"zone": "a"}',
        "address": "10.0.0.1:5060",
        "state": "alive",
    }
    assert body["worker_token"].encode() not in b"".join(found.values())


def test_a_session_from_open_to_close(worker: Make, server: RedisServer) -> None:
    """Opened, opened again, checkpointed, resumed, closed: each with the right status and the record to show for it."""
    client = worker("life-1")
    opened = client("PUT", "/v1/sessions/life", {"recovery_data": {"n": 1}, "tenant": "t", "requires": ["zone=a"]})
    assert opened.status_code == 201
    epoch = opened.headers["etag"]
    assert epoch == f'"{opened.json()["epoch"]}"'
    assert client("PUT", "/v1/sessions/life", {"recovery_data": {"n": 9}}).status_code == 200
    assert client("PUT", "/v1/sessions/life/checkpoint", {"recovery_data": {"n": 2}}, If_Match=epoch).status_code == 204
    assert client("POST", "/v1/sessions/life/resumed", If_Match=epoch).status_code == 204
    record = client("GET", "/v1/sessions/life").json()
    assert record["recovery_data"] == {"n": 2}
    assert (record["state"], record["owner"], record["tenant"], record["requires"]) == (
        "active", client.instance, "t", ["zone=a"],
    )  # fmt: skip
    assert client("GET", "/v1/sessions/life/owner").json()["instance"] == client.instance
    assert [s["session"] for s in client("GET", f"/v1/workers/{client.instance}/sessions").json()["sessions"]] == [
        "life"
    ]
    assert client("DELETE", "/v1/sessions/life", If_Match=epoch).status_code == 204
    assert stored(server, "life")["state"] == "closed"
    gone = client("GET", "/v1/sessions/life/owner")
    assert (gone.status_code, gone.json()["state"]) == (410, "closed")


def test_bytes_travel_as_they_are(worker: Make, server: RedisServer) -> None:
    """Recovery data in base64 is stored and given back byte for byte."""
    client, data = worker("bytes-1"), bytes(range(256))
    text = base64.b64encode(data).decode()
    assert client("PUT", "/v1/sessions/bytes", {"recovery_data_base64": text}).status_code == 201
    assert server.client().hget(KEYS.session("bytes"), "data") == data
    assert client("GET", "/v1/sessions/bytes").json()["recovery_data_base64"] == text


def test_ids_with_slashes(worker: Make, server: RedisServer) -> None:
    """An encoded slash is part of an id, an encoded per cent sign too."""
    client = worker("slash-1")
    assert client("PUT", "/v1/sessions/sip%2Fa%25b%40host", {}).status_code == 201
    assert stored(server, "sip/a%b@host")["state"] == "active"
    assert client("PUT", "/v1/sessions/a/b", {}).status_code == 404


def test_epochs_are_checked_everywhere(worker: Make) -> None:
    """No If-Match where it is needed: 428. A wrong one: 412. Somebody else's session: 412."""
    client, other = worker("epoch-1"), worker("epoch-2")
    epoch = client.open("epochs", {})
    assert client("PUT", "/v1/sessions/epochs/checkpoint", {"recovery_data": {}}).status_code == 428
    assert client("DELETE", "/v1/sessions/epochs").status_code == 428
    for method, path, body in (
        ("PUT", "checkpoint", {"recovery_data": {}}), ("POST", "release", {}), ("POST", "resumed", None), ("POST", "let-go", {}),
    ):  # fmt: skip
        assert client(method, f"/v1/sessions/epochs/{path}", body, If_Match='"1"').status_code == 412, path
        assert other(method, f"/v1/sessions/epochs/{path}", body, If_Match=f'"{epoch}"').status_code == 412, path
    assert client("DELETE", "/v1/sessions/epochs", If_Match='"1"').status_code == 412
    assert client("DELETE", "/v1/sessions/epochs", If_Match="soon").status_code == 400


def test_an_older_checkpoint_changes_nothing(worker: Make, server: RedisServer) -> None:
    """Numbered checkpoints: the same one again is 204, an older one 409 and not written."""
    client = worker("seq-1")
    epoch = f'"{client.open("seq", {})}"'
    path = "/v1/sessions/seq/checkpoint"
    assert client("PUT", path, {"recovery_data": {"n": 5}, "sequence": 5}, If_Match=epoch).status_code == 204
    assert client("PUT", path, {"recovery_data": {"n": 5}, "sequence": 5}, If_Match=epoch).status_code == 204
    late = client("PUT", path, {"recovery_data": {"n": 4}, "sequence": 4}, If_Match=epoch)
    assert (late.status_code, late.json()["sequence"]) == (409, 5)
    assert stored(server, "seq")["data"] == '{"n":5}'


def test_a_session_of_another_is_not_opened(worker: Make) -> None:
    """409, with whose it is."""
    client, other = worker("held-1"), worker("held-2")
    client.open("held", {})
    answer = other("PUT", "/v1/sessions/held", {})
    assert (answer.status_code, answer.json()["owner"]) == (409, client.instance)


def test_a_released_session_is_offered_and_adopted(worker: Make) -> None:
    """By the stream and by polls: the offer carries the data, adopting gives it, and the second gets 409."""
    giver, taker, poller = worker("give-1"), worker("take-1", pool="swap"), worker("poll-1", pool="swap2")
    giver("PUT", "/v1/sessions/swap", {"recovery_data": {"n": 1}, "pool": "swap"})
    giver("PUT", "/v1/sessions/swap2", {"recovery_data": {"n": 2}, "pool": "swap2"})
    stream = taker.stream()
    assert giver("POST", "/v1/sessions/swap/release", {"reason": "no codec"}).status_code == 204
    assert giver("POST", "/v1/sessions/swap2/release").status_code == 204
    [offer] = stream.wait_for("offer")
    assert (offer["session"], offer["recovery_data"], offer["cause"]) == ("swap", {"n": 1}, "released")
    adopted = taker("POST", "/v1/sessions/swap/adopt")
    assert adopted.status_code == 200
    assert adopted.json()["recovery_data"] == {"n": 1}
    assert adopted.json()["recovered"]
    refused = giver("POST", "/v1/sessions/swap/adopt")
    assert (refused.status_code, refused.json()["owner"]) == (409, taker.instance)
    [polled] = poller("GET", "/v1/offers?wait=10s&max=5").json()["offers"]
    assert polled["session"] == "swap2"
    assert poller("POST", "/v1/sessions/swap2/decline", {"reason": "not now"}).status_code == 204
    assert poller("POST", "/v1/sessions/swap2/decline").status_code == 404


def test_the_stream_as_server_sent_events(worker: Make) -> None:
    """Asked for text/event-stream: the same documents, each after its kind and before an empty line."""
    client, giver = worker("sse-1", pool="sse"), worker("sse-2")
    headers = {"Worker-Token": client.token, "Accept": "text/event-stream"}
    giver("PUT", "/v1/sessions/sse", {"recovery_data": {"n": "one\ntwo"}, "pool": "sse"})
    giver("POST", "/v1/sessions/sse/release")
    seen: list[dict[str, Any]] = []
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=client.path), base_url="http://sidecar", timeout=60) as link,
        link.stream("GET", f"/v1/workers/{client.instance}/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.iter_lines()
        while not {"hello", "held", "offer", "ping"} <= {event["event"] for event in seen}:
            kind, data, end = next(lines), next(lines), next(lines)
            assert (kind[:7], data[:6], end) == ("event: ", "data: ", "")
            seen.append(json.loads(data[6:]))
            assert seen[-1]["event"] == kind[7:]
    assert seen[0]["event"] == "hello"
    [offer] = [event for event in seen if event["event"] == "offer"]
    assert (offer["session"], offer["recovery_data"]) == ("sse", {"n": "one\ntwo"})


def test_an_offer_is_left_to_whoever_asks_by_id(worker: Make, server: RedisServer) -> None:
    """Delegated: it is nobody's offer any more, and the worker to which its caller comes back adopts it by its id."""
    giver, taker, door = worker("dele-1"), worker("dele-2", pool="dele"), worker("dele-3", pool="dele")
    giver("PUT", "/v1/sessions/dele", {"recovery_data": {"n": 1}, "pool": "dele"})
    stream = taker.stream()
    assert taker("POST", "/v1/sessions/dele/delegate").status_code == 404
    giver("POST", "/v1/sessions/dele/release")
    stream.wait_for("offer")
    assert taker("POST", "/v1/sessions/dele/delegate").status_code == 204
    assert stored(server, "dele")["state"] == "offered"
    assert taker("POST", "/v1/sessions/dele/delegate").status_code == 404
    assert taker("POST", "/v1/sessions/dele/decline").status_code == 404
    adopted = door("POST", "/v1/sessions/dele/adopt")
    assert (adopted.status_code, adopted.json()["recovery_data"]) == (200, {"n": 1})
    assert stored(server, "dele")["owner"] == door.instance


def test_a_call_that_comes_back_elsewhere_is_asked_for(worker: Make) -> None:
    """Adopting by id with a wait asks the living owner to hand over; it is told that it lost the call, and to whom."""
    owner, door = worker("back-1"), worker("back-2")
    stream = owner.stream()
    owner.open("back", {"n": 1})
    answer = door("POST", "/v1/sessions/back/adopt?wait=5s")
    assert answer.status_code == 200
    assert answer.json()["planned"]
    [lost] = stream.wait_for("lost")
    assert (lost["session"], lost["heir"]) == ("back", door.instance)


def test_a_call_that_nobody_waits_for_stays_where_it_is(worker: Make) -> None:
    """Adopting by id without a wait, as after an offer that another took: 409, and its living owner is not disturbed."""
    owner, late = worker("stays-1"), worker("stays-2")
    stream = owner.stream()
    owner.open("stays", {"n": 1})
    refused = late("POST", "/v1/sessions/stays/adopt")
    assert (refused.status_code, refused.json()["owner"]) == (409, owner.instance)
    stream.wait_for("ping", len(stream.told("ping")) + 3)
    assert stream.told("lost") == []
    assert owner("GET", "/v1/sessions/stays").json()["state"] == "active"


def test_an_owner_that_lets_go_itself_is_asked_once(worker: Make) -> None:
    """Its heir asks again and again while it waits; the owner is told once, and may take its time."""
    owner, door = worker("once-1", lets_go=True), worker("once-2")
    stream = owner.stream()
    stream.wait_for("ping")
    owner.open("once", {"n": 1})
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(door("POST", "/v1/sessions/once/adopt?wait=5s")))
    thread.start()
    stream.wait_for("letting_go")
    stream.wait_for("ping", len(stream.told("ping")) + 2)
    assert len(stream.told("letting_go")) == 1
    assert owner("POST", "/v1/sessions/once/let-go").status_code == 204
    thread.join()
    assert got[0].status_code == 200


def test_an_owner_that_lets_go_itself_is_asked_first(worker: Make) -> None:
    """Its heir has nothing before it said so, and gets the data that it said last."""
    owner, door = worker("lets-1", lets_go=True), worker("lets-2")
    stream = owner.stream()
    epoch = owner.open("lets", {"n": 1})
    early = owner("POST", "/v1/sessions/lets/let-go")
    assert early.status_code == 409
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(door("POST", "/v1/sessions/lets/adopt?wait=5s")))
    thread.start()
    [asked] = stream.wait_for("letting_go")
    assert (asked["session"], asked["epoch"], asked["heir"]) == ("lets", epoch, door.instance)
    assert owner("GET", "/v1/sessions/lets/owner").json()["instance"] == owner.instance
    assert owner("POST", "/v1/sessions/lets/let-go", {"recovery_data": {"n": 2}}).status_code == 204
    thread.join()
    assert got[0].status_code == 200
    assert got[0].json()["recovery_data"] == {"n": 2}


def test_what_is_not_to_be_had(worker: Make) -> None:
    """Unknown: 404. Closed: 410. Nonsense in the path: 422."""
    client = worker("gone-1")
    epoch = client.open("gone", {})
    client("DELETE", "/v1/sessions/gone", If_Match=f'"{epoch}"')
    assert client("POST", "/v1/sessions/gone/adopt").status_code == 410
    assert client("POST", "/v1/sessions/never/adopt").status_code == 404
    assert client("GET", "/v1/sessions/never").status_code == 404
    assert client("GET", "/v1/sessions/two%20words").status_code == 422
    assert client("GET", "/v1/sessions/%ff").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/workers", {"name": "two words"}, 422),
        ("POST", "/v1/workers", {"nam": "x"}, 422),
        ("POST", "/v1/workers", {"name": "x", "capacity": "7"}, 422),
        ("POST", "/v1/workers", {"name": "x", "pid": 4_000_000}, 422),
        ("POST", "/v1/workers", {"name": "x", "health": {"url": "http://example.org/"}}, 422),
        ("POST", "/v1/workers", {"name": "x", "health": {"url": "http://localhost:99999/"}}, 422),
        ("POST", "/v1/workers", [], 422),
        ("PUT", "/v1/sessions/bad", {"recovery_data": {}, "recovery_data_base64": ""}, 422),
        ("PUT", "/v1/sessions/bad", {"recovery_data_base64": "a"}, 422),
        ("PUT", "/v1/sessions/bad", {"recovery_data": {"x": "y" * 70_000}}, 413),
        ("PUT", "/v1/sessions/bad", {"recovery_data": {"x": "y" * 200_000}}, 413),
        ("GET", "/v1/offers?wait=soon", None, 400),
        ("GET", "/v1/offers?max=1000", None, 400),
        ("GET", "/v1/offers?max=1&max=2", None, 400),
        ("PATCH", "/v1/drain", None, 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/certificates", {"instance": "x~1"}, 401),
    ],
)
def test_bad_input_is_answered_with_one_sentence(worker: Make, method: str, path: str, body: Any, status: int) -> None:
    """As problem+json with the right status; nothing is made."""
    client = worker(f"bad-{next(NUMBERS)}") if "sessions" in path or "offers" in path else worker()
    answer = client(method, path, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["detail"]
    assert "\n" not in document["detail"]


def test_which_worker_asks_must_be_clear(worker: Make) -> None:
    """With several workers and no token, or a wrong one: 401."""
    first = worker("which-1")
    worker("which-2")
    nobody = worker()
    assert nobody("PUT", "/v1/sessions/whose", {}).status_code == 401
    assert nobody("PUT", "/v1/sessions/whose", {}, Worker_Token="wrong").status_code == 401
    assert nobody("PUT", "/v1/sessions/whose", {}, Authorization="Bearer wrong").status_code == 401
    mine = {"Authorization": f"Bearer {first.token}"}
    assert nobody("PUT", "/v1/sessions/whose", {}, **mine).status_code == 201


def test_a_name_is_taken_once(worker: Make) -> None:
    """409 while another live worker has it."""
    worker("twin-1").stream()
    assert worker().register("twin-1").status_code == 409


def test_a_request_that_is_sent_again_gets_the_first_answer(worker: Make, server: RedisServer) -> None:
    """The same Idempotency-Key: the same answer, and nothing is done twice; with another body it is refused."""
    client = worker("again-1")
    epoch = f'"{client.open("again", {})}"'
    path = "/v1/sessions/again"
    first = client("DELETE", path, If_Match=epoch, Idempotency_Key="k1")
    second = client("DELETE", path, If_Match=epoch, Idempotency_Key="k1")
    assert (first.status_code, second.status_code) == (204, 204)
    assert client("DELETE", path, If_Match=epoch).status_code == 412
    nobody = worker()
    one = nobody("POST", "/v1/workers", {"name": "again-2"}, Idempotency_Key="k2").json()
    two = nobody("POST", "/v1/workers", {"name": "again-2"}, Idempotency_Key="k2").json()
    assert one == two
    assert nobody("POST", "/v1/workers", {"name": "again-3"}, Idempotency_Key="k2").status_code == 422


def test_a_certificate_needs_a_token(worker: Make, server: RedisServer) -> None:
    """Both of two valid tokens work; a worker's or none does not; the instance is dead at once, what it owned is offered."""
    client, other = worker("cert-1"), worker("cert-2")
    client.open("cert", {})
    body = {"instance": client.instance, "reason": "node lost"}
    assert other("POST", "/v1/certificates", body).status_code == 403
    assert other("POST", "/v1/certificates", body, Authorization="Bearer three").status_code == 401
    answer = other("POST", "/v1/certificates", body, Authorization="Bearer two")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "certified")
    again = other("POST", "/v1/certificates", body, Authorization="Bearer one")
    assert again.json()["outcome"] == "already_dead"
    assert other("POST", "/v1/certificates", {"instance": "never~1"}, Authorization="Bearer one").status_code == 404
    wait_until(lambda: stored(server, "cert")["state"] == "offered")


def test_the_document_describes_what_is_served(worker: Make, sidecar: Sidecar) -> None:
    """Every path of section 8 is in the OpenAPI document, with its methods."""
    paths = worker()("GET", "/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    session = "/v1/sessions/{id}"
    assert served >= {
        "POST /v1/workers", "GET /v1/workers/{instance}/events", "POST /v1/workers/{instance}/alive",
        "GET /v1/workers/{instance}/sessions", f"PUT {session}", f"PUT {session}/checkpoint", f"GET {session}",
        f"GET {session}/owner", f"DELETE {session}", f"POST {session}/release", f"POST {session}/resumed", "GET /v1/offers",
        f"POST {session}/adopt", f"POST {session}/decline", "POST /v1/drain", "GET /v1/drain", "POST /v1/certificates",
    }  # fmt: skip
    stream = paths["/v1/workers/{instance}/events"]["get"]["responses"]["200"]
    assert set(stream["content"]) == {"application/x-ndjson", "text/event-stream"}


def test_it_comes_up_while_the_store_is_away() -> None:
    """It is healthy and not ready, refuses with 503 what it cannot do, and serves when the store is back."""
    own = RedisServer()
    own.pause()
    try:
        early = Sidecar(own, ready=False)
        with contextlib.closing(early), contextlib.closing(Client(early.path)) as client:
            assert [client("GET", path).status_code for path in ("/healthz", "/readyz")] == [200, 503]
            answer = client.register("early", pid=os.getpid())
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            assert client("GET", "/healthz").status_code == 200
            own.resume()
            wait_until(lambda: client.register("early", pid=os.getpid()).status_code == 201, 20)
            wait_until(lambda: client("GET", "/readyz").status_code == 200)
    finally:
        own.close()
