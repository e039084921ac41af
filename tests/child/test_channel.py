"""Children of a worker, each a process that serves one call over the worker's channel."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from coordinator import ChildSession, FencedError, Offer, Session, SessionGoneError, Worker, clock
from coordinator.child.frames import frame
from coordinator.worker.owned_sessions import OwnedSessions
from tests.acceptance.processes import Process
from tests.coordinating import coordinating
from tests.store.harness import Bench
from tests.waiting import eventually

PROGRAM = "tests.child.child_process"

Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts children, which end with the test."""
    with ExitStack() as ends:

        def begin(address: str, call: str, *more: str, **environment: str) -> Process:
            process = Process(PROGRAM, address, call, *more, **environment)
            ends.callback(process.close)
            return process

        yield begin


async def heard(process: Process, what: str, count: int = 1) -> dict[str, Any]:
    """The last of so many lines of a kind."""
    await eventually(lambda: len(process.told(what)) >= count, 20, f"{what}: {process.lines} {process.errors()}")
    return process.told(what)[count - 1]


async def asks(process: Process, line: str) -> dict[str, Any]:
    """Has a child do something, and returns what came of it."""
    before = len(process.told("done")) + len(process.told("failed"))
    process.write(line + "\n")
    await eventually(lambda: len(process.told("done")) + len(process.told("failed")) > before, 20, process.errors())
    return next(one for one in reversed(process.lines) if one["what"] in ("done", "failed"))


@asynccontextmanager
async def parent(url: str, **settings: Any) -> AsyncIterator[tuple[Worker, str]]:
    """A worker with its channel."""
    async with Worker(url, name="a", **settings) as worker:
        yield worker, (await worker.channel()).address


async def state_of(client: redis.Redis, call: str) -> str:
    return str(Bench(client).record(call).get("state", ""))


