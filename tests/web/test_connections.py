"""Who waits at a listener, who goes first, and what has room of its own."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from coordinator.web.accepting import Acceptor
from coordinator.web.bounds import HEALTH, REQUESTS, Bounds
from coordinator.web.connections import BoundedProtocol, Connections, address_of
from coordinator.web.seldom import Seldom, quieten
from tests import inside
from tests.waiting import eventually, within
from tests.web.serving import ROOMS, WAITS, Link, Served, serving

SLOW = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
SLOW_BODY = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"


def small(**more: Any) -> Bounds:
    return Bounds(**{"asking": 8, "kept": 8, "unread": 4, "rooms": ROOMS, **more})


async def crowd(served: Served, count: int, text: bytes = b"") -> list[Link]:
    """So many connections, one after the other."""
    found = []
    for _ in range(count):
        found.append(await served.link(text))
        await eventually(lambda: len(served.connections.asking.members) >= min(len(found), 8))
    return found


# -- who goes first ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", SLOW, SLOW_BODY], ids=["silent", "slow head", "slow body"])
async def test_the_longest_idle_connection_goes_first(text: bytes) -> None:
    """At the bound the newcomer gets in and is answered; who waited longest without a whole request is closed."""
    async with serving(small()) as served:
        links = await crowd(served, 8, text)
        assert not await links[0].is_closed()
        assert (await served.get("/"))[0] == 200
        await eventually(links[0].is_closed)
        assert not await links[-1].is_closed()
        await crowd(served, 40, text)
        assert len(served.connections.asking.members) <= 8
        assert (await served.get("/healthz"))[0] == 200


async def test_a_request_that_comes_with_many_idle_connections_is_read() -> None:
    """All at once, more than there is room for: what was sent is read before newer ones take its place."""
    async with serving(small()) as served:
        with contextlib.ExitStack() as stack:
            asked = []
            for number in range(200):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
                if number % 10 == 0:
                    one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    asked.append(one)
            for one in asked:
                one.setblocking(False)
                await anyio.wait_readable(one)
                assert one.recv(100).startswith(b"HTTP/1.1 200")


async def test_who_says_little_again_and_again_does_not_stay() -> None:
    """A byte now and then is no whole request: its place in the queue is that of its first."""
    async with serving(small()) as served:
        first, *_ = await crowd(served, 8, SLOW)
        await first.say(b"y")
        await served.link(SLOW)
        await eventually(first.is_closed)


async def test_connections_between_two_requests_are_not_pushed_out_by_slow_ones() -> None:
    """Each queue has its own bound: a flood of idle connections leaves those that were answered where they are."""
    async with serving(small()) as served:
        kept = await served.link()
        assert await kept.ask() == 200
        await crowd(served, 40)
        assert await kept.ask() == 200


async def test_of_connections_between_two_requests_the_longest_goes() -> None:
    """So do those that ask once and stay."""
    async with serving(small()) as served:
        links = []
        for _ in range(9):
            links.append(await served.link())
            assert await links[-1].ask() == 200
        await eventually(links[0].is_closed)
        assert await links[1].ask() == 200


async def test_bytes_of_unfinished_requests_are_bounded() -> None:
    """However few the connections: what they hold in all has a bound, and the longest goes."""
    body = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"y" * 50_000
    async with serving(small(held_bytes=200_000)) as served:
        for _ in range(7):
            await served.link(body)
        await eventually(lambda: 100_000 < served.connections.asking.bytes <= 200_000)
        await eventually(lambda: len(served.connections) <= 4)
        assert (await served.get("/"))[0] == 200


async def test_bytes_of_a_request_on_a_kept_connection_count() -> None:
    """So do those of a second request, from its first."""
    async with serving(small()) as served:
        kept = await served.link()
        assert await kept.ask() == 200
        await kept.say(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"y" * 5000)
        await eventually(lambda: served.connections.asking.bytes > 5000)


async def test_a_body_that_nobody_wants_counts_for_nothing() -> None:
    """What comes after the answer is dropped, however much it is: it takes no room from the others."""
    chunk = b"5000\r\n" + b"y" * 0x5000 + b"\r\n"
    async with serving(small(held_bytes=60_000), most_body=10) as served:
        other = await served.link(SLOW)
        link = await served.link(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        assert b" 404 " in await link._stream.receive()
        for _ in range(20):
            await link.say(chunk)
            await eventually(lambda: served.connections.asking.bytes < 1000)
        assert not await other.is_closed()


async def test_what_is_counted_is_given_back() -> None:
    """When all are gone nothing is held: no connection, no byte, no room, no address."""
    async with serving(small()) as served:
        links = [await served.link(text) for text in (b"", SLOW, SLOW_BODY, WAIT, WAIT)]
        kept = await served.link()
        assert await kept.ask("/large") == 200
        await eventually(lambda: served.waiting == 2)
        for link in (*links, kept):
            await link.aclose()
        served.go.set()
        found = served.connections
        await eventually(lambda: not len(found))
        await eventually(lambda: not sum(found.served.values()))
        assert [q.bytes for q in (found.asking, found.kept, found.unread)] == [0, 0, 0]
        assert not any(q.members for q in (found.asking, found.kept, found.unread))
        assert not inside.has_addresses(found)


# -- room of its own ---------------------------------------------------------------------------------------------------


async def test_a_kind_that_is_full_is_told_to_ask_again_and_others_are_answered() -> None:
    """503 with Retry-After for one kind only; the connection stays, and there is room again when one was answered."""
    async with serving(small()) as served:
        for _ in range(ROOMS[WAITS]):
            await served.link(WAIT)
        await eventually(lambda: served.waiting == ROOMS[WAITS])
        status, text = await served.get("/wait")
        assert status == 503
        assert b"\r\nretry-after: 1\r\n" in text.lower()
        assert (await served.get("/healthz"))[0] == 200
        assert (await served.get("/"))[0] == 200
        served.go.set()
        await eventually(lambda: not served.connections.served[WAITS])
        assert (await served.get("/wait"))[0] == 200


async def test_a_slow_body_takes_no_room() -> None:
    """A request that is not whole is not being answered: as many as want may be slow."""
    async with serving(small()) as served:
        await crowd(served, ROOMS[REQUESTS] + 2, SLOW_BODY)
        assert served.connections.served[REQUESTS] == 0
        assert (await served.get("/"))[0] == 200


# -- who does not read, or sends too much ------------------------------------------------------------------------------


async def test_answers_that_nobody_reads_are_bounded() -> None:
    """In number: the longest unread answer goes, and its connection with it."""
    ask = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(small(unread=2, held_bytes=1 << 30)) as served:
        for _ in range(5):
            await served.link(ask)
        await eventually(lambda: len(served.connections.unread.members) == 2)
        await eventually(lambda: len(served.connections) == 2)
        assert (await served.get("/"))[0] == 200


async def test_bytes_that_nobody_reads_are_bounded() -> None:
    """In bytes: an answer of 8 MB above a bound of 1 MB is not kept for a client that does not read it."""
    async with serving(small(held_bytes=1 << 20)) as served:
        await served.link(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: served.connections.served[REQUESTS] == 0)
        await eventually(lambda: len(served.connections) == 0)
        assert served.connections.unread.bytes == 0


async def test_an_answer_that_is_read_slowly_is_read_to_its_end() -> None:
    """Whoever takes some of it within the time has its time anew; who takes nothing has not."""
    found = Connections("x", small(unread_seconds=5.0))
    found.start()
    slow, still = Reader(1000), Reader(1000)
    for one in (slow, still):
        assert found.add(one, "")
        found.unread.put(one, 1000)
        one.since -= 6
    slow.left = 900
    found.stop()
    inside.sweep(found)
    found.stop()
    assert not inside.is_given_up(slow)
    assert inside.is_given_up(still)
    assert found.unread.bytes == 900


async def test_the_rest_of_an_answer_that_nobody_reads_is_seen() -> None:
    """Also when it is so little that nobody had to wait with writing: the connection is not between two requests."""
    async with serving(small()) as served:
        link = await served.link()
        assert await link.ask() == 200
        [one] = inside.open_connections(served.connections)
        one.__class__ = Unread
        one.settle()
        assert one.queue is served.connections.unread
        one.__class__ = BoundedProtocol
        one.settle()
        assert one.queue is served.connections.kept


class Unread(BoundedProtocol):
    unread = 5


async def test_an_answer_that_nobody_reads_has_its_time() -> None:
    """A connection that is closed would wait for ever for its client to read: it is aborted."""
    async with serving(small(held_bytes=1 << 30, unread_seconds=0.2)) as served:
        await served.link(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await eventually(lambda: served.connections.unread.members)
        await eventually(lambda: not len(served.connections))


async def test_who_sends_much_ahead_is_closed() -> None:
    """Requests behind one that is being answered wait in memory: their bytes have a bound, too."""
    async with serving(small(ahead_bytes=1000)) as served:
        few = await served.link(WAIT + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        many = await served.link(WAIT + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert await many.rest() == b""
        await eventually(lambda: len(served.connections) == 1)
        served.go.set()
        await eventually(lambda: served.connections.kept.members)
        assert (await few._stream.receive()).startswith(b"HTTP/1.1 200")


# -- time-outs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", SLOW, SLOW_BODY], ids=["silent", "slow head", "slow body"])
async def test_a_request_has_its_time(text: bytes) -> None:
    """Whoever does not ask within the time is closed."""
    async with serving(small(request_seconds=0.2)) as served:
        link = await served.link(text)
        await eventually(link.is_closed)


async def test_a_connection_between_two_requests_has_its_time() -> None:
    """And no request is cut off by it."""
    async with serving(small(idle_seconds=0.2)) as served:
        kept = await served.link()
        assert await kept.ask() == 200
        await eventually(kept.is_closed)
        waiting = await served.link(WAIT)
        await eventually(lambda: served.waiting)
        again = await served.link()
        assert await again.ask() == 200
        await eventually(again.is_closed)
        served.go.set()
        with within(10):
            assert await waiting._stream.receive()


async def test_time_in_which_this_process_stood_still_does_not_count() -> None:
    """What clients sent meanwhile could not be read: their time goes on when it is."""
    async with serving(small(request_seconds=100.0)) as served:
        await crowd(served, 1)
        found = served.connections
        before = found.now()
        inside.late_for_the_sweep(found, 1000)  # as if the look were so late
        found.stop()
        inside.sweep(found)
        assert found.now() < before - 900
        assert len(found) == 1


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("", ""),
        (("127.0.0.1", 5), ""),
        (("127.0.0.6", 5), ""),
        (("::1", 5, 0, 0), ""),
        (("::ffff:127.0.0.1", 5, 0, 0), ""),
        (("10.1.2.3", 5), "10.1.2.3"),
        (("::ffff:10.1.2.3", 5, 0, 0), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
    ],
)
def test_clients_are_told_apart_by_address(peer: Any, address: str) -> None:
    """Programs of this machine are not; of IPv6 the network counts, since a host has a whole one."""
    assert address_of(peer) == address


class Fake(BoundedProtocol):
    def __init__(self) -> None:
        self.transport = None  # type: ignore[assignment]


class Reader(Fake):
    """Has so many bytes to read."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    @property
    def unread(self) -> int:
        return self.left


