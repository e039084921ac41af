"""Sealed recovery data and tenants at the sidecar: workers see what is theirs, and nobody else sees what they wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from prometheus_client import Counter

from coordinator.keyring import KeyRing
from coordinator.settings import Settings
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.schemas import Register, shown
from coordinator.store.keys import Keys
from coordinator.worker.runtime import WorkerRuntime
from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
RING = KeyRing.generate("k1")
CANARY, TOKEN = "canary-4915-end", "token-canary-5512"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Remembers everything that was ever written to it."""
    options = "--appendonly yes --rdbcompression no --slowlog-log-slower-than 0 --slowlog-max-len 100000"
    made = RedisServer(*options.split(), "--dbfilename", "all.rdb")
    yield made
    made.close()


@pytest.fixture(scope="module")
def sidecar(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """With keys and a token from files."""
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in (("encryption_keys", RING), ("api_token", TOKEN)):
            (folder / name).write_text(secret)
            patch.setenv(f"COORDINATOR_{name.upper()}_FILE", str(folder / name))
        made = Sidecar(server, "--coordinate", "--breaker-min", "1000", "--drain-port", "0")
    with contextlib.closing(Client(made.path)) as client:
        wait_until(lambda: "hold_reason" not in client("GET", "/").text, 10)
    yield made
    made.close()


Workers = Callable[..., Client]


def test_a_worker_of_another_tenant_is_refused(worker: Workers) -> None:
    """403 for its calls by id, and for opening in its name; its own are its tenant's without a word, as is a worker of nobody's."""
    a, b = worker("a", tenant="acme"), worker("b", tenant="globex")
    b.open("call-b", {"n": 1})
    assert b("GET", "/v1/sessions/call-b").json()["tenant"] == "globex"
    refused = [
        a("POST", "/v1/sessions/call-b/adopt?wait=2s", {}),
        a("POST", "/v1/sessions/call-b/adopt", {}),
        a("GET", "/v1/sessions/call-b/owner"),
        a("PUT", "/v1/sessions/call-a", {"recovery_data": {}, "tenant": "globex"}),
    ]
    assert [answer.status_code for answer in refused] == [403] * 4
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in refused)
    anybody = worker("any")
    assert anybody("POST", "/v1/sessions/call-b/adopt?wait=5s", {}).status_code == 200


async def test_a_bound_sidecar_takes_no_worker_of_another_tenant() -> None:
    """It is refused before anything is made for it."""
    settings = Settings.for_worker("redis://nowhere", tenant="acme")
    registry = Registry(settings, cast(WorkerRuntime, None), cast(anyio.abc.TaskGroup, None), cast(Counter, None))
    with pytest.raises(Problem) as refused:
        await registry.register(Register.model_validate({"name": "w", "tenant": "globex"}))
    assert refused.value.status == 403


def test_no_canary_is_ever_seen(sidecar: Sidecar, server: RedisServer, worker: Workers) -> None:
    """Through a life at the sidecar: Redis, its log, its metrics and the process list know neither data nor tokens nor keys."""
    a, heir = worker("first"), worker("heir")
    stream = heir.stream()
    epoch = a.open("overheard", {"said": CANARY})
    assert (
        a(
            "PUT",
            "/v1/sessions/overheard/checkpoint",
            {"recovery_data": {"said": CANARY, "n": 2}},
            If_Match=f'"{epoch}"',
        ).status_code
        == 204
    )
    assert (
        a(
            "PUT",
            "/v1/sessions/overheard/checkpoint",
            {"recovery_data": {"said": CANARY * 9000}},
            If_Match=f'"{epoch}"',
        ).status_code
        == 413
    )
    client: Any = server.client()
    assert client.hget(KEYS.session("overheard"), "encoding").startswith(b"sealed:1:k1:%d:json:" % epoch)
    record = a("GET", "/v1/sessions/overheard", Authorization=f"Bearer {TOKEN}")
    assert record.json()["recovery_data"] == {"said": CANARY, "n": 2}
    assert a("POST", "/v1/sessions/overheard/release", {"reason": "no media"}).status_code == 204
    offered = stream.wait_for("offer")
    assert offered[0]["recovery_data"] == {"said": CANARY, "n": 2}
    adopted = heir("POST", "/v1/sessions/overheard/adopt", {})
    assert adopted.json()["recovery_data"] == {"said": CANARY, "n": 2}
    client.save()
    seen = [path.read_bytes() for path in Path(server.directory).rglob("*") if path.is_file()]
    seen += [sidecar.log.read_bytes(), heir("GET", "/metrics").content, repr(client.slowlog_get(-1)).encode()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            seen.append(path.read_bytes())
    for secret in (CANARY, TOKEN, a.token, heir.token, RING.partition(":")[2]):
        assert secret.encode() not in b"\n".join(seen)
    assert b"overheard" in b"\n".join(seen)


def test_what_does_not_open_is_told_by_its_key() -> None:
    """In answers and events the id of the key stands in the place of the data."""
    assert shown(b"\x00" * 40, "sealed:1:k9:0:json") == {"sealed_with": "k9"}
