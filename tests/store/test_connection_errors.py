"""What a connection does that nobody expects: each caller gets its own answer, its own error, or a place on the next connection."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
import redis.asyncio as aredis

from coordinator import InvalidIdError, StoreUnavailableError, Worker
from coordinator.errors import CoordinatorError
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.executor import PIECE, Executor
from coordinator.store.faults import ScriptError
from coordinator.store.keys import Keys
from coordinator.store.scripts import Script, ScriptCall, read_header
from coordinator.store.wire import Wire
from tests import inside
from tests.redis_server import RedisServer
from tests.slow_line import SlowLine
from tests.waiting import eventually, within

KEYS = Keys("recovery", 0)
BIG = b"x" * 65536


@asynccontextmanager
async def executing(url: str, timeout: float = 2.0) -> AsyncIterator[Executor]:
    """An executor on its own connection."""
    connector = Connector(url, store_timeout=timeout)
    try:
        yield connector.executor(KEYS.tag)
    finally:
        await connector.aclose()


async def outcome(run: Executor, *command: Any) -> Any:
    """What became of a command: its answer, or its error."""
    try:
        return await run.command(*command)
    except CoordinatorError as error:
        return error


def stand_still(seconds: float) -> None:
    """This thread, and its event loop, do nothing."""
    threading.Event().wait(seconds)


def script(text: str) -> ScriptCall[Any]:
    """A call of a script that exists for a test only; its header lists the answer OK."""
    source = f"-- odd.lua: for a test.\n-- REPLY OK\n-- RETRY safe: it does nothing.\n{text}".encode()
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return ScriptCall(Script("odd", read_header("odd", source.decode()), source, sha), (), (), {b"OK": calls.Ok})


# -- errors of ours --------------------------------------------------------------------------------------------------------


async def test_a_wrong_argument_hurts_nobody_else(url: str) -> None:
    """A lone surrogate in one command of a turn: its caller gets a clear error, its neighbours their answers."""
    async with executing(url) as run:
        before, wrong, none, after = await asyncio.gather(
            outcome(run, "ECHO", "1"),
            outcome(run, "ECHO", "a\udcff"),
            outcome(run, "ECHO", None),
            outcome(run, "ECHO", "2"),
        )
        assert (before, after) == (b"1", b"2")
        assert isinstance(wrong, InvalidIdError)
        assert isinstance(none, CoordinatorError)
        assert not isinstance(none, StoreUnavailableError), "the connection has nothing to do with it"


async def test_one_wrong_command_of_a_caller_s_pipeline_means_that_none_is_sent(
    url: str, redis_client: redis.Redis
) -> None:
    """All are looked at before one is sent; afterwards the connection is as good as before."""
    async with executing(url) as run:
        with pytest.raises(InvalidIdError):
            await run.commands([("SET", "a", "1"), ("SET", "b", "\ud800")])
        assert await run.command("EXISTS", "a") == 0


async def test_a_lone_surrogate_in_a_tenant_does_not_hurt_another_session_s_checkpoint(url: str) -> None:
    """Two calls of one worker at the same moment: one is refused, the other is written."""
    async with Worker(url, name="a") as worker:
        session = await worker.open("call-1", {"n": 0})
        wrong, right = await asyncio.gather(
            worker.open("call-2", {"n": 0}, tenant="a\udcff"), session.checkpoint({"n": 1}), return_exceptions=True
        )
        assert isinstance(wrong, CoordinatorError)
        assert right is None


async def test_a_large_batch_goes_in_pieces(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is answered; if the connection ends between pieces: an answer, an error, or a place on the next one."""
    pieces, flush, last = [], Wire.flush, 2 * 60_000 // PIECE

    def counted(wire: Wire) -> None:
        pieces.append(wire.held)
        flush(wire)
        if len(pieces) == last:
            wire.end(StoreUnavailableError("connection", "between two pieces"))

    texts = [b"%d-" % n + b"x" * 1000 for n in range(300)]
    async with executing(url) as run:
        await run.command("PING")
        monkeypatch.setattr(Wire, "flush", counted)
        with within(30):
            assert await run.commands([("ECHO", text) for text in texts[:60]]) == texts[:60]
            assert 1 < len(pieces) < last
            assert max(pieces) < 2 * PIECE
            told = await asyncio.gather(*(outcome(run, "ECHO", text) for text in texts))
    assert len(pieces) > last
    assert all(a == text or isinstance(a, StoreUnavailableError) for a, text in zip(told, texts, strict=True))
    assert texts[-1] in told


