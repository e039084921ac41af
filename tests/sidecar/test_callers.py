"""Who may call what: every operation x every door x whatever is shown."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.settings import load
from coordinator.sidecar.access import SidecarAccess
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.hosting import addresses_of
from coordinator.sidecar.routing import Operation, Table
from coordinator.sidecar.server import PEER_UID
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.sidecar.test_ending import address_of_this_machine
from tests.waiting import wait_until

CALLERS = {
    "register": {"anyone"},
    "watch": {"process"},
    "hold_line": {"process"},
    "events": {"worker"},
    "alive": {"worker"},
    "sessions": {"worker", "administrator"},
    "open": {"worker"},
    "record": {"owner", "administrator"},
    "close": {"owner"},
    "owner": {"worker", "administrator"},
    "checkpoint": {"owner"},
    "release": {"owner"},
    "resumed": {"owner"},
    "let_go": {"owner"},
    "offers": {"worker"},
    "adopt": {"worker"},
    "decline": {"worker"},
    "delegate": {"worker"},
    "drain": {"administrator"},
    "drain_progress": {"administrator"},
    "certify": {"token_holder"},
}
"""Who may call each operation: a new one needs a row here, too."""
SCHEMES: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [{}],
    "process": [{"workerToken": []}],
    "worker": [{"workerToken": []}, {"workerBearer": []}],
    "owner": [{"workerToken": []}, {"workerBearer": []}],
    "administrator": [{"apiToken": []}],
    "token_holder": [{"apiToken": []}],
}
API, WRONG = "canary-of-the-api", "canary-of-nobody"
REFUSED = (401, 403)
TOO_LONG = "x" * 2100
"""A query that is refused with 400 right behind the gate: nothing is done by whoever is let in."""
OTHER_UID = 12345


@dataclass(frozen=True)
class Place:
    """A sidecar on all addresses, its document, and two workers of it."""

    sidecar: Sidecar
    document: dict[str, Any]
    own: Client
    other: Client

    def shown(self, what: str) -> dict[str, str]:
        """The headers of a credential."""
        tokens = {"own": self.own.token, "other": self.other.token, "wrong": WRONG, "api": API}
        found = {}
        for one in filter(None, what.split("+")):
            name, _, as_bearer = one.partition(" ")
            bearer = bool(as_bearer) or name == "api"
            found["Authorization" if bearer else "Worker-Token"] = ("Bearer " if bearer else "") + tokens[name]
        return found

    @property
    def operations(self) -> Iterator[tuple[str, str, str]]:
        """Name, method and path of each that is served."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                full = path.replace("{instance}", self.own.instance).replace("{id}", "the-call")
                yield operation["operationId"], method.upper(), f"{full}?{TOO_LONG}"


@pytest.fixture(scope="module")
def place(server: RedisServer) -> Iterator[Place]:
    """One for all tests of this file."""
    with contextlib.ExitStack() as stack:
        sidecar = stack.enter_context(
            contextlib.closing(
                Sidecar(server, "--http-host", "0.0.0.0", "--api-token", f"{API},two", "--drain-port", "0")
            )
        )
        own, other = [stack.enter_context(contextlib.closing(Client(sidecar.path))) for _ in range(2)]
        for name, client in (("own", own), ("other", other)):
            assert client.register(name, pid=os.getpid()).status_code == 201
        own.open("the-call", {"n": 1})
        yield Place(sidecar, own("GET", "/openapi.json").json(), own, other)


SHOWN = (
    "", "wrong", "wrong bearer", "own", "own bearer", "other", "other bearer", "api", "own+api", "other+api", "wrong+api",
)  # fmt: skip
ELSEWHERE = ("127.0.0.6", "another address")
DOORS = ("127.0.0.1", "own user's socket", "other user's socket", *ELSEWHERE)


def expected(name: str, door: str, shown: str) -> int:
    """The status that comes of it, by the rules as the documents have them; 400 is behind the gate."""
    callers, named = CALLERS[name], name in ("events", "alive", "sessions")
    api = "api" in shown
    worker = shown.replace("+api", "").partition(" ")[0].replace("api", "")
    if door in ELSEWHERE and not api:
        return 401
    if "anyone" in callers:
        return 400
    if "process" in callers:
        if not worker or "bearer" in shown:
            return 401
        return 400 if "socket" in door else 403
    own_user = door == "own user's socket" and "administrator" in callers and "wrong" not in shown
    administrator = own_user or (api and bool({"administrator", "token_holder"} & callers))
    if not {"worker", "owner"} & callers:
        return 400 if administrator else 403 if worker in ("own", "other") else 401
    if worker == "wrong" or not worker:
        return 400 if administrator and not worker else 401
    return 403 if worker == "other" and named and not administrator else 400