async def test_one_address_takes_a_quarter_and_its_own_longest_goes() -> None:
    """Others' connections stay; an address whose connections are all being served is refused."""
    bounds = small()
    found = Connections("x", bounds)
    others = [Fake() for _ in range(3)]
    for number, one in enumerate(others):
        assert found.add(one, (f"10.0.0.{number}", 1))
    greedy = [Fake() for _ in range(bounds.of_one_address + 2)]
    for one in greedy[:-2]:
        assert found.add(one, ("10.1.1.1", 1))
        found.leave(one)  # it is being served
    assert not found.add(greedy[-2], ("10.1.1.1", 1))
    found.asking.put(greedy[3], 0)
    assert found.add(greedy[-1], ("10.1.1.1", 1))
    assert inside.is_given_up(greedy[3])
    assert not any(inside.is_given_up(one) for one in others)


# -- files -------------------------------------------------------------------------------------------------------------


def test_bounds_fit_the_files_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All listeners' connections together leave files for the store; each kind keeps some room."""
    bounds = Bounds(rooms={REQUESTS: 1024, HEALTH: 64, WAITS: 4096})
    for files in (256, 1024, 4096, 65536):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        for listeners in (1, 2, 3):
            less = bounds.fitting(listeners)
            assert less.connections * listeners <= files - 128 + 6 * 8 * listeners
            assert min(less.asking, less.kept, less.unread, *less.rooms.values()) >= 8
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    assert bounds.fitting(2) == bounds


