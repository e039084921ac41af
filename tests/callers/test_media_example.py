"""examples/python/media.py, as processes behind a door: callers who come back hear on, and nobody hangs up on them."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from websockets.exceptions import InvalidMessage
from websockets.sync.client import connect

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process, coordinator
from tests.callers.comes_back import Caller
from tests.redis_server import RedisServer
from tests.sidecar.examples import EXAMPLES
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
STEP = 10
"""Frames between two marks."""
SECOND = 50
"""In frames: so far are checkpoints apart."""
MOVED = 1012

Start = Callable[[str], tuple[Process, str]]
Call = Callable[[list[str]], Caller]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may stop."""
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture
def start(server: RedisServer) -> Iterator[Start]:
    """Starts the example beside a coordinator; returns it with its URL."""
    with ExitStack() as ends:
        ends.enter_context(coordinator(server.url))

        def begin(name: str) -> tuple[Process, str]:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            program = [sys.executable, str(EXAMPLES / "python" / "media.py"), name, str(port)]
            made = Process(program=program, COORDINATOR_REDIS_URL=server.url, COORDINATOR_DRAIN_TIMEOUT="3s")
            ends.callback(made.close)
            url = f"ws://127.0.0.1:{port}"
            wait_until(lambda: answers(url), 20, f"{name} listens")
            return made, url

        yield begin


@pytest.fixture
def call(start: Start) -> Iterator[Call]:
    """A caller, who tries these doors one after the other, again and again; it is gone before the servers end."""
    with ExitStack() as ends:

        def begin(doors: list[str]) -> Caller:
            made = Caller("CA1", doors)
            ends.callback(made.close)
            return made

        yield begin


def answers(url: str) -> bool:
    with suppress(OSError, InvalidMessage), connect(url, open_timeout=5):
        return True
    return False


def state(server: RedisServer) -> bytes | None:
    """Of the call's record."""
    client: Any = server.client()
    found: bytes | None = client.hget(KEYS.session("CA1"), "state")
    client.close()
    return found


def marks(caller: Caller, stream: int) -> list[int]:
    """Of a stream of which something was heard; none of one that is not there yet."""
    return caller.heard[stream].marks if len(caller.heard) > stream else []


def test_a_killed_server(start: Start, call: Call, server: RedisServer) -> None:
    """SIGKILL: the caller comes to the other server, which goes on where the caller was, or a second before."""
    (first, one), (_, two) = start("media-1"), start("media-2")
    caller = call([one, two])
    wait_until(lambda: len(marks(caller, 0)) > 2 * SECOND // STEP)
    first.send(signal.SIGKILL)
    wait_until(lambda: len(marks(caller, 1)) > 2, 20, "the caller hears again")
    before, after = marks(caller, 0)[-1], marks(caller, 1)[0]
    assert before - SECOND - STEP < after <= before + STEP
    assert [stream.door for stream in caller.heard] == [one, two]
    assert state(server) == b"active"


def test_a_drained_server(start: Start, call: Call, server: RedisServer) -> None:
    """SIGTERM: the caller is sent on, and hears on at the other server, where it was; the old one ends."""
    (first, one), (_, two) = start("media-1"), start("media-2")
    caller = call([one, two])
    wait_until(lambda: len(marks(caller, 0)) > SECOND // STEP and marks(caller, 0)[-1] % SECOND == 2 * STEP)
    first.send(signal.SIGTERM)
    wait_until(lambda: len(marks(caller, 1)) > 2, 20, "the caller hears on")
    wait_until(lambda: not first.alive, 20)
    assert first.exit_status == 0
    assert caller.heard[0].code == MOVED
    assert marks(caller, 1)[0] - marks(caller, 0)[-1] in (
        0,
        STEP,
    )  # what the caller said of the last one may come too late
    assert state(server) == b"active"


def test_a_server_that_drains_alone(start: Start, call: Call, server: RedisServer) -> None:
    """No other server takes the call: it is served to the end of the drain, is not closed then, and goes on at the next server."""
    first, one = start("media-1")
    doors = [one]
    caller = call(doors)
    wait_until(lambda: len(marks(caller, 0)) > 2)
    first.send(signal.SIGTERM)
    wait_until(lambda: len(marks(caller, 1)) > 2, 20, "the caller is back, and served")
    wait_until(lambda: not first.alive, 20)
    assert state(server) == b"offered"
    assert len(caller.heard) == 2
    doors.append(start("media-2")[1])
    wait_until(lambda: len(marks(caller, 2)) > 2, 20, "the caller hears on")
    assert marks(caller, 1)[0] - marks(caller, 0)[-1] in (0, STEP)
    assert marks(caller, 2)[0] - marks(caller, 1)[-1] in (0, STEP)


def test_a_frozen_server(start: Start, call: Call, server: RedisServer) -> None:
    """The caller connects elsewhere: when the server goes on it sends nothing more, closes its connection, and ends no call."""
    (first, one), (_, two) = start("media-1"), start("media-2")
    caller = call([one, two])
    wait_until(lambda: len(marks(caller, 0)) > 2)
    first.send(signal.SIGSTOP)
    old = caller.heard[0]
    caller.connect()  # at the frozen one in vain
    wait_until(lambda: len(marks(caller, 1)) > 2, 20, "the caller hears on")
    frames, new = old.frames, caller.heard[1]
    first.send(signal.SIGCONT)
    wait_until(lambda: old.code is not None, 20, "it closes the connection")
    assert (old.code, old.frames) == (MOVED, frames)
    heard = new.frames
    wait_until(lambda: new.frames > heard + STEP)
    assert state(server) == b"active"


def test_a_server_without_its_store(start: Start, call: Call, server: RedisServer) -> None:
    """Redis stands still for longer than it may trust itself: it speaks on."""
    _, one = start("media-1")
    caller = call([one])
    wait_until(lambda: len(marks(caller, 0)) > 2)
    server.pause()
    heard = caller.heard[0].frames
    wait_until(lambda: caller.heard[0].frames > heard + 20 * STEP, 20, "it speaks on")
    server.resume()
    wait_until(lambda: caller.heard[0].frames > heard + 30 * STEP, 20, "it speaks on")
    assert [stream.code for stream in caller.streams] == [None]


def test_a_caller_who_connects_twice(start: Start, call: Call) -> None:
    """The newest connection has the call, and the one before is closed."""
    _, one = start("media-1")
    caller = call([one])
    wait_until(lambda: len(marks(caller, 0)) > 2)
    call([one])
    wait_until(lambda: caller.heard[0].code is not None, 20, "the older one is closed")


def test_a_caller_who_hangs_up(start: Start, call: Call, server: RedisServer) -> None:
    """The call is closed, so that nobody waits for it."""
    _, one = start("media-1")
    caller = call([one])
    wait_until(lambda: marks(caller, 0))
    caller.hang_up()
    wait_until(lambda: state(server) == b"closed", 10, "it is closed")
