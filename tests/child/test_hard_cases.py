"""What goes wrong between a worker and its children: large data, forks, no descriptors, an end in the middle of a word."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from coordinator import ChildSession, CoordinatorError, InvalidDataError, Worker, clock
from coordinator.child.frames import frame, parse
from coordinator.store import calls
from coordinator.worker.heart import Beating
from coordinator.worker.last_words import last_words
from coordinator.worker.roll_call import RollCall
from coordinator.worker.trust_window import TrustWindow
from tests.child.test_channel import parent, state_of
from tests.inside.children import heart_that_asks, lock_of
from tests.store.harness import Bench
from tests.waiting import eventually


class Line:
    """A child by hand: it says and hears frames."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self._buffer, self.frames = b"", list[dict[str, Any]]()
        self.ended = False

    def says(self, said: dict[str, Any]) -> None:
        self.sock.sendall(frame(said))

    def heard(self, what: str) -> list[dict[str, Any]]:
        while not self.ended:
            try:
                some = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            self.ended = not some
            *lines, self._buffer = (self._buffer + some).split(b"\n")
            self.frames += map(parse, lines)
        return [one for one in self.frames if one["is"] == what]


@asynccontextmanager
async def line(address: str, call: str = "call-1", *, joined: bool = True) -> AsyncIterator[Line]:
    one = Line(address)
    try:
        one.says({"do": "hello", "session": call, "wait": 1.0})
        if joined:
            await eventually(lambda: one.heard("owned") and one.heard("trust"))
        yield one
    finally:
        one.sock.close()


@pytest.mark.parametrize("size", [158_000, 326_000, 489_000])
async def test_large_data_leaves_room_for_what_ends_belief(url: str, size: int) -> None:
    """Data that fills the socket to the brim is read before the child is told how long it may believe."""
    async with parent(url, max_data_bytes=2**20) as (worker, address):
        session = await worker.open("call-1", b"x" * size)
        async with ChildSession(address, "call-1") as child:
            await eventually(lambda: child.held)
            await child.checkpoint(b"y" * size)
            assert session.recovery_data == b"y" * size


async def test_a_child_that_stands_still_as_it_joins(url: str) -> None:
    """A child that says nothing after its first word loses its call after wedged_after, whether it has read its data or not."""
    async with parent(url, wedged_after=1.0, max_data_bytes=2**21) as (worker, address):
        small, large = await worker.open("call-1"), await worker.open("call-2", b"x" * 2**21)
        async with line(address), line(address, "call-2", joined=False):
            await eventually(lambda: small.lost.is_set() and large.lost.is_set())
            again = await worker.open("call-3")
            assert again.held


async def test_a_fork_of_the_parent_says_nothing(url: str) -> None:
    """A process that the worker forks does not tell the worker's children that their call is lost."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1")
        async with line(address) as child:
            if not (pid := os.fork()):
                os._exit(0)
            await anyio.to_thread.run_sync(os.waitpid, pid, 0)
            assert all(one["until"] for one in child.heard("trust"))
            assert session.held


async def test_a_fork_of_a_child_can_ask(url: str) -> None:
    """A forked process asks whether the call is held although another thread read the channel at that moment; it is not."""
    async with parent(url) as (worker, address):
        await worker.open("call-1")
        async with ChildSession(address, "call-1") as child:
            await eventually(lambda: child.held)
            with lock_of(child):  # as a thread has it
                if not (pid := os.fork()):
                    os._exit(0 if not child.held and not child.may_speak and child.lost.is_set() else 1)
            _, status = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert child.held


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Inside this block the process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
    spare = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
        with pytest.raises(OSError, match="Too many"):
            while True:
                spare.append(os.dup(0))
        yield
    finally:
        for one in spare:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_no_descriptor_is_left(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that can take no further child for want of descriptors serves on, with the children that it has."""
    errors = ""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1")
        await worker.open("call-2")
        async with ChildSession(address, "call-1") as child:
            other = socket.socket(socket.AF_UNIX)
            with no_descriptors():
                other.connect(address)
                while "loop_failed" not in errors:
                    errors += "".join(capfd.readouterr())
                    await anyio.sleep(0.05)
            assert session.held
            await child.checkpoint(b"goes on")
            async with ChildSession(address, "call-2", wait=20):
                other.close()


