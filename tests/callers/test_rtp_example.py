"""examples/python/rtp.py, and the RTP of examples/go, as processes: the far end hears one stream, of one sender at a time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import groupby, pairwise
from typing import Any

import pytest

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process, coordinator
from tests.callers.far_end import FarEnd, Packet
from tests.redis_server import RedisServer
from tests.sidecar.conftest import Sidecar
from tests.sidecar.examples import EXAMPLES, ExampleWorker, example
from tests.slow_line import SlowLine
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
MANY = 60
"""Packets: more than two checkpoints of one."""

Start = Callable[..., Process]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may stop."""
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    made = FarEnd()
    yield made
    made.close()


@pytest.fixture
def start(server: RedisServer) -> Iterator[Start]:
    """Starts the example beside a coordinator: its name, its calls, and the URL of its Redis, if it has one of its own."""
    with ExitStack() as ends:
        ends.enter_context(coordinator(server.url))

        def begin(name: str, *calls: str, url: str = server.url) -> Process:
            program = [sys.executable, str(EXAMPLES / "python" / "rtp.py"), name, *calls]
            made = Process(program=program, COORDINATOR_REDIS_URL=url)
            ends.callback(made.close)
            wait_until(lambda: record(server, KEYS.names).get(name.encode()), 20, f"{name} has joined")
            return made

        yield begin


def record(server: RedisServer, key: str) -> dict[bytes, bytes]:
    client: Any = server.client()
    found: dict[bytes, bytes] = client.hgetall(key)
    client.close()
    return found


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """It stands still."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


def steps(sequences: list[int]) -> set[int]:
    """How far each packet's number is from the one before, in the arithmetic of RTP."""
    return {(after - before) % 2**16 for before, after in pairwise(sequences)}


def goes_on(packets: list[Packet]) -> bool:
    """Whether no number is missing and none came twice, and the timestamps rise with them, a second at most at a time."""
    timestamps = [packet.timestamp for packet in packets]
    rise = all(0 < (after - before) % 2**32 < 8000 for before, after in pairwise(timestamps))
    return rise and steps([packet.sequence for packet in packets]) == {1}


def is_one_stream(far_end: FarEnd) -> None:
    """It went on at another sender after a crash: with numbers and a timestamp above all that were sent, and its marker set."""
    before, after = far_end.of(0), far_end.of(1)
    assert [port for port, _ in groupby(packet.port for packet in far_end.packets)] == far_end.senders
    assert {packet.ssrc for packet in far_end.packets} == {before[0].ssrc}
    assert 0 < (after[0].sequence - before[-1].sequence) % 2**16 < 3000  # RFC 3550 takes this for the same stream
    assert 0 < (after[0].timestamp - before[-1].timestamp) % 2**32 < 8000 * 20
    assert after[0].begins
    assert far_end.byes == []


def test_a_killed_sender(start: Start, far_end: FarEnd) -> None:
    """SIGKILL: the same stream goes on, from another port, with numbers and a timestamp above all that were sent; nobody says BYE."""
    first = start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: len(far_end.of(0)) > MANY)
    start("rtp-2")
    first.send(signal.SIGKILL)
    wait_until(lambda: len(far_end.of(1)) > MANY, 20, "its heir is heard")
    is_one_stream(far_end)


def test_a_drained_sender(start: Start, far_end: FarEnd, server: RedisServer) -> None:
    """SIGTERM: no number is missing and none comes twice, and the old sender is not heard after the new one."""
    first = start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: len(far_end.of(0)) > MANY)
    start("rtp-2")
    first.send(signal.SIGTERM)
    wait_until(lambda: len(far_end.of(1)) > MANY, 20, "its heir is heard")
    wait_until(lambda: not first.alive, 20)
    assert [port for port, _ in groupby(packet.port for packet in far_end.packets)] == far_end.senders
    assert goes_on(far_end.packets)
    assert far_end.byes == []
    assert record(server, KEYS.session("call"))[b"state"] == b"active"


def test_drained_calls_on_a_slow_line(start: Start, far_end: FarEnd, server: RedisServer) -> None:
    """The store is far, and checkpoints are under way when calls are let go: each stream goes on with the very next number."""
    line = SlowLine(server.path, delay=0.05)
    try:
        calls = [f"call-{n}=127.0.0.1:{far_end.port}" for n in range(12)]
        first = start("rtp-1", *calls, url=line.url)
        wait_until(lambda: len(far_end.packets) > len(calls) * MANY, 20)
        start("rtp-2")
        first.send(signal.SIGTERM)
        wait_until(lambda: not first.alive, 20)
        wait_until(lambda: len(far_end.senders) == 2 * len(calls), 20, "the heirs of all are heard")
    finally:
        line.close()
    streams = {
        ssrc: [one for one in far_end.packets if one.ssrc == ssrc] for ssrc in {one.ssrc for one in far_end.packets}
    }
    assert len(streams) == len(calls)
    assert [ssrc for ssrc, packets in streams.items() if not goes_on(packets)] == []