async def test_a_child_writes_stages_and_closes(url: str, redis_client: redis.Redis, start: Start) -> None:
    """What a child writes and stages is stored as its parent's, and its close ends the call."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1", {"turn": 0})
        child = start(address, "call-1")
        joined = await heard(child, "joined")
        assert joined["epoch"] == session.epoch
        assert joined["data"] == "{'turn': 0}"
        assert (await asks(child, 'checkpoint {"turn": 1}'))["what"] == "done"
        assert session.recovery_data == {"turn": 1}
        await asks(child, 'stage {"turn": 2}')
        await eventually(lambda: Bench(redis_client).record("call-1")["data"] == '{"turn":2}')
        assert (await asks(child, "resumed"))["what"] == "done"
        child.write("say\n")
        said = await heard(child, "said")
        assert said["held"]
        assert said["may_speak"]
        assert (await asks(child, "close"))["what"] == "done"
        assert not worker.sessions
        assert await state_of(redis_client, "call-1") == "closed"
        child.write("leave\n")
        await heard(child, "left")
        assert not child.told("lost")


@pytest.mark.parametrize("how", ["kill", "raise", "release"])
async def test_the_end_of_a_child_offers_its_call_alone(
    url: str, redis_client: redis.Redis, start: Start, how: str
) -> None:
    """A child that is killed, fails or gives up: its call is an orphan that names it, and no other call is touched."""
    async with parent(url) as (worker, address):
        other = await worker.open("call-2")
        session = await worker.open("call-1", b"data")
        child = start(address, "call-1")
        await heard(child, "joined")
        if how == "kill":
            os.kill(child.pid, signal.SIGKILL)
        else:
            child.write("raise\n" if how == "raise" else "release no codec\n")
        await eventually(session.lost.is_set)
        await eventually(lambda: [one.id for one in worker.sessions] == ["call-2"])
        assert other.held
        record = Bench(redis_client).record("call-1")
        assert record["state"] in ("orphaned", "offered")
        expected = {
            "kill": f"process {child.pid}, which served it, ended",
            "raise": "RuntimeError",
            "release": "no codec",
        }
        assert expected[how] in str(record)
        assert record["data"] == "data"


async def test_a_child_that_stands_still_loses_its_call(url: str, start: Start) -> None:
    """A frozen child says no more that it lives: its call goes to others after wedged_after, with its process in the reason."""
    async with parent(url, wedged_after=1.0) as (worker, address):
        session = await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        await eventually(lambda: session.signs)
        os.kill(child.pid, signal.SIGSTOP)
        await eventually(session.lost.is_set)
        os.kill(child.pid, signal.SIGCONT)
        assert not (await heard(child, "lost"))["held"]
        assert session.speaker == f"process {child.pid}"


async def test_belief_ends_before_the_right_does(url: str, redis_client: redis.Redis, start: Start) -> None:
    """A child that asks all the time whether the call is held stops before the write that gives it away is carried out."""
    async with (
        parent(url, lost_connection_after=0, dead_after=60) as (worker, address),
        anyio.create_task_group() as tasks,
    ):
        session = await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        await eventually(lambda: session.signs)
        child.write("watch\n")
        redis_client.client_pause(60_000, all=False)
        tasks.start_soon(session.release, "for others")
        await heard(child, "unheld")  # long before its trust is over
        assert not session.ended.is_set()
        assert (await heard(child, "lost"))["reason"]
        redis_client.client_unpause()
        await session.ended.wait()


@pytest.mark.parametrize("how", ["release", "close"])
async def test_belief_is_over_as_the_write_begins(url: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """At the moment at which the write that ends the ownership begins, the child that asks is told that it is not held."""
    believed: list[bool] = []
    write = OwnedSessions.write
    async with parent(url) as (worker, address):
        session = await worker.open("call-1")
        async with ChildSession(address, "call-1") as child:
            await eventually(lambda: child.held)

            async def asked(self: OwnedSessions, *arguments: Any) -> Any:
                believed.append(child.held)
                return await write(self, *arguments)

            monkeypatch.setattr(OwnedSessions, "write", asked)
            await getattr(session, how)()
            assert believed[0] is False


async def test_a_child_stops_when_its_parent_is_killed(url: str, start: Start) -> None:
    """The parent's end ends what the child believes, long before the parent's trust runs out."""
    program = Process("tests.child.parent_process", url)
    try:
        ready = await heard(program, "ready")
        child = start(ready["address"], "call-1")
        await heard(child, "joined")
        child.write("watch\n")
        os.kill(program.pid, signal.SIGKILL)
        killed = clock.now()
        assert (await heard(child, "unheld"))["at"] - killed < 0.75
        assert (await heard(child, "lost"))["reason"] == "its worker ended, or let go of this process"
    finally:
        program.close()


async def test_a_child_is_in_doubt_while_its_parent_stands_still(url: str, start: Start) -> None:
    """A frozen parent cannot say that the call is held: the child believes it no longer, and does so again afterwards."""
    program = Process("tests.child.parent_process", url)
    try:
        ready = await heard(program, "ready")
        child = start(ready["address"], "call-1")
        await heard(child, "joined")
        os.kill(program.pid, signal.SIGSTOP)
        child.write("watch\n")
        await heard(child, "unheld")
        os.kill(program.pid, signal.SIGCONT)
        asked = 0

        async def held() -> bool:
            nonlocal asked
            asked += 1
            child.write("say\n")
            return bool((await heard(child, "said", asked))["held"])

        await eventually(held)
        assert not child.told("lost")
    finally:
        program.close()


async def test_the_heir_gets_a_childs_last_words(url: str, start: Start) -> None:
    """A planned handover: the child is asked for its last checkpoint, which the heir gets, and then told that it lost the call."""
    async with parent(url) as (worker, address), Worker(url, name="b") as heir, coordinating(url):
        await worker.open("call-1", b"old")
        child = start(address, "call-1")
        await heard(child, "joined")
        await asks(child, 'last-words {"last": "words"}')
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.drain)
            async for offer in heir.offers():
                session = await offer.adopt()
                break
        assert session is not None
        assert session.recovery_data == {"last": "words"}
        assert (await heard(child, "lost"))["reason"].startswith("handed over")


async def test_a_busy_child_is_not_cut(url: str, start: Start) -> None:
    """While a child is busy its call is not let go, however long an heir waits."""
    async with parent(url) as (worker, address), Worker(url, name="b") as heir, coordinating(url):
        session = await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        child.write("busy\n")
        await heard(child, "busy")
        await eventually(lambda: session.is_busy)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.drain)
            async for offer in heir.offers():
                tasks.start_soon(offer.adopt)
                await eventually(lambda: session.asked_at > 0)
                assert session.held
                child.write("\n")
                break
            await eventually(lambda: heir.sessions)


async def test_a_child_prepares_for_an_offer(url: str, start: Start) -> None:
    """`serve` with a child: it joins for the offer, prepares, and owns the call once the worker does; its end undoes nothing."""
    children: list[Process] = []
    served: list[Session] = []
    async with parent(url) as (worker, address), coordinating(url):
        channel = await worker.channel()

        @asynccontextmanager
        async def prepare(offer: Offer) -> AsyncIterator[None]:
            with channel.expects(offer) as coming:
                child = start(address, offer.session_id, PREPARES="1")
                children.append(child)
                await heard(child, "joined")
                assert not worker.sessions
                child.write("\n")
                await coming.prepared()
                yield

        async def handler(session: Session) -> None:
            served.append(session)
            await anyio.sleep_forever()

        async with Worker(url, name="b", drain_timeout=1) as first:
            await (await first.open("call-1", {"turn": 7})).release("for others")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: worker.serve(handler, prepare=prepare))
                await eventually(lambda: served)
                owned = await heard(children[0], "owned")
                assert owned["epoch"] == served[0].epoch
                assert owned["data"] == "{'turn': 7}"
                await asks(children[0], 'checkpoint {"turn": 8}')
                assert served[0].recovery_data == {"turn": 8}
                tasks.cancel_scope.cancel()


async def test_a_child_that_ends_while_it_prepares(url: str, redis_client: redis.Redis, start: Start) -> None:
    """The offer of a child that dies before it is prepared goes to others as an attempt that failed."""
    async with parent(url) as (worker, address), coordinating(url):
        channel = await worker.channel()

        @asynccontextmanager
        async def prepare(offer: Offer) -> AsyncIterator[None]:
            with channel.expects(offer) as coming:
                child = start(address, offer.session_id, PREPARES="1")
                await heard(child, "joined")
                os.kill(child.pid, signal.SIGKILL)
                await coming.prepared()
                yield

        async with Worker(url, name="b", drain_timeout=1) as first, anyio.create_task_group() as tasks:
            await (await first.open("call-1", b"x")).release("for others")
            tasks.start_soon(lambda: worker.serve(anyio.sleep_forever, prepare=prepare))  # type: ignore[arg-type]
            await eventually(lambda: "SessionGoneError" in str(Bench(redis_client).record("call-1")))
            assert not worker.sessions
            tasks.cancel_scope.cancel()


async def test_two_children_for_one_call(url: str, start: Start) -> None:
    """A second child is refused while the first serves the call, and one that waits has it when the first is gone."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1")
        first = start(address, "call-1")
        await heard(first, "joined")
        assert (await heard(start(address, "call-1", "0"), "refused"))["error"] == "SessionHeldError"
        await asks(first, "close")
        assert session.ended.is_set()
        waiting = start(address, "call-1", "20")
        await heard(waiting, "started")
        await worker.open("call-1", b"anew")
        assert (await heard(waiting, "joined"))["data"] == "b'anew'"