def requests_of(place: Place) -> list[tuple[str, str, str, str]]:
    """Each operation with each credential: name, what is shown, method, path."""
    return [(name, shown, method, path) for name, method, path in place.operations for shown in SHOWN]


Answer = tuple[int, dict[str, str], str]


def check(place: Place, door: str, ask: Callable[[str, str, dict[str, str]], Answer]) -> None:
    """All of them by this door."""
    wrong = []
    for name, shown, method, path in requests_of(place):
        status, headers, text = ask(method, path, place.shown(shown))
        if status != expected(name, door, shown):
            wrong.append(f"{name} with {shown or 'nothing'}: {status}, not {expected(name, door, shown)}: {text}")
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(text)["detail"].count("\n") == 0
        assert ("www-authenticate" in headers) >= (status == 401)
        assert [secret for secret in (API, WRONG, place.own.token, place.other.token) if secret in text] == []
    assert wrong == []


def over(transport: httpx.HTTPTransport, base: str) -> Any:
    """A client that is asked as `check` asks, and its end."""
    client = httpx.Client(transport=transport, base_url=base, timeout=60)

    def ask(method: str, path: str, headers: dict[str, str]) -> Answer:
        answer = client.request(method, path, headers=headers)
        return answer.status_code, {n.lower(): v for n, v in answer.headers.items()}, answer.text

    return client, ask


def test_each_operation_says_who_may_call_it(place: Place) -> None:
    """The document has the callers of this file's table for each operation, and their security schemes."""
    served = {
        operation["operationId"]: operation
        for methods in place.document["paths"].values()
        for operation in methods.values()
    }
    assert {name: set(operation["x-callers"]) for name, operation in served.items()} == CALLERS
    for name, operation in served.items():
        schemes = [scheme for caller in operation["x-callers"] for scheme in SCHEMES[caller]]
        assert operation["security"] == schemes, name
        assert {n for scheme in schemes for n in scheme} <= set(place.document["components"]["securitySchemes"])


def test_an_operation_that_nobody_may_call_is_none() -> None:
    """Without callers it cannot be made, and with none it is not taken up into the table."""

    async def handler(_: Any) -> Any:
        """Does nothing."""

    with pytest.raises(TypeError, match="callers"):
        Operation("GET", "/v1/new", "new", "is new", handler=handler, answers={})  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="it has no callers"):
        Table().add(Operation("GET", "/v1/new", "new", "is new", Caller(0), handler, {}))


@pytest.mark.parametrize("door", ["127.0.0.1", *ELSEWHERE])
def test_over_tcp(place: Place, door: str) -> None:
    """From 127.0.0.1 as a local one; from another address of loopback or of the world only with an API token beside the rest."""
    to = address_of_this_machine() if door == "another address" else "127.0.0.1"
    source = door if door == "127.0.0.6" else None
    client, ask = over(httpx.HTTPTransport(local_address=source), f"http://{to}:{place.sidecar.http_port}")
    with client:
        check(place, door, ask)


def test_over_the_socket_of_its_own_user(place: Place) -> None:
    """The sidecar's own user administrates without a token, and is a worker only with that worker's."""
    client, ask = over(httpx.HTTPTransport(uds=place.sidecar.path), "http://sidecar")
    with client:
        check(place, "own user's socket", ask)


