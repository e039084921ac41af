"""Connections by TLS, each kind of them: whom they trust, what they prove, and what they refuse."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from coordinator import StoreUnavailableError
from coordinator.errors import ConfigurationError
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.keys import Keys
from tests import inside
from tests.certificates import Authority
from tests.deployments import Node, Secured, free_port
from tests.waiting import eventually

KEYS = Keys("recovery", 0)
LOGIN = ":of-the-servers@"
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-tls-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


def server(folder: Path, secured: Secured, *options: str) -> Iterator[Node]:
    """One with files in ``folder``, for as long as a fixture."""
    node = Node(folder, free_port(), 'save ""', *options, secured=secured)
    yield node
    node.close()


@pytest.fixture(scope="module")
def node(folder: Path, authority: Authority) -> Iterator[Node]:
    """It has the certificate of 127.0.0.1, and asks for none."""
    yield from server(folder, Secured.by(authority))


@pytest.fixture(scope="module")
def elsewhere(folder: Path, authority: Authority) -> Iterator[Node]:
    """It shows the certificate of another host."""
    yield from server(folder, Secured(authority, *authority.issue("elsewhere", "10.9.8.7", "127.0.0.2")))


@pytest.fixture(scope="module")
def strict(folder: Path, authority: Authority) -> Iterator[Node]:
    """It wants a certificate, and speaks TLS 1.2 only."""
    options = ("tls-auth-clients yes", 'tls-protocols "TLSv1.2"')
    yield from server(folder, Secured.by(authority), *options)


async def all_closed() -> None:
    """asyncio closes the socket of a TLS connection some turns of the loop, and answers of the server, later."""
    loop = asyncio.get_running_loop()
    await eventually(lambda: not inside.open_transports(loop), description="each socket is closed")


async def each_kind(url: str) -> None:
    """Every kind of connection is made and used once.

    Raises:
        StoreUnavailableError: one of them could not be.
    """
    connector = Connector(url, store_timeout=TIMEOUT)
    try:
        assert await connector.executor(KEYS.tag).command("PING") == b"PONG"
        assert await connector.blocking(KEYS.tag).command("PING") == b"PONG"

        def beat() -> Any:
            heart = connector.heart(KEYS.tag)
            try:
                return heart.run(init())
            finally:
                heart.close()

        assert (await anyio.to_thread.run_sync(beat)).word == "OK"
        client = await connector.listener(KEYS.tag)
        async with client.pubsub() as channel:
            await channel.subscribe("x")
            assert (await channel.get_message(timeout=TIMEOUT))["type"] == "subscribe"
        await connector.close_listener(client)
    finally:
        await connector.aclose()
        await all_closed()


def init() -> Any:
    return calls.init(KEYS, partitions=1, protocol=1, lineage="lineage-1", hold=0.001, previous="")


def url_of(node: Node, options: str = "", login: str = LOGIN) -> str:
    return f"rediss://{login}127.0.0.1:{node.port}/0?{options}"


async def why(url: str) -> str:
    """For what reason no connection is made."""
    connector = Connector(url, store_timeout=TIMEOUT)
    try:
        with pytest.raises(StoreUnavailableError) as refused:
            await connector.executor(KEYS.tag).command("PING")
        heart = connector.heart(KEYS.tag)
        with pytest.raises(StoreUnavailableError) as also:
            await anyio.to_thread.run_sync(heart.run, init())
        heart.close()
        assert also.value.kind == refused.value.kind
        return f"{refused.value.kind}: {refused.value.detail}"
    finally:
        await connector.aclose()
        await all_closed()


async def test_a_known_authority_is_trusted(node: Node, authority: Authority) -> None:
    """With its certificate every kind of connection works, a password included; it may stand in the URL itself."""
    with capture_logs() as logs:
        await each_kind(url_of(node, f"ssl_ca_certs={authority.ca}"))
    assert not [line for line in logs if line["event"] == "tls_not_verified"]


async def test_an_unknown_authority_is_not(node: Node, folder: Path) -> None:
    """Neither where none is named, nor where another one is."""
    other = Authority(folder, "another")
    for options in ("", f"ssl_ca_certs={other.ca}"):
        said = await why(url_of(node, options))
        assert said.startswith("connection: ")
        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert "of-the-servers" not in said


async def test_the_host_must_be_the_certificates(elsewhere: Node, authority: Authority) -> None:
    """Unless that look is switched off, which is warned of; then the authority counts all the same."""
    ca = f"ssl_ca_certs={authority.ca}"
    for options in (ca, f"{ca}&ssl_check_hostname=true"):
        assert "CERTIFICATE_VERIFY_FAILED" in await why(url_of(elsewhere, options))
    with capture_logs() as logs:
        await each_kind(url_of(elsewhere, f"{ca}&ssl_check_hostname=false"))
        assert "CERTIFICATE_VERIFY_FAILED" in await why(url_of(elsewhere, "ssl_check_hostname=false"))
    assert [line["event"] for line in logs] == ["tls_not_verified"] * 2


async def test_without_verification_there_is_a_warning(elsewhere: Node) -> None:
    """Whoever answers is spoken to."""
    with capture_logs() as logs:
        await each_kind(url_of(elsewhere, "ssl_cert_reqs=none"))
    [line] = logs
    assert line["why"].startswith("ssl_cert_reqs=none")
    assert "of-the-servers" not in str(line)


async def test_a_client_proves_itself(strict: Node, authority: Authority) -> None:
    """By certificate and key; an encrypted key is opened by its password."""
    ca = f"ssl_ca_certs={authority.ca}"
    certificate, key = authority.issue("client")
    await each_kind(url_of(strict, f"{ca}&ssl_certfile={certificate}&ssl_keyfile={key}"))
    certificate, key = authority.issue("closed", password="hush")
    files = f"{ca}&ssl_certfile={certificate}&ssl_keyfile={key}"
    await each_kind(url_of(strict, f"{files}&ssl_password=hush"))
    for options in (files, f"{files}&ssl_password=guess"):  # and nobody at a terminal is asked
        with pytest.raises(ConfigurationError, match="ssl_certfile, ssl_keyfile or ssl_password cannot be used"):
            Connector(url_of(strict, options))
    assert (await why(url_of(strict, ca))).startswith("connection: ")


async def test_an_old_version_is_refused(strict: Node, authority: Authority) -> None:
    """The server speaks TLS 1.2; whoever asks for 1.3 does not speak to it."""
    certificate, key = authority.issue("client")
    options = f"ssl_ca_certs={authority.ca}&ssl_certfile={certificate}&ssl_keyfile={key}"
    await each_kind(url_of(strict, f"{options}&ssl_min_version=TLSv1.2"))
    assert (await why(url_of(strict, f"{options}&ssl_min_version=TLSv1.3"))).startswith("connection: ")


async def test_a_renewed_certificate_is_used_from_the_next_connection_on(
    strict: Node, authority: Authority, folder: Path
) -> None:
    """Files are read again for each connection: the first authority is no more trusted when its file has another one in it."""
    certificate, key = authority.issue("renewed")
    ca = folder / "changing.pem"
    ca.write_bytes(authority.ca.read_bytes())
    url = url_of(strict, f"ssl_ca_certs={ca}&ssl_certfile={certificate}&ssl_keyfile={key}")
    connector = Connector(url, store_timeout=TIMEOUT)
    try:
        assert await connector.executor(KEYS.tag).command("PING") == b"PONG"
        ca.write_bytes(Authority(folder, "next").ca.read_bytes())
        with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await connector.executor(KEYS.tag).command("PING")
    finally:
        await connector.aclose()


async def test_a_password_over_tls(node: Node, authority: Authority) -> None:
    """A wrong one is an error of kind auth, which does not tell it."""
    said = await why(url_of(node, f"ssl_ca_certs={authority.ca}", ":hush@"))
    assert said.startswith("auth: ")
    assert "hush" not in said