class NoFiles(socket.socket):
    """A listener at the limit of open files."""

    asked = 0
    error = errno.EMFILE

    def accept(self) -> Any:
        self.asked += 1
        if self.error:
            raise OSError(self.error, "as if")
        return super().accept()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM])
async def test_at_the_limit_of_files_accepting_pauses(error: int) -> None:
    """The listener stays readable: it is asked again after a pause, not in a loop; those who wait longest make room."""
    found = Connections("x", small())
    waiting = Fake()
    assert found.add(waiting, "")
    with NoFiles() as listener, socket.socket() as client:
        listener.error = error
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        acceptor = Acceptor(listener, found, Fake, pause=1000.0)
        acceptor.start()
        client.connect(listener.getsockname())
        await eventually(lambda: listener.asked)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert listener.asked == 1
        assert inside.is_given_up(waiting) == (error != errno.EPERM)
        acceptor.stop()


async def test_accepting_goes_on_after_the_pause() -> None:
    """As soon as there are files again."""
    async with serving(small()) as served:
        [acceptor] = served.server.acceptors
        inside.cannot_accept(acceptor, OSError(errno.EMFILE, "as if"))
        with within(10):
            assert (await served.get("/"))[0] == 200


# -- what is no plain request ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nOrigin: null\r\n\r\n", 403),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", 200),
    ],
    ids=["length first", "chunked first", "chunked in 1.0", "origin", "no origin's", "chunked"],
)
async def test_what_is_no_plain_request_is_refused_and_the_connection_closed(head: bytes, status: int) -> None:
    """A body with a length that is chunked too could hide a request; pages of a browser have nothing to ask here."""
    async with serving(small()) as served:
        link = await served.link(head)
        assert int((await link.rest()).split()[1]) == status