class OtherUser(http.client.HTTPConnection):
    """Connects to a unix socket as somebody who may do so by his group."""

    def __init__(self, path: str) -> None:
        super().__init__("sidecar", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        os.seteuid(OTHER_UID)
        try:
            self.sock.connect(self._path)
        finally:
            os.seteuid(0)

    def ask(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        self.request(method, path, headers=headers)
        answer = self.getresponse()
        return answer.status, {n.lower(): v for n, v in answer.headers.items()}, answer.read().decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_over_the_socket_of_another_user(place: Place) -> None:
    """Whoever may connect by his group, and is another user, administrates nothing."""
    Path(place.sidecar.path).parent.chmod(0o711)
    with contextlib.closing(OtherUser(place.sidecar.path)) as link:
        check(place, "other user's socket", link.ask)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_over_a_shared_socket(server: RedisServer) -> None:
    """Every user may connect, and none administrates because of its user, be it the sidecar's own."""
    sidecar = Sidecar(server, "--http-socket-shared", "true", "--api-token", API)
    with contextlib.closing(sidecar), contextlib.closing(Client(sidecar.path)) as own:
        Path(sidecar.path).parent.chmod(0o711)
        os.setegid(OTHER_UID)
        try:
            with contextlib.closing(OtherUser(sidecar.path)) as other:
                assert other.ask("GET", "/v1/drain", {})[0] == 401
        finally:
            os.setegid(0)
        assert own("GET", "/v1/drain").status_code == 401
        assert own("GET", "/v1/drain", Authorization=f"Bearer {API}").status_code == 200
        assert own.register("anyone", pid=os.getpid()).status_code == 201


def test_nothing_of_it_is_logged(place: Place) -> None:
    """After all that no token is in the log, be it right or wrong."""
    text = place.sidecar.log.read_text()
    assert [secret for secret in (API, WRONG, place.own.token, place.other.token) if secret in text] == []


def test_a_token_that_is_right_but_for_its_length_is_wrong(place: Place) -> None:
    """Neither a beginning of a token nor a token with more behind it is good."""
    with httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}") as client:
        for token in (API[:-1], API + "x", API.upper(), f"{API},two"):
            shown = {"Authorization": f"Bearer {token}"}
            assert client.get("/v1/drain", headers=shown).status_code == 401
        for token in (place.own.token[:-1], place.own.token + "x"):
            assert client.get("/v1/offers", headers={"Worker-Token": token}).status_code == 401


@pytest.mark.parametrize("shown", [[""], ["two words"], ["x" * 200], ["\x80"], ["one", "one"]])
def test_what_cannot_be_a_token_is_wrong(place: Place, shown: list[str]) -> None:
    """401 with one sentence, at each door; even twice the right one is none."""
    mine = [place.own.token if one == "one" else one for one in shown]
    headers = [(b"Worker-Token", one.encode("latin-1")) for one in mine]
    over_tcp, at_socket = (
        httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}"),
        httpx.Client(transport=httpx.HTTPTransport(uds=place.sidecar.path), base_url="http://sidecar"),
    )
    with over_tcp, at_socket:
        for client in (over_tcp, at_socket):
            answer = client.get("/v1/sessions/the-call", headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Worker-Token")
            assert "Worker-Token" in answer.json()["detail"]


def test_of_several_logins_none_is_chosen(place: Place) -> None:
    """Two Authorization headers are refused at each door, also where the socket's user would need none."""
    shown = [(b"Authorization", f"Bearer {token}".encode()) for token in (API, WRONG)]
    over_tcp, at_socket = (
        httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}"),
        httpx.Client(transport=httpx.HTTPTransport(uds=place.sidecar.path), base_url="http://sidecar"),
    )
    with over_tcp, at_socket:
        for client in (over_tcp, at_socket):
            for headers in (shown, shown[::-1]):
                answer = client.get("/v1/drain", headers=headers)
                assert (answer.status_code, "more than one" in answer.text) == (400, True)
        assert over_tcp.get("/healthz", headers=shown).status_code == 200


# -- what is done, and not only let in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/checkpoint", {"recovery_data": {"n": 2}}), ("POST", "/resumed", None), ("POST", "/let-go", {}),
        ("POST", "/release", {}), ("DELETE", "", None),
    ],
)  # fmt: skip
def test_only_its_owner_acts_on_a_session(place: Place, method: str, path: str, body: Any) -> None:
    """Another worker, with the right epoch: 412. An administrator, who is no worker: 401. The session stays as it was."""
    before = place.own("GET", "/v1/sessions/the-call").json()
    epoch = f'"{before["epoch"]}"'
    assert place.other(method, f"/v1/sessions/the-call{path}", body, If_Match=epoch).status_code == 412
    with contextlib.closing(Client(place.sidecar.path)) as administrator:
        shown = {"If_Match": epoch, "Authorization": f"Bearer {API}"}
        assert administrator(method, f"/v1/sessions/the-call{path}", body, **shown).status_code == 401
    assert place.own("GET", "/v1/sessions/the-call").json() == before