async def test_a_call_that_is_not_here(url: str, start: Start) -> None:
    """A child for a call that its parent does not own is refused with one sentence, and so is one without a parent."""
    async with parent(url) as (_, address):
        refused = await heard(start(address, "call-9", "0.1"), "refused")
        assert refused == {
            "what": "refused",
            "error": "SessionGoneError",
            "text": "session 'call-9' is gone: its worker does not own it",
        }
    refused = await heard(start(address, "call-9", "0.1"), "refused")
    assert refused["error"] == "SessionGoneError"
    assert "cannot be reached" in refused["text"]


async def test_a_fork_of_a_child_keeps_nothing(url: str, start: Start) -> None:
    """A process that a child forked does not hide the child's end."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        child.write("fork\n")
        forked = (await heard(child, "forked"))["pid"]
        try:
            os.kill(child.pid, signal.SIGKILL)
            await eventually(session.lost.is_set)
        finally:
            os.kill(forked, signal.SIGKILL)


async def test_the_store_is_away(url: str, redis_client: redis.Redis, start: Start) -> None:
    """While Redis stands still a child's write fails as its parent's does, it may speak, and it is held again afterwards."""
    async with parent(url) as (worker, address):
        await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        redis_client.client_pause(6_000)
        failed = await asks(child, 'checkpoint {"turn": 1}')
        assert failed["error"] == "StoreUnavailableError"
        child.write("say\n")
        said = await heard(child, "said")
        assert not said["held"]
        assert said["may_speak"]
        assert (await asks(child, 'checkpoint {"turn": 2}'))["what"] == "done"
        assert not child.told("lost")


async def test_data_that_cannot_be_stored(url: str, start: Start) -> None:
    """Too much data is refused in the child, which serves on."""
    async with parent(url, max_data_bytes=1024) as (worker, address):
        await worker.open("call-1")
        child = start(address, "call-1")
        await heard(child, "joined")
        refused = await asks(child, 'checkpoint {"text": "' + "x" * 2000 + '"}')
        assert refused["error"] == "DataTooLargeError"
        assert (await asks(child, 'checkpoint {"turn": 1}'))["what"] == "done"


def modes(address: str) -> list[int]:
    """The rights of the socket's directory and of the socket, as far as they exist."""
    where = Path(address)
    return [stat.S_IMODE(one.stat().st_mode) for one in (where.parent, where) if one.exists()]