@pytest.mark.parametrize("data", [{"number": 2**60}, {"text": "\ud800"}, {"deep": json.loads("[" * 70 + "]" * 70)}])
async def test_data_that_the_parent_would_refuse_is_refused_in_the_child(url: str, data: dict[str, Any]) -> None:
    """What no other reader would read as it was written is an error where it is staged, and nothing before it is lost."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1", {"turn": 1})
        async with ChildSession(address, "call-1") as child:
            child.stage({"turn": 2})
            with pytest.raises(InvalidDataError):
                child.stage(data)
            with pytest.raises(InvalidDataError):
                await child.checkpoint(data)
            await eventually(lambda: session.recovery_data == {"turn": 2})


async def test_a_close_that_is_cancelled_is_carried_out(url: str, redis_client: redis.Redis) -> None:
    """A child that is cancelled at the await of `close`, and leaves at once, has closed its call with the newest data."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1", b"x")
        child = await ChildSession(address, "call-1").__aenter__()
        child.stage(b"newest")
        closing = asyncio.ensure_future(child.close())
        await asyncio.sleep(0)
        closing.cancel()
        await child.leave()
        await session.ended.wait()
        assert await state_of(redis_client, "call-1") == "closed"


@pytest.mark.parametrize("ends", [True, False], ids=["close", "stage"])
async def test_what_a_child_said_before_it_ended_counts(url: str, redis_client: redis.Redis, ends: bool) -> None:
    """A child that stages or closes and is gone in the same moment: the data goes along, and a closed call is offered to nobody."""
    async with parent(url) as (worker, address):
        session = await worker.open("call-1", b"x")
        async with line(address) as child:
            child.sock.sendall(
                frame({"do": "stage", "data": "bmV3ZXN0", "encoding": "bytes"})
                + (frame({"do": "close", "n": 1}) if ends else b"")
            )
        await eventually(session.ended.is_set)
        record = Bench(redis_client).record("call-1")
        if ends:
            assert record["state"] == "closed"
        else:
            assert record["state"] in ("orphaned", "offered")
            assert record["data"] == "newest"


@pytest.mark.parametrize("fault", [b"nonsense\n", frame({"do": "checkpoint", "n": [], "data": 1}) + b"[]\n"])
async def test_belief_ends_before_a_broken_line_costs_the_call(
    url: str, redis_client: redis.Redis, fault: bytes
) -> None:
    """A child that lives but cannot be understood is told to stop before its call is given away."""
    async with parent(url, lost_connection_after=0, dead_after=60) as (worker, address):
        session = await worker.open("call-1")
        async with line(address) as child:
            redis_client.client_pause(60_000, all=False)
            child.sock.sendall(fault)
            await eventually(lambda: child.heard("lost") or child.ended)
            assert not session.ended.is_set()
            redis_client.client_unpause()
            await session.ended.wait()


async def test_a_child_that_ends_in_its_last_words(url: str) -> None:
    """A child that is gone while it says its last words keeps nobody waiting."""
    async with parent(url, lease=60.0) as (worker, address):
        session = await worker.open("call-1")
        async with anyio.create_task_group() as tasks:
            async with line(address) as child:
                await eventually(lambda: session.letting_go is not None)
                tasks.start_soon(last_words, session)
                await eventually(lambda: child.heard("letting_go"))
            with anyio.fail_after(20):
                await session.ended.wait()


async def test_the_channel_is_made_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who ask at once get one channel that can be reached, and one that could not be made is tried again."""
    async with Worker(url, name="a") as worker:
        with monkeypatch.context() as patch:
            patch.setattr("coordinator.worker.channel.anyio.create_unix_listener", _refuses)
            with pytest.raises(CoordinatorError, match="cannot be made"):
                await worker.channel()
        found = []

        async def ask() -> None:
            channel = await worker.channel()
            with socket.socket(socket.AF_UNIX) as child:
                child.connect(channel.address)
            found.append(channel)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        assert found[0] is found[1]
    with pytest.raises(CoordinatorError, match="has ended"):
        await worker.channel()


async def _refuses(*arguments: object, **more: object) -> None:
    raise OSError(28, "No space left on device")


def test_children_stop_before_a_standstill_is_certified() -> None:
    """The thread that beats has everybody stop who believes along, before it certifies that its event loop stood still."""
    order: list[str] = []

    class Executor:
        def run_many(self, asked: list[Any]) -> list[Any]:
            order.append(asked[0].script.name if hasattr(asked[0], "script") else "asked")
            return [calls.Wedged()] if len(order) == 1 else [calls.Ok()]

    pulse = TrustWindow(2.0, 1.0)
    beating = Beating(lambda: RollCall("a~1", pulse), lambda beat: None)
    beating.watch(lambda: order.append("told" if pulse.over else "early"))
    heart = heart_that_asks(Executor())
    heart.beat([beating])
    assert order[1] == "told"
    assert clock.now() >= beating.due - 60