def test_a_record_is_for_its_owner_and_for_administrators(place: Place) -> None:
    """Over loopback: its owner and an API token read it; another worker gets one sentence, of a session or of none."""
    with httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}") as client:

        def read(session: str, shown: str) -> httpx.Response:
            return client.get(f"/v1/sessions/{session}", headers=place.shown(shown))

        assert [read("the-call", shown).status_code for shown in ("own", "api", "other", "")] == [200, 200, 403, 401]
        assert [read("never", shown).status_code for shown in ("own", "api", "other")] == [403, 404, 403]
        assert "only its owner" in read("the-call", "other").json()["detail"]
        owner = client.get("/v1/sessions/the-call/owner", headers=place.shown("other"))
        assert owner.json()["instance"] == place.own.instance


def test_the_sessions_of_a_worker_are_its_own_and_an_administrators(place: Place) -> None:
    """Over loopback: the worker itself and an API token see them; another worker and nobody do not."""
    with httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}") as client:

        def listed(shown: str) -> httpx.Response:
            return client.get(f"/v1/workers/{place.own.instance}/sessions", headers=place.shown(shown))

        for shown in ("own", "api", "other+api"):
            assert [one["session"] for one in listed(shown).json()["sessions"]] == ["the-call"]
        assert [listed(shown).status_code for shown in ("", "other", "wrong")] == [401, 403, 401]


def test_the_token_of_a_worker_that_ended_is_nobodys(place: Place) -> None:
    """Its process is killed: 410 where its id is named, 401 elsewhere."""
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process,
        contextlib.closing(Client(place.sidecar.path)) as client,
    ):
        assert client.register("mortal", pid=process.pid).status_code == 201
        assert client("GET", "/v1/offers").status_code == 200
        process.kill()
        wait_until(lambda: client("GET", f"/v1/workers/{client.instance}/sessions").status_code == 410)
        assert client("GET", "/v1/offers").status_code == 401


def test_an_answer_is_given_again_at_the_same_door_only(place: Place) -> None:
    """Whoever knows the key of a registration at the socket does not get the worker's token over loopback."""
    body, key = {"name": "keyed", "pid": os.getpid()}, {"Idempotency-Key": "known-to-all"}
    with contextlib.closing(Client(place.sidecar.path)) as client:
        first, again = [client("POST", "/v1/workers", body, Idempotency_Key="known-to-all") for _ in range(2)]
        assert (first.status_code, again.json()) == (201, first.json())
    with httpx.Client(base_url=f"http://127.0.0.1:{place.sidecar.http_port}") as stranger:
        answer = stranger.post("/v1/workers", json=body, headers=key)
    assert first.json()["worker_token"] not in answer.text


# -- settings ----------------------------------------------------------------------------------------------------------


def test_an_only_worker_needs_its_token_too(server: RedisServer) -> None:
    """One worker is registered, and nobody shows a token: 401 for whatever concerns it, and for the rest but a registration."""
    sidecar = Sidecar(server)
    with contextlib.closing(sidecar), contextlib.closing(Client(sidecar.path)) as own:
        assert own.register("lonely", pid=os.getpid()).status_code == 201
        own.open("lonely", {})
        place = Place(sidecar, own("GET", "/openapi.json").json(), own, own)
        with httpx.Client(base_url=f"http://127.0.0.1:{sidecar.http_port}") as nobody:
            found = {name: nobody.request(method, path).status_code for name, method, path in place.operations}
    assert found == {name: 400 if name == "register" else 401 for name in CALLERS}


def test_the_token_of_an_only_worker_may_be_left_out_where_that_is_set(server: RedisServer) -> None:
    """WORKER_TOKEN_OPTIONAL: without one it is the only worker's, by each door; as soon as there are two: 401."""
    sidecar = Sidecar(server, "--worker-token-optional", "true")
    with contextlib.closing(sidecar), contextlib.closing(Client(sidecar.path)) as nobody:
        instance = nobody("POST", "/v1/workers", {"name": "only", "pid": os.getpid()}).json()["instance"]
        with httpx.Client(base_url=f"http://127.0.0.1:{sidecar.http_port}") as over_tcp:
            epoch = f'"{over_tcp.put("/v1/sessions/mine", json={}).json()["epoch"]}"'
            assert nobody("POST", f"/v1/workers/{instance}/alive").status_code == 204
            assert nobody("POST", "/v1/sessions/mine/resumed", If_Match=epoch).status_code == 204
            assert over_tcp.get("/v1/drain").status_code == 401
            assert over_tcp.get("/v1/offers", headers={"Worker-Token": WRONG}).status_code == 401
            assert nobody("POST", "/v1/workers", {"name": "second", "pid": os.getpid()}).status_code == 201
            for method, path in (("POST", f"/v1/workers/{instance}/alive"), ("GET", "/v1/offers")):
                assert over_tcp.request(method, path).status_code == 401
        security = nobody("GET", "/openapi.json").json()["paths"]["/v1/offers"]["get"]["security"]
        assert security == [{}, *SCHEMES["worker"]]