def test_a_frozen_sender(start: Start, far_end: FarEnd) -> None:
    """Its call is another's when it goes on: it says nothing more, no BYE either, and lives to take calls of others."""
    first = start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: len(far_end.of(0)) > MANY)
    second = start("rtp-2")
    with frozen(first):
        wait_until(lambda: far_end.of(1), 20, "its heir is heard")
        sent = len(far_end.of(0))
    wait_until(lambda: len(far_end.of(1)) > 2 * MANY)
    assert len(far_end.of(0)) == sent
    second.send(signal.SIGKILL)
    wait_until(lambda: len(far_end.of(2)) > MANY, 20, "the first one has it again")
    assert far_end.byes == []


def test_a_sender_without_its_store(start: Start, far_end: FarEnd, server: RedisServer) -> None:
    """Redis stands still for longer than it may trust itself: it speaks on, without a gap."""
    start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: len(far_end.of(0)) > MANY)
    server.pause()
    sent = len(far_end.of(0))
    wait_until(lambda: len(far_end.of(0)) > sent + 4 * MANY, 20, "it speaks on")
    server.resume()
    wait_until(lambda: len(far_end.of(0)) > sent + 6 * MANY, 20, "it speaks on")
    assert goes_on(far_end.packets)
    assert len(far_end.senders) == 1


def test_a_call_whose_far_end_hangs_up(start: Start, far_end: FarEnd, server: RedisServer) -> None:
    """It is closed, so that nobody is offered it, and the sender says BYE."""
    start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: far_end.of(0))
    far_end.hang_up()
    wait_until(lambda: record(server, KEYS.session("call")).get(b"state") == b"closed", 10, "it is closed")
    wait_until(lambda: far_end.byes == far_end.senders, 10, "it says BYE")


def test_a_stream_goes_from_python_to_go_and_back(start: Start, far_end: FarEnd, server: RedisServer) -> None:
    """SIGKILL of either: the other language goes on with the same stream, behind a sidecar or with the library."""
    first = start("rtp-1", f"call=127.0.0.1:{far_end.port}")
    wait_until(lambda: len(far_end.of(0)) > MANY)
    with closing(Sidecar(server)) as sidecar, example("go", sidecar.path, server.url, "go-1") as second:
        first.send(signal.SIGKILL)
        wait_until(lambda: len(far_end.of(1)) > 2 * MANY, 20, "its heir is heard")
        is_one_stream(far_end)
        start("rtp-2")
        heard = len(far_end.packets)
        second.send(signal.SIGKILL)
        wait_until(lambda: len(far_end.of(2)) > MANY, 20, "its heir is heard")
    after = far_end.packets[heard - 1 :]
    assert {packet.ssrc for packet in far_end.packets} == {after[0].ssrc}
    assert all(0 < step < 3000 for step in steps([packet.sequence for packet in after]))


def test_drained_senders_in_go(far_end: FarEnd, server: RedisServer) -> None:
    """SIGTERM of the sidecar: no number is missing and none comes twice, and the old sender is not heard after the new one."""
    with (
        closing(Sidecar(server, "--coordinate")) as one,
        closing(Sidecar(server)) as two,
        example("go", one.path, server.url, "go-1") as first,
        example("go", two.path, server.url, "go-2"),
    ):
        assert isinstance(first, ExampleWorker)
        stream = {"ssrc": 2**32 - 1, "sequence": 2**16 - 30, "timestamp": 2**32 - 100}  # each begins anew at its end
        assert first.ask("POST", "/calls/call", {"media": f"127.0.0.1:{far_end.port}", **stream})[0] == 201
        wait_until(lambda: len(far_end.of(0)) > MANY)
        one.process.send(signal.SIGTERM)
        wait_until(lambda: len(far_end.of(1)) > MANY, 20, "its heir is heard")
    assert [port for port, _ in groupby(packet.port for packet in far_end.packets)] == far_end.senders
    assert goes_on(far_end.packets)
    assert {packet.ssrc for packet in far_end.packets} == {2**32 - 1}
