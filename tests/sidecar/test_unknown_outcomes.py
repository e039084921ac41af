"""Operations of the HTTP API x faults: what the sidecar says that a worker owns is what the store says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from coordinator.store.keys import Keys
from coordinator.store.scripts import SCRIPTS
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.store.harness import Bench
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
OTHER = "other~1"


class Behind:
    """A sidecar whose way to the store can lose requests and answers, a worker of its own, and another owner of calls."""

    def __init__(self, server: RedisServer) -> None:
        self.redis: Any = server.client()
        self.proxy = Proxy(server.path)
        self.sidecar = Sidecar(server, "--redis-url", self.proxy.url)
        self.client, self.bench = Client(self.sidecar.path), Bench(self.redis)
        self.client.register("here")
        self.stream = self.client.stream()
        self.bench.join(OTHER, dead_after_ms=600_000)

    def record(self, call: str) -> dict[str, str]:
        return {k.decode(): v.decode("latin-1") for k, v in self.redis.hgetall(KEYS.session(call)).items()}

    def owned(self) -> dict[str, int]:
        """What the sidecar says that its worker owns, and under which epochs."""
        found = self.client("GET", f"/v1/workers/{self.client.instance}/sessions").json()["sessions"]
        return {one["session"]: one["epoch"] for one in found}

    def wrong(self, call: str) -> str:
        """In what the sidecar and the store differ; '' when they agree."""
        record, owned = self.record(call), self.owned()
        instance = self.redis.hget(KEYS.names, "here").decode()
        mine = record.get("owner") == instance and record.get("state") in ("active", "handing_over")
        if mine and owned.get(call) != int(record["epoch"]):
            return f"{call} is the worker's under {record['epoch']}, the sidecar says {owned.get(call)}"
        if not mine and call in owned:
            return f"{call} is {record.get('state')} of {record.get('owner')!r}, the sidecar says that it owns it"
        return ""

    def close(self) -> None:
        self.client.close()
        self.sidecar.close()
        self.proxy.close()
        self.redis.close()


@pytest.fixture(scope="module")
def behind(server: RedisServer) -> Iterator[Behind]:
    """One for all tests of this file."""
    made = Behind(server)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_stays_offered(behind: Behind) -> Iterator[None]:
    """Afterwards the worker takes and ends what is offered still: of offers that it does not answer it gets four."""
    yield

    def is_answered() -> bool:
        left = [call.decode() for call in behind.redis.zrange(KEYS.orphans, 0, -1)]
        for call in left:
            answer = behind.client("POST", f"/v1/sessions/{call}/adopt", {})
            if answer.status_code == 200:
                behind.client("DELETE", f"/v1/sessions/{call}", If_Match=f'"{answer.json()["epoch"]}"')
        return not left

    wait_until(is_answered, 20)


Prepare = Callable[[Behind, str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row: the request, the script that it sends, and how the call comes into the state that it needs (with headers)."""

    method: str
    path: str
    script: str
    prepare: Prepare
    body: Any = None


def nothing(b: Behind, call: str) -> dict[str, str]:
    return {}


def opened(b: Behind, call: str) -> dict[str, str]:
    return {"If-Match": f'"{b.client.open(call, {"n": 0})}"'}


def on_offer(b: Behind, call: str) -> dict[str, str]:
    epoch = b.bench.open(call, OTHER, b"{}").int("epoch")
    b.bench.release(call, OTHER, epoch)
    return {}


def offered(b: Behind, call: str) -> dict[str, str]:
    on_offer(b, call)
    wait_until(lambda: call in [told["session"] for told in b.stream.told("offer")])
    return {}