async def test_nonsense_behind_an_answer_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    """A body that turns out to be nonsense after its request was answered: closed, and no error anywhere."""
    async with serving(small(), most_body=10) as served:
        for more in (b"ZZZ\r\n", b"\x00\r\n\r\n"):
            link = await served.link(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            await link.say(b"20\r\n" + b"y" * 32 + b"\r\n")
            assert b" 404 " in await link._stream.receive()
            await link.say(more)
            assert await link.rest() == b""
    assert not caplog.records


async def test_nonsense_behind_a_head_is_answered_once(caplog: pytest.LogCaptureFixture) -> None:
    """A body that is nonsense and comes together with its head: 400, and whoever would have answered it says nothing."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    async with serving(small()) as served:
        for more in (b"", b"Content-Length: 5\r\n"):
            link = await served.link(head + more + b"\r\nZZZ\r\n")
            assert (await link.rest()).count(b"HTTP/1.1 ") == 1
        await eventually(lambda: not len(served.connections))
    assert not caplog.records


# -- logs --------------------------------------------------------------------------------------------------------------


def test_of_each_kind_one_line_is_said_and_then_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once; after the time the next, with how many there were."""
    now = [100.0]
    monkeypatch.setattr("coordinator.clock.now", lambda: now[0])
    seldom = Seldom(60.0)
    assert [seldom.count("a"), seldom.count("a"), seldom.count("b"), seldom.count("a")] == [1, 0, 1, 0]
    now[0] += 61
    assert [seldom.count("a"), seldom.count("a"), seldom.count("b")] == [3, 0, 1]
    assert sum(bool(seldom.count(f"kind {n}")) for n in range(1000)) < 100


def test_so_are_lines_of_other_packages(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that each client can cause is logged once, with its traceback."""
    quieten("tests.web.noisy")
    quieten("tests.web.noisy")
    for n in range(100):
        logging.getLogger("tests.web.noisy").error("Exception in ASGI application\n%s", n)
    assert len(caplog.records) == 1


async def test_a_flood_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands that are closed for want of room are one line of log, with where."""
    async with serving(small()) as served:
        await crowd(served, 60)
        assert capsys.readouterr().out.count("clients_bounded") == 1
