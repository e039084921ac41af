"""What HTTP bodies may say: whatever breaks a rule is a 4xx of one clear sentence, nothing of it is stored, nobody else notices."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from coordinator.sidecar import schemas
from coordinator.store.keys import Keys
from tests.hostile import HIDDEN_CHARACTERS, hidden_in
from tests.redis_server import RedisServer
from tests.sidecar.client import Client

Make = Callable[..., Client]
KEYS = Keys("recovery", 0)
NUMBERS = itertools.count()
DEEP = [65, 66, 100, 500, *range(940, 1000, 3), 5000, 12_000]


def ask(client: Client, method: str, path: str, body: str | bytes, **headers: str) -> httpx.Response:
    """One request with a body as it is."""
    named = {"Content-Type": "application/json", **({"Worker-Token": client.token} if client.token else {})}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return client._http.request(method, path, content=body, headers=named)


def refused(answer: httpx.Response) -> str:
    """The one sentence of a refusal."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = str(answer.json()["detail"])
    assert not hidden_in(detail, lines="")
    assert len(detail) < 1000
    return detail


@pytest.fixture
def stored(server: RedisServer) -> Callable[[str], dict[bytes, bytes]]:
    """Reads a session's record."""
    client: redis.Redis = server.client()
    return lambda session: client.hgetall(KEYS.session(session))  # type: ignore[return-value]


@pytest.fixture
def client(worker: Make) -> Client:
    """A worker of its own, that lives as long as the tests do."""
    return worker(f"writer-{next(NUMBERS)}", pid=os.getpid())


def nested(depth: int, how: str = '{"a":') -> str:
    return '{"a":' + how * (depth - 1) + "1" + ("}" if how[0] == "{" else "]") * (depth - 1) + "}"


@pytest.mark.parametrize("how", ['{"a":', "["])
def test_nesting_has_a_limit_at_every_depth(client: Client, stored: Any, how: str) -> None:
    """Up to 64 deep it is stored and given back; beyond that, also where a parser's own limit is near, refused and not stored."""
    for depth in (1, 2, 63, 64):
        data = nested(depth, how)
        answer = ask(client, "PUT", f"/v1/sessions/fits-{ord(how[0])}-{depth}", f'{{"recovery_data":{data}}}')
        assert answer.status_code == 201
        assert answer.json()["recovery_data"] == json.loads(data)
    epoch = client.open(f"own-{ord(how[0])}", {"n": 1})
    for depth in DEEP:
        body = f'{{"recovery_data":{nested(depth, how)}}}'
        session = f"deep-{ord(how[0])}-{depth}"
        assert "nested more than" in refused(ask(client, "PUT", f"/v1/sessions/{session}", body))
        assert not stored(session)
        written = ask(client, "PUT", f"/v1/sessions/own-{ord(how[0])}/checkpoint", body, If_Match=f'"{epoch}"')
        assert "nested more than" in refused(written)
    assert stored(f"own-{ord(how[0])}")[b"data"] == b'{"n":1}'


@pytest.mark.parametrize(
    "path", ["/v1/workers", "/v1/drain", "/v1/certificates", "/v1/sessions/x/adopt", "/v1/sessions/x/release"]
)
@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 20_000, nested(963), nested(5000, "[")], ids=["lists", "torn", "963", "5000"]
)
def test_no_body_of_any_operation_is_nested_endlessly(worker: Make, path: str, body: str) -> None:
    """Where nothing nested is expected at all, it is refused alike."""
    refused(ask(worker(), "POST", path, body, Authorization="Bearer one"))


@pytest.mark.parametrize(
    "data",
    ['{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":1e400}', '{"a":[-1e999]}', '{"a":9007199254740992}',
     '{"a":-9007199254740992}', '{"a":' + "9" * 5000 + "}", '{"a":"\\ud800"}', '{"\\udfff":1}', "[1]", '"text"', "5", '{"a":1}x', "{"],
)  # fmt: skip
def test_values_that_not_everybody_reads_as_they_were_written(client: Client, stored: Any, data: str) -> None:
    """Numbers and texts that other readers of JSON would read otherwise, or not at all."""
    refused(ask(client, "PUT", "/v1/sessions/values", f'{{"recovery_data":{data}}}'))
    assert not stored("values")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_body_is_utf_8(client: Client, encoding: str) -> None:
    """Another encoding is refused, not guessed."""
    assert "UTF-8" in refused(ask(client, "POST", "/v1/workers", '{"name":"ä"}'.encode(encoding)))


@pytest.mark.parametrize(
    "name", ["a%1b[2J", "a%00", "a%c2%9b", "a%e2%80%ae", "a%0d%0aX-Forged:%201", "x" * 300, "a%20b", "%7Ba%7D", "%ff"]
)
def test_ids_in_paths_are_held_to_their_rule(client: Client, name: str) -> None:
    """Of a session and of a worker, by every method: a 4xx that shows them printably."""
    for method, path in (
        ("PUT", f"/v1/sessions/{name}"), ("GET", f"/v1/sessions/{name}"), ("GET", f"/v1/sessions/{name}/owner"),
        ("POST", f"/v1/sessions/{name}/adopt"), ("GET", f"/v1/workers/{name}/sessions"), ("POST", f"/v1/workers/{name}/alive"),
        ("GET", f"/v1/workers/{name}/events"), ("GET", f"/v1/{name}"),
    ):  # fmt: skip
        refused(client(method, path, {} if method != "GET" else None))