def test_the_port_may_serve_health_only(server: RedisServer) -> None:
    """HTTP_TCP=health: health and metrics for everybody, and the rest at the unix socket only, whatever token is shown."""
    sidecar = Sidecar(server, "--http-tcp", "health", "--api-token", API, "--drain-port", "0")
    with (
        contextlib.closing(sidecar),
        contextlib.closing(Client(sidecar.path)) as client,
        httpx.Client(base_url=f"http://127.0.0.1:{sidecar.http_port}") as over_tcp,
    ):
        assert [over_tcp.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
        for path in ("/", "/openapi.json", "/v1/drain", "/v1/nothing"):
            answer = over_tcp.get(path, headers={"Authorization": f"Bearer {API}"})
            assert (answer.status_code, "HTTP_TCP" in answer.json()["detail"]) == (403, True), path
        assert client.register("behind-health", pid=os.getpid()).status_code == 201


def test_the_port_may_be_off(server: RedisServer) -> None:
    """HTTP_TCP=off: nothing listens on it, and the unix socket serves as before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    sidecar = Sidecar(server, "--http-tcp", "off", "--http-port", str(port))
    with contextlib.closing(sidecar), contextlib.closing(Client(sidecar.path)) as client, socket.socket() as link:
        assert client.register("behind-off", pid=os.getpid()).status_code == 201
        assert link.connect_ex(("127.0.0.1", port)) != 0
        assert sidecar._started()["http"] == ""


@pytest.mark.parametrize("what", ["health", "off"])
def test_without_a_port_there_must_be_a_socket(server: RedisServer, what: str) -> None:
    """Exit status 2 and one line: nobody could reach it."""
    command = [sys.executable, "-m", "coordinator", "sidecar", "--redis-url", server.url, "--http-tcp", what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, f"http_tcp: {what} leaves workers no way in" in done.stderr) == (2, True)


# -- rules without a server --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "local"),
    [
        (("unix", 1), True), (("127.0.0.1", 5), True), (("::1", 5), True), (("::ffff:127.0.0.1", 5), True),
        (("127.0.0.6", 5), False), (("127.0.0.2", 5), False), (("::ffff:127.0.0.6", 5), False), (("10.0.0.1", 5), False),
        (("", 5), False), (("no address", 5), False), (None, False),
    ],
)  # fmt: skip
def test_what_is_local(client: Any, local: bool) -> None:
    """Unix sockets, 127.0.0.1 and ::1; no other address, and nobody of whom nothing is known."""
    assert SidecarAccess.is_local({"client": client}) is local


@pytest.mark.parametrize(
    ("given", "token"),
    [
        (["Bearer one"], "one"), (["bearer  one "], "one"), (["Basic one"], ""), (["Bearer"], ""), ([""], ""), ([], ""),
        (["Bearer one", "Bearer two"], ""),
    ],
)  # fmt: skip
def test_which_token_is_shown(given: list[str], token: str) -> None:
    """One header Authorization with the scheme Bearer; of two none counts."""
    assert SidecarAccess.bearer({"authorization": given}) == token


def test_a_user_of_another_namespace_is_nobody(tmp_path: Path) -> None:
    """All of them have one number: a sidecar that runs as that one knows its own user by nothing."""
    scope = {"client": ("unix", 1), "state": {PEER_UID: os.geteuid()}}
    assert SidecarAccess.is_own_user(scope)
    assert not SidecarAccess.is_own_user({"client": ("127.0.0.1", 1), "state": {}})
    (tmp_path / "overflowuid").write_text(f"{os.geteuid()}\n")
    assert not SidecarAccess.is_own_user(scope, tmp_path / "overflowuid")


def test_a_port_that_is_off_is_no_address_of_a_sidecar(tmp_path: Path) -> None:
    """Whoever else listens there is not its successor."""
    path = str(tmp_path / "s.sock")
    both, off = [addresses_of(load(http_socket=path, http_tcp=what)) for what in ("all", "off")]
    assert (len(both), len(off)) == (2, 1)
    assert set(off) < set(both)