@pytest.mark.parametrize(
    "lua", ["return 5", "return {}", "return {{}}", "return {'NO'}", "return 'OK'", "return {'OK', 'a'}"]
)
async def test_an_answer_that_cannot_be_read_concerns_its_caller_only(url: str, lua: str) -> None:
    """A script that answers what its header does not say: its caller gets an error or an answer, its neighbours theirs."""
    async with executing(url) as run:
        before, odd, after = await asyncio.gather(
            outcome(run, "ECHO", "1"),
            asyncio.gather(run.run(script(lua)), return_exceptions=True),
            outcome(run, "ECHO", "2"),
        )
        assert (before, after) == (b"1", b"2")
        assert isinstance(odd[0], ScriptError | calls.Ok)
        assert await run.command("ECHO", "3") == b"3"


# -- errors of the connection ----------------------------------------------------------------------------------------------

FOREIGN = [
    RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    AttributeError("'NoneType' object has no attribute '_add_writer'"),
    AssertionError("Data should not be empty"),
    UnicodeError("label empty or too long"),
    redis.InvalidResponse("Protocol error, got 'h' as reply type byte"),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
async def test_whatever_writing_raises_is_a_connection_error(
    url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Event loops raise what they like on a connection that was reset; the next command has a new one."""
    async with executing(url) as run:
        await run.command("PING")
        wire = inside.link_of(run).wire
        assert wire is not None

        def write(data: bytes) -> None:
            raise error

        spot = inside.transport_spot(wire)
        monkeypatch.setattr(*spot, Breaking(getattr(*spot), write))
        failed = await outcome(run, "ECHO", "lost")
        assert isinstance(failed, StoreUnavailableError)
        assert failed.kind == "connection"
        assert await run.command("ECHO", "next") == b"next"


class Breaking:
    """A transport whose writes do something else."""

    def __init__(self, transport: Any, write: Any) -> None:
        self._transport, self.write = transport, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
async def test_whatever_connecting_raises_is_a_connection_error(
    url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nothing was sent then, and the error says so."""

    async def connect(self: Any) -> None:
        raise error

    async with executing(url) as run:
        with monkeypatch.context() as patched:
            patched.setattr(aredis.UnixDomainSocketConnection, "connect", connect)
            failed = await outcome(run, "ECHO", "lost")
        assert isinstance(failed, StoreUnavailableError)
        assert failed.kind == "connection"
        assert failed.sent is False
        assert await run.command("ECHO", "next") == b"next"


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
async def test_whatever_ends_a_connection_is_a_connection_error(url: str, error: Exception) -> None:
    """A protocol is told of the end with any exception; what waits for an answer gets an error, nothing escapes."""
    async with executing(url) as run:
        await run.command("PING")
        wire = inside.link_of(run).wire
        assert wire is not None
        asking = asyncio.ensure_future(outcome(run, "BLPOP", "nothing", 5))
        await eventually(lambda: wire.busy)
        wire.connection_lost(error)
        failed = await asking
        assert isinstance(failed, StoreUnavailableError)
        assert failed.kind == "connection"
        assert await run.command("ECHO", "next") == b"next"


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
async def test_the_thread_s_connection_raises_nothing_else_either(
    url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The heart's exchange returns errors and never raises; the next one has a new connection."""
    sync = Connector(url, store_timeout=1.0).heart(KEYS.tag)
    assert sync.run_many([script("return {'OK'}")])[0].word == "OK"  # type: ignore[union-attr]

    class Socket:
        def settimeout(self, seconds: float) -> None: ...
        def send(self, data: bytes) -> int:
            raise error

    monkeypatch.setattr(*inside.socket_spot(sync), Socket())
    [failed] = sync.run_many([script("return {'OK'}")])
    assert isinstance(failed, StoreUnavailableError)
    assert failed.kind == "connection"
    assert sync.run(script("return {'OK'}")).word == "OK"
    sync.close()


async def test_the_listener_s_connection_raises_what_its_users_know(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pub/sub is the client library's; its foreign errors become its own connection error."""
    connector = Connector(url, store_timeout=1.0)
    client = await connector.listener(KEYS.tag)
    box: Any = client.pubsub()
    await box.subscribe("channel")

    async def read(*args: Any, **named: Any) -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(box.connection, "read_response", read)
    with pytest.raises(redis.ConnectionError, match="RuntimeError: the handler is closed"):
        await box.get_message(timeout=0.1)
    monkeypatch.setattr(box.connection, "send_command", read)
    with pytest.raises(redis.ConnectionError, match="RuntimeError: the handler is closed"):
        await box.subscribe("other")
    await connector.close_listener(client)


RESETS = """
import sys, anyio
from coordinator.store.connect import Connector
from tests.slow_line import SlowLine

async def main():
    line = SlowLine(sys.argv[1])
    connector = Connector(line.url, store_timeout=2.0)
    run, blocking = connector.executor("{a}"), connector.blocking("{a}")
    for n in range(20):
        for ask in (run.command, blocking.command):
            assert await ask("ECHO", str(n)) == str(n).encode(), n
        line.reset()
        await anyio.sleep(0.02)
    await connector.aclose()
    line.close()
    print("fine")

anyio.run(main, backend_options={"use_uvloop": sys.argv[2] == "uvloop"})
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_reset_of_an_idle_connection_costs_nothing(redis_server: RedisServer, url: str, loop: str) -> None:
    """Whatever the event loop: nothing was on its way, so the next command simply goes out on a new connection."""
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed here")
    done = subprocess.run(
        [sys.executable, "-c", RESETS, redis_server.path, loop], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "fine\n", done.stderr


async def test_a_connection_that_the_server_closed_while_idle_costs_nothing(
    url: str, redis_client: redis.Redis
) -> None:
    """CLIENT KILL between two commands: the second is answered."""
    async with executing(url) as run:
        await run.command("PING")
        wire = inside.link_of(run).wire
        assert wire is not None
        redis_client.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: not wire.open)
        assert await run.command("ECHO", "again") == b"again"


# -- answers that end in the middle ----------------------------------------------------------------------------------------


PAUSE = b""
"""Among the pieces of an answer: half a second in which nothing comes."""


@contextmanager
def talking(*pieces: bytes) -> Iterator[str]:
    """A server that answers each connection's hand-shake properly, then with these bytes, and hangs up. Its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    first = threading.Event()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                for answer in (b"+OK\r\n", b"$0\r\n\r\n"):  # CLIENT SETNAME, INFO
                    client.recv(4096)
                    client.sendall(answer)
                if first.is_set():
                    continue
                first.set()
                client.recv(1 << 20)
                for piece in pieces:
                    if piece == PAUSE:
                        stand_still(0.5)
                    client.sendall(piece)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("rest", [b"$100\r\nhalf", b"*2\r\n$1\r\na\r\n", b"hello\r\n", b"$x\r\n", b""])
async def test_what_was_answered_is_done_whatever_comes_after(rest: bytes) -> None:
    """Two answers, then half an answer or nonsense: two callers have theirs, the third has an unknown outcome."""
    with talking(b"+one\r\n", b"+two\r\n", rest) as url:
        async with executing(url) as run:
            one, two, three = await asyncio.gather(*(outcome(run, "ECHO", n) for n in (1, 2, 3)))
            assert (one, two) == (b"one", b"two")
            assert isinstance(three, StoreUnavailableError)
            assert three.kind == "connection"
            assert three.sent is True


async def test_an_answer_that_has_begun_may_come_in_gulps() -> None:
    """Half of it, then nothing for longer than the time limit, then the rest: something in between held it back."""
    with talking(b"*2\r\n$1\r\na\r\n$3\r\nb", PAUSE, b"cd\r\n") as url, within(20):
        async with executing(url, timeout=0.2) as run:
            assert await run.command("ECHO", "1") == [b"a", b"bcd"]


def test_an_answer_to_the_thread_may_come_in_gulps_too() -> None:
    """The same for whoever beats."""
    with talking(b"*1\r\n$2\r\nO", PAUSE, b"K\r\n") as url:
        sync = Connector(url, store_timeout=0.2).heart(KEYS.tag)
        assert sync.run(script("return {'OK'}")).word == "OK"
        sync.close()


def test_what_the_thread_was_answered_is_done_too() -> None:
    """A beat that was acknowledged counts, although the connection broke before the next answer."""
    answer = b"*1\r\n$2\r\nOK\r\n"
    with talking(answer, b"*1\r\n$2\r\nO") as url:
        sync = Connector(url, store_timeout=1.0).heart(KEYS.tag)
        one, two = sync.run_many([script("return {'OK'}")] * 2)
        assert not isinstance(one, CoordinatorError)
        assert one.word == "OK"
        assert isinstance(two, StoreUnavailableError)
        sync.close()


def test_the_thread_hears_of_each_step_of_connecting() -> None:
    """A word between the connection and the log-in, and after it: both may take nearly as long as the time limit."""
    with talking() as url:
        words: list[None] = []
        sync = Connector(url, store_timeout=1.0).heart(KEYS.tag, lambda: words.append(None))
        with contextlib.suppress(StoreUnavailableError):  # it says nothing of itself
            inside.connect(sync)
        assert len(words) >= 2
        sync.close()


def test_a_wrong_beat_of_the_thread_hurts_no_other() -> None:
    """What cannot be packed has its error in its place; the others are answered."""
    server = RedisServer()
    try:
        sync = Connector(server.url, store_timeout=1.0).heart(KEYS.tag)
        good = script("return {'OK'}")
        wrong = ScriptCall(good.script, (), ("\udcff",), good.replies)
        answers = sync.run_many([good, wrong, script("return 5"), good])
        assert [type(a).__name__ for a in answers] == ["Ok", "InvalidIdError", "ScriptError", "Ok"]
        sync.close()
    finally:
        server.close()


# -- what was not sent -----------------------------------------------------------------------------------------------------


async def test_what_was_never_sent_goes_out_on_the_next_connection() -> None:
    """A server stands still under a backlog: what it was sent has an unknown outcome, all the rest is done, once each."""
    server = RedisServer()
    try:
        async with executing(server.url, timeout=0.4) as run:
            for _ in range(20):
                await run.commands([("SET", "warm", BIG)] * 10)  # the line has shown what it carries
            server.pause()
            asking = [asyncio.ensure_future(outcome(run, "RPUSH", "list", f"{n:03d}", BIG)) for n in range(60)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            server.resume()
            outcomes = await asyncio.gather(*asking)
            failed = [n for n, got in enumerate(outcomes) if isinstance(got, StoreUnavailableError)]
            assert failed, "something was on its way"
            assert all(outcomes[n].kind == "timeout" and outcomes[n].sent for n in failed)
            assert len(failed) < 10, "of what was on its way, most had not left this process"
            stored = [item.decode() for item in await run.command("LRANGE", "list", 0, -1) if len(item) == 3]
            assert sorted(set(stored)) == sorted(stored), "none was sent twice"
            assert {f"{n:03d}" for n in range(60) if n not in failed} <= set(stored)
            assert stored == sorted(stored), "in their order"
    finally:
        server.close()


async def test_without_a_connection_nothing_was_sent() -> None:
    """Nobody listens: every caller is told that its request never left."""
    server = RedisServer()
    server.kill()
    try:
        async with executing(server.url) as run:
            outcomes = await asyncio.gather(*(outcome(run, "SET", "a", n) for n in range(500)))
            assert all(isinstance(got, StoreUnavailableError) and got.sent is False for got in outcomes)
    finally:
        server.close()


async def test_a_cancelled_request_that_waited_is_not_sent(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """Behind a large one on a slow line: its caller goes away, and it never arrives."""
    line = SlowLine(redis_server.path)
    try:
        async with executing(line.url) as run:
            await run.command("PING")
            line.rate = 200_000
            large = [asyncio.ensure_future(outcome(run, "SET", f"large-{n}", BIG)) for n in range(3)]
            cancelled = asyncio.ensure_future(run.command("SET", "cancelled", "1"))
            last = asyncio.ensure_future(outcome(run, "SET", "last", "1"))
            await anyio.lowlevel.checkpoint()
            cancelled.cancel()
            assert await asyncio.gather(*large, last) == [b"OK"] * 4
            assert not redis_client.exists("cancelled")
    finally:
        line.close()
        redis_client.flushall()


async def test_an_event_loop_that_stood_still_is_no_time_out_of_the_store() -> None:
    """This process did something else for longer than the time limit: it has not watched the line meanwhile."""
    with talking(PAUSE, PAUSE, b"+late\r\n") as url:
        async with executing(url, timeout=0.6) as run:
            asking = asyncio.ensure_future(outcome(run, "ECHO", "1"))
            await eventually(lambda: (wire := inside.link_of(run).wire) is not None and inside.quiet_of(wire) > 0)
            stand_still(0.8)
            assert await asking == b"late"


async def test_the_end_of_an_old_connection_does_not_touch_the_new_one(url: str) -> None:
    """What the event loop tells of a connection that was given up comes late, and is not heard."""
    async with executing(url) as run:
        await run.command("PING")
        old = inside.link_of(run).wire
        assert isinstance(old, Wire)
        inside.link_of(run).close()
        assert await run.command("ECHO", "1") == b"1"
        old.connection_lost(ConnectionResetError())
        old.data_received(b"+stray\r\n")
        assert await run.command("ECHO", "2") == b"2"
