"""Where the primary is that the Sentinels name: asked again and again, and all connections of a process go by it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import pytest
from structlog.testing import capture_logs

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address
from coordinator.store.connect import Connector
from coordinator.store.lookout import Lookout
from coordinator.store.url import StoreUrl, parse_url
from tests import inside
from tests.deployments import Node, free_port
from tests.store.fake_sentinel import FakeSentinel
from tests.waiting import eventually, wait_until

ONE, TWO = ("127.0.0.1", 1001), ("127.0.0.1", 1002)


@pytest.fixture
def three() -> Iterator[list[FakeSentinel]]:
    """Three Sentinels that name the same server."""
    made = [FakeSentinel(ONE) for _ in range(3)]
    yield made
    for one in made:
        one.close()


def url_of(sentinels: list[FakeSentinel]) -> str:
    """A URL that names them all."""
    return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in sentinels)}/calls/0"


@pytest.fixture
def lookout(three: list[FakeSentinel]) -> Iterator[Lookout]:
    """Asks them."""
    url = parse_url(url_of(three))
    made = Lookout(lambda: url)
    yield made
    made.close()


async def test_a_switch_is_known_without_being_asked_for(three: list[FakeSentinel], lookout: Lookout) -> None:
    """One Sentinel names another server under a newer configuration: that counts, and who watches is told."""
    told: list[Address | None] = []
    assert await lookout.find(0.5) == Address(*ONE)
    lookout.watch("test", lambda: told.append(lookout.address))
    three[1].address, three[1].epoch = TWO, 2
    await eventually(lambda: told[-1:] == [Address(*TWO)])
    assert await lookout.find(0.5) == Address(*TWO)


@pytest.mark.parametrize("silent", [0, 1, 2])
async def test_one_that_does_not_answer_keeps_nobody_waiting(
    three: list[FakeSentinel], lookout: Lookout, silent: int
) -> None:
    """Whichever it is; two of three are enough."""
    three[silent].silent = True
    with anyio.fail_after(20):
        assert await lookout.find(30.0) == Address(*ONE)


async def test_two_that_do_not_answer_cost_a_time_limit(three: list[FakeSentinel], lookout: Lookout) -> None:
    """And the third is believed, after it was given that time to be contradicted."""
    three[0].silent = three[2].silent = True
    assert await lookout.find(0.2) == Address(*ONE)


async def test_when_none_knows_each_is_named_with_what_it_said(three: list[FakeSentinel], lookout: Lookout) -> None:
    """One does not know, one is gone, one says nothing."""
    three[0].address, three[2].silent = None, True
    three[1].close()
    with pytest.raises(StoreUnavailableError) as refused:
        await lookout.find(0.1)
    for one in three:
        assert f"127.0.0.1:{one.port}" in str(refused.value)
    assert "does not know" in str(refused.value)


async def test_rights_that_a_sentinel_does_not_give_are_gone_without(
    three: list[FakeSentinel], lookout: Lookout
) -> None:
    """The address alone will do: without epochs most are believed."""
    for one in three:
        one.refused = {"MASTER", "REPLICAS"}
    assert await lookout.find(0.5) == Address(*ONE)
    three[0].address = three[1].address = TWO
    await eventually(lambda: lookout.address == Address(*TWO))


def test_a_thread_asks_in_the_same_place(lookout: Lookout) -> None:
    """And is called back while it waits."""
    words: list[None] = []
    assert lookout.find_in_a_thread(0.5, lambda: words.append(None)) == Address(*ONE)
    assert words


async def test_another_url_is_taken_up(three: list[FakeSentinel]) -> None:
    """As when the file that it stands in was replaced: other Sentinels are asked."""
    other = FakeSentinel(TWO, 2)
    urls = [parse_url(url_of(three))]

    def now() -> StoreUrl:
        return urls[-1]

    lookout = Lookout(now)
    try:
        await lookout.find(0.5)
        urls.append(parse_url(url_of([other])))
        await eventually(lambda: lookout.address == Address(*TWO))
    finally:
        lookout.close()
        other.close()


def test_a_child_has_nothing_of_it(lookout: Lookout) -> None:
    """After a fork its thread is the parent's; what the child asks for, it asks anew."""
    lookout.find_in_a_thread(0.5, lambda: None)
    child = os.fork()
    if child == 0:
        try:
            clean = lookout.named is None and not inside.askers_of(lookout)
            found = lookout.find_in_a_thread(0.5, lambda: None) == Address(*ONE)
            os._exit(0 if clean and found else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert lookout.address == Address(*ONE)


def test_after_its_end_it_finds_nothing(lookout: Lookout) -> None:
    """It does not begin again."""
    lookout.find_in_a_thread(0.5, lambda: None)
    threads = inside.askers_of(lookout)
    lookout.close()
    assert len(threads) == 3
    wait_until(lambda: not any(thread.is_alive() for thread in threads))
    with pytest.raises(StoreUnavailableError):
        lookout.find_in_a_thread(0.5, lambda: None)


async def test_every_connection_moves_while_the_former_server_still_answers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Scripts, blocking reads, the thread that beats: within one look, and what was under way has no answer."""
    folder = tmp_path_factory.mktemp("servers")
    servers = [Node(folder, free_port(), 'save ""') for _ in range(2)]
    sentinel = FakeSentinel(("127.0.0.1", servers[0].port))
    connector = Connector(url_of([sentinel]))
    try:
        executor, blocking, heart = connector.executor("k"), connector.blocking("k"), connector.heart("k")
        first, second = (server.client.info("server")["run_id"] for server in servers)
        await executor.command("PING")
        inside.thread_link_of(heart).exchange([])
        assert (executor.server, heart.server) == (first, first)
        failed: list[str] = []

        async def read() -> None:
            try:
                await blocking.command("BLPOP", "nothing", 60)
            except StoreUnavailableError as error:
                failed.append(error.detail)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await eventually(lambda: servers[0].client.info("clients")["blocked_clients"] == 1)
            sentinel.address, sentinel.epoch = ("127.0.0.1", servers[1].port), 2
        assert "another primary" in failed[0]
        await executor.command("PING")
        await anyio.to_thread.run_sync(lambda: inside.thread_link_of(heart).exchange([]))
        assert (executor.server, heart.server) == (second, second)
        assert servers[0].client.ping()
    finally:
        heart.close()
        await connector.aclose()
        sentinel.close()
        for server in servers:
            server.close()


async def test_where_no_sentinel_answers_the_last_that_was_named_is_it(
    three: list[FakeSentinel], lookout: Lookout
) -> None:
    """They are gone, and the primary lives: whoever has to connect anew goes there, and that is said once."""
    assert await lookout.find(0.5) == Address(*ONE)
    for one in three:
        one.silent = True
    with capture_logs() as logs:
        for _ in range(2):
            assert await lookout.find(0.1) == Address(*ONE)
    assert [line["goes_on_with"] for line in logs if line["event"] == "sentinels_silent"] == ["127.0.0.1:1001"]


async def test_a_sentinel_that_knows_no_primary_any_more_is_no_contradiction(
    three: list[FakeSentinel], lookout: Lookout
) -> None:
    """It was set up anew, or reset: the one that was named last is still the best that there is."""
    assert await lookout.find(0.5) == Address(*ONE)
    for one in three:
        one.address = None
    assert await lookout.find(0.5) == Address(*ONE)


def test_what_was_asked_counts_for_a_second(three: list[FakeSentinel], lookout: Lookout) -> None:
    """Nobody was asked yet; most were; most answer no more, and are asked all the same."""
    assert not lookout.is_sure
    lookout.find_in_a_thread(0.5, lambda: None)
    wait_until(lambda: lookout.is_sure)
    for one in three:
        one.silent = True
    before = lookout.address
    wait_until(lambda: all(view.error for view in inside.views_of(lookout)))
    assert lookout.is_sure, "whatever became of it"
    assert lookout.address == before
