"""The main job by TLS and with passwords: on one server, behind Sentinels that have one of their own, and on a Cluster."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from coordinator import StoreUnavailableError, Worker
from coordinator.daemon.daemon import Daemon
from coordinator.ids import partition_of
from coordinator.settings import load
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from tests import inside
from tests.acceptance.adopting import all_adopted
from tests.certificates import Authority
from tests.cli.docs_tables import ROOT
from tests.deployments import SENTINEL_RIGHTS, Node, Secured, cluster, free_port, sentinel
from tests.redis_users import as_user
from tests.waiting import eventually

PARTITIONS = 3
PATIENT: dict[str, Any] = {"store_timeout": "2s", "partitions": PARTITIONS}


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """An authority and a server's certificate."""
    with tempfile.TemporaryDirectory(prefix="rc-tls-") as folder:
        yield Secured.by(Authority(Path(folder)))


def with_login(url: str, secured: Secured, *, sentinel_password: str = "", authority: bool = True) -> str:
    """A URL with the servers' password, and with what else is asked for."""
    options = [f"ssl_ca_certs={secured.authority.ca}"] if authority else []
    if sentinel_password:
        options += [f"sentinel_username={secured.sentinel_user}", f"sentinel_password={sentinel_password}"]
    return f"{url.replace('://', f'://:{secured.password}@')}?{'&'.join(options)}"


@asynccontextmanager
async def coordinated(url: str) -> AsyncIterator[Daemon]:
    """A coordinator, ready."""
    daemon = Daemon(load(redis_url=as_user(url, "coordinator"), http_port=0, **PATIENT))
    async with anyio.create_task_group() as tasks:
        await tasks.start(daemon.run)
        await eventually(lambda: not daemon.not_ready(), 30)
        yield daemon
        tasks.cancel_scope.cancel()


async def recovered(url: str) -> None:
    """A worker dies with calls in all partitions, and another one gets them with their data."""
    calls, by = [f"call-{n}" for n in range(6)], as_user(url, "worker")
    async with coordinated(url), Worker(by, name="b", **PATIENT) as b:
        with pytest.raises(ZeroDivisionError):
            async with Worker(by, name="a", **PATIENT) as a:
                for call in calls:
                    await a.open(call, call.encode())
                raise ZeroDivisionError
        await all_adopted(b, calls)


async def test_one_server(secured: Secured, tmp_path: Path) -> None:
    """rediss: recovered."""
    node = Node(tmp_path, free_port(), 'save ""', secured=secured)
    try:
        await recovered(with_login(f"rediss://127.0.0.1:{node.port}/0", secured))
    finally:
        node.close()


async def test_an_authority_of_older_tools(tmp_path: Path) -> None:
    """Certificates without key identifiers, which Python 3.13 and newer refuse unless told otherwise: recovered on each Python."""
    folder = tmp_path / "authority"
    folder.mkdir()
    secured = Secured.by(Authority(folder, identified=False))
    node = Node(tmp_path, free_port(), 'save ""', secured=secured)
    try:
        await recovered(with_login(f"rediss://127.0.0.1:{node.port}/0", secured))
    finally:
        node.close()


async def test_a_cluster(secured: Secured) -> None:
    """rediss+cluster: recovered, on several servers."""
    with cluster(secured) as (url, nodes):
        assert url.startswith("rediss+cluster://")
        await recovered(with_login(url, secured))
        assert sum(bool(node.client.keys("*")) for node in nodes) > 1


async def test_behind_a_sentinel(secured: Secured) -> None:
    """rediss+sentinel: recovered, and a failover takes no call away; Sentinel and servers have different passwords."""
    with sentinel(secured) as (url, primary, replica):
        assert url.startswith("rediss+sentinel://")
        good = with_login(url, secured, sentinel_password=secured.sentinel_password)
        await recovered(good)
        connector = Connector(good)
        await connector.executor("k").command("PING")
        named = inside.lookout_of(connector).named
        assert named is not None
        assert named.epoch >= 0, "the documents' rights are enough to ask for it"
        await connector.aclose()
        async with coordinated(good), Worker(as_user(good, "worker"), name="c", **PATIENT) as worker:
            session = await worker.open("call-after", b"data")
            primary.close()
            await eventually(lambda: not session.held, 30, "in doubt")
            await eventually(lambda: session.held, 60, "held again, by the new primary")
            await session.checkpoint(b"more")
            key = Keys("recovery", partition_of("call-after", PARTITIONS)).session("call-after")
            assert replica.client.hget(key, "data") == b"more"


def test_the_documents_say_what_a_sentinels_user_needs() -> None:
    """The rights under which these tests run."""
    assert f"`{SENTINEL_RIGHTS}`" in (ROOT / "docs/security.md").read_text()


async def test_what_a_sentinel_refuses_is_told(secured: Secured) -> None:
    """No password, a wrong one, an unknown authority: the error says which of them, for each connection, and no secret."""
    with sentinel(secured) as (url, _, _):
        for options, said in (
            ({}, "auth"),
            ({"sentinel_password": "hush"}, "auth"),
            ({"sentinel_password": secured.sentinel_password, "authority": False}, "CERTIFICATE_VERIFY_FAILED"),
        ):
            connector = Connector(with_login(url, secured, **options), store_timeout=5)
            with pytest.raises(StoreUnavailableError) as refused:
                await connector.executor("{recovery:0}").command("PING")
            assert said in str(refused.value)
            assert "hush" not in str(refused.value)
            assert secured.password not in str(refused.value)
            await connector.aclose()