HIDDEN = [f"a{character}" for character in HIDDEN_CHARACTERS]
TEXTS = [*HIDDEN, "x" * 257, 5, None, ["a"]]
REASONS = [*HIDDEN, "x" * 1025, 5, None]
LABELS = ["a b", "=a", "", "x" * 129, "a\x1b", "a=\x9b", "ä"]
FIELDS: dict[str, tuple[str, str, str, list[Any]]] = {
    "name": ("POST", "/v1/workers", "name", ["", "a b", "a~b", "a\x1b", "x" * 64, "ä", 5]),
    "address": ("POST", "/v1/workers", "address", TEXTS),
    "pool of a worker": ("POST", "/v1/workers", "pool", ["", "a b", "a\x1b", "x" * 64, 5]),
    "labels": ("POST", "/v1/workers", "labels", [*({name: "x"} for name in (*LABELS, "a=b")), *({"a": v} for v in TEXTS), 5]),
    "tenant": ("PUT", "/v1/sessions/fields", "tenant", TEXTS),
    "pool of a session": ("PUT", "/v1/sessions/fields", "pool", ["", "a b", "a\x1b", "x" * 64, 5]),
    "requires": ("PUT", "/v1/sessions/fields", "requires", [*([one] for one in (*LABELS, 5)), ["x"] * 65, "gpu"]),
    "reason of a release": ("POST", "/v1/sessions/own/release", "reason", REASONS),
    "reason of a decline": ("POST", "/v1/sessions/own/decline", "reason", REASONS),
    "reason of a drain": ("POST", "/v1/drain", "reason", REASONS),
    "reason of a certificate": ("POST", "/v1/certificates", "reason", REASONS),
    "instance of a certificate": ("POST", "/v1/certificates", "instance", ["", "a", "a~", "a~\x1b", "a b~1", 5]),
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_every_text_has_a_rule(client: Client, stored: Any, field: str) -> None:
    """Each text of each body, with each wrong value: the sentence names the field, nothing is stored, begun or given up."""
    method, path, name, wrong = FIELDS[field]
    epoch = client.open("own", {"n": 1})
    required = {"/v1/workers": {"name": "other"}, "/v1/certificates": {"instance": "nobody~1"}}.get(path, {})
    for bad in wrong:
        answer = client(method, path, {**required, name: bad}, Authorization="Bearer one")
        if bad is None and answer.status_code in (201, 404):  # the same as left out, where that is allowed
            continue
        assert name in refused(answer), bad
        assert not stored("fields")
    record = stored("own")
    assert (record[b"state"], record[b"epoch"]) == (b"active", str(epoch).encode())
    assert client("GET", "/v1/drain").json()["draining"] is False
    assert "recovery_sidecar_failures_total{" not in client("GET", "/metrics").text
    assert client("DELETE", "/v1/sessions/own", If_Match=f'"{epoch}"').status_code == 204


def test_a_sentence_names_the_value_and_the_rule(client: Client) -> None:
    """Of a text it shows what was given, in bounded length; of recovery data nothing."""
    assert (
        refused(client("PUT", "/v1/sessions/s", {"tenant": "a\x1b"}))
        == r"tenant: 'a\x1b' is not text of printable characters"
    )
    said = refused(client("PUT", "/v1/sessions/s", {"requires": ["b", "a c"]}))
    assert said.startswith("requires.1: 'a c' is not a label, as name or name=value")
    said = refused(client("PUT", "/v1/sessions/s", {"recovery_data_base64": "canary!"}))
    assert said == "recovery_data_base64: it is not base64 in one line"
    assert "canary" not in refused(client("PUT", "/v1/sessions/s", {"recovery_data": {"canary": 2**60}}))


def test_each_pattern_is_said_in_words() -> None:
    """No model has a pattern of which a person is told nothing but the pattern itself."""
    patterns: set[str] = set()

    def look(schema: Any) -> None:
        for name, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
            patterns.update({value} if name == "pattern" and isinstance(value, str) else ())
            if isinstance(value, dict | list):
                look(value)

    models = [
        one
        for one in vars(schemas).values()
        if isinstance(one, type) and hasattr(one, "model_json_schema") and one.__module__ == schemas.__name__
    ]
    for model in models:
        look(model.model_json_schema())
    assert {schemas.LOCAL_URL, schemas.BASE64} < patterns
    assert patterns - set(schemas.RULES) == {schemas.BASE64}


def test_what_was_stored_deeper_is_given_as_bytes(server: RedisServer, client: Client) -> None:
    """A record from before there was a limit: its answer is one that can be written and read, not an error."""
    client.open("older", {"n": 1})
    for data in (nested(100), nested(963), nested(20_000), "{", "[]"):
        with server.client() as direct:
            direct.hset(KEYS.session("older"), "data", data)
        answer = client("GET", "/v1/sessions/older")
        assert answer.status_code == 200
        assert ("recovery_data" in answer.json()) == (data == nested(100))
        assert ("recovery_data_base64" in answer.json()) == (data != nested(100))