async def test_leaving_the_worker_tells_its_children(url: str, redis_client: redis.Redis, start: Start) -> None:
    """A worker that is left offers its calls; its children hear of it, and the socket is gone."""
    async with parent(url, drain_timeout=1) as (worker, address):
        await worker.open("call-1", b"data")
        child = start(address, "call-1")
        await heard(child, "joined")
    assert (await heard(child, "lost"))["reason"]
    assert modes(address) == []
    assert Bench(redis_client).record("call-1")["state"] in ("orphaned", "offered")


async def test_the_socket_is_the_users_alone(url: str) -> None:
    """Nobody else can reach the socket: neither its directory nor itself is open to others."""
    async with parent(url) as (_, address):
        assert modes(address) == [0o700, 0o600]


@pytest.mark.parametrize(
    "said",
    [
        b"{}\n",
        b"nonsense\n",
        b"[1]\n",
        frame({"do": "close"}),
        frame({"do": "hello", "session": 7}),
        b"\xff" * 300_000,
        b"",
    ],
)
async def test_what_is_no_child_disturbs_nobody(url: str, start: Start, said: bytes) -> None:
    """Whoever says something else on the socket is let go of, and the next child is served."""
    async with parent(url) as (worker, address):
        await worker.open("call-1")
        with socket.socket(socket.AF_UNIX) as other:
            other.setblocking(False)
            other.connect(address)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("coordinator.worker.channel.HELLO_SECONDS", 0.2)
                try:
                    other.setblocking(True)
                    await anyio.to_thread.run_sync(other.sendall, said)
                except OSError:
                    pass
                gone = b"x"
                while gone:
                    try:
                        gone = await anyio.to_thread.run_sync(other.recv, 65536)
                    except ConnectionResetError:
                        gone = b""
        child = start(address, "call-1")
        await heard(child, "joined")
        assert (await asks(child, 'checkpoint {"turn": 1}'))["what"] == "done"


async def test_a_task_of_the_parent_can_be_a_child_too(url: str) -> None:
    """Parent and child may be one process: the handle works on the parent's own event loop."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1", {"turn": 0})
        async with ChildSession(address, "call-1") as child:
            await child.checkpoint({"turn": 1})
            await eventually(lambda: child.held)
            assert session.recovery_data == {"turn": 1}
            await session.close()
            await eventually(child.lost.is_set)
            with pytest.raises(FencedError):
                await child.checkpoint({"turn": 2})
        with pytest.raises(SessionGoneError):
            async with ChildSession(address, "call-1", wait=0.05):
                pass


async def test_a_renewed_call_has_its_new_epoch_in_the_child(url: str, redis_client: redis.Redis) -> None:
    """After lost writes the child has the call's new epoch, and writes on."""
    async with coordinating(url), parent(url) as (worker, address):
        session = await worker.open("call-1", b"x")
        async with ChildSession(address, "call-1") as child:
            before = child.epoch
            redis_client.flushall()
            await eventually(lambda: session.epoch > before and session.held, 20)
            await eventually(lambda: child.held and child.epoch == session.epoch, 20)
            await child.checkpoint(b"y")