OPERATIONS = {
    "open": Operation("PUT", "", "open", nothing, {"recovery_data": {"n": 0}}),
    "checkpoint": Operation("PUT", "/checkpoint", "checkpoint", opened, {"recovery_data": {"n": 1}}),
    "close": Operation("DELETE", "", "close", opened),
    "release": Operation("POST", "/release", "release", opened, {"reason": "no codec"}),
    "resumed": Operation("POST", "/resumed", "resumed", opened),
    "adopt": Operation("POST", "/adopt", "adopt", on_offer),
    "adopt an offer": Operation("POST", "/adopt", "adopt", offered),
    "decline": Operation("POST", "/decline", "decline", offered, {"reason": "no codec"}),
    "delegate": Operation("POST", "/delegate", "delegate", offered),
}
ELSEWHERE = {
    "POST /v1/workers": "tests/sidecar/test_ending.py, test_restart.py: registered once, its answer lost",
    "POST /v1/watched": "tests/sidecar/test_watched.py: only watches",
    "POST /v1/watched/line": "tests/sidecar/test_line.py: only watches",
    "POST /v1/drain": "tests/sidecar/test_ending.py; its sessions as tests/outcomes",
    "POST /v1/certificates": "written once: a second call says so",
    "POST /v1/workers/{instance}/alive": "changes nothing in the store",
    "POST /v1/sessions/{id}/let-go": "stages, and lets a handover go on: tests/outcomes",
}
"""Operations without a row here."""


def ask(b: Behind, operation: Operation, call: str, headers: dict[str, str]) -> httpx.Response:
    return b.client(operation.method, f"/v1/sessions/{call}{operation.path}", operation.body, **headers)


def agree(b: Behind, call: str) -> None:
    """The sidecar and the store say the same, and go on doing so."""
    said: list[str] = []

    def agrees() -> bool:
        said[:] = [b.wrong(call)]
        return not said[0]

    try:
        wait_until(agrees, 20)
    except AssertionError:
        raise AssertionError(said[0]) from None


@pytest.mark.parametrize("fault", ["lost", "unanswered"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_request_of_which_the_store_says_nothing(behind: Behind, name: str, fault: str) -> None:
    """The worker gets 503, applied or not: afterwards both sides agree, and the same request has the answer of the first."""
    operation, call = OPERATIONS[name], f"{name}-{fault}".replace(" ", "-")
    headers = operation.prepare(behind, call)
    lose = behind.proxy.lose if fault == "lost" else behind.proxy.lose_reply_to
    lose(SCRIPTS[operation.script].sha.encode(), then_cut=True)
    try:
        answer = ask(behind, operation, call, headers)
    finally:
        behind.proxy.mend()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    agree(behind, call)
    if name == "close":
        wait_until(lambda: behind.record(call)["state"] == "closed", 20)
    if name == "release":
        wait_until(lambda: behind.record(call)["state"] == "offered", 20)
    if name == "checkpoint":
        assert ask(behind, operation, call, {"If-Match": f'"{behind.owned()[call]}"'}).status_code == 204
        assert json.loads(behind.record(call)["data"]) == {"n": 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_worker_that_hangs_up(behind: Behind, name: str) -> None:
    """Its request is sent and its connection closed: both sides agree on what became of it."""
    operation, call = OPERATIONS[name], f"{name}-gone".replace(" ", "-")
    headers = operation.prepare(behind, call) | {"Worker-Token": behind.client.token, "Host": "x"}
    body = json.dumps(operation.body) if operation.body else ""
    headers |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(behind.sidecar.path)
        link.sendall(f"{operation.method} /v1/sessions/{call}{operation.path} HTTP/1.1\r\n{text}\r\n{body}".encode())
    agree(behind, call)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_request_twice_at_once(behind: Behind, name: str) -> None:
    """From two connections at the same moment: one outcome, and nothing is `lost`."""
    operation, call = OPERATIONS[name], f"{name}-twice".replace(" ", "-")
    headers = operation.prepare(behind, call)
    answers: list[int] = []

    def one() -> None:
        with contextlib.closing(Client(behind.sidecar.path)) as client:
            client.token = behind.client.token
            path = f"/v1/sessions/{call}{operation.path}"
            answers.append(client(operation.method, path, operation.body, **headers).status_code)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(status < 300 for status in answers), answers
    assert not any(status >= 500 for status in answers), answers
    agree(behind, call)


def test_no_operation_is_left_out(behind: Behind) -> None:
    """Each request that changes something has a row, or a reason why it has none."""
    paths = behind.client("GET", "/openapi.json").json()["paths"]
    changing = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method not in ("get", "parameters")
    }
    rows = {f"{row.method} /v1/sessions/{{id}}{row.path}" for row in OPERATIONS.values()}
    assert changing == rows | set(ELSEWHERE)
