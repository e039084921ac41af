"""What the exit watcher's program knows by itself: how commands and answers are written, and how a process ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.worker.exit_program import (
    ExitWatch,
    Hurry,
    RefusedError,
    StoreServer,
    how_it_ended,
    packed,
    read_answer,
    run_id_of,
    start_of,
    text_of,
)


@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1))
def test_commands_are_written_as_the_other_client_writes_them(words: list[str | bytes]) -> None:
    """Any words: the same bytes as hiredis makes of them."""
    plain = [word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words]
    assert packed(words) == hiredis.pack_command(tuple(plain))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", b"-7"),
        (b"$-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
        (b"*3\r\n$2\r\nOK\r\n*0\r\n$-1\r\n", [b"OK", [], None]),
    ],
)
def test_an_answer_is_read(written: bytes, read: Any) -> None:
    """Each kind of answer that RESP 2 has, and no byte more."""
    file = io.BytesIO(written + b"+next\r\n")
    assert read_answer(file) == read
    assert read_answer(file) == b"next"


def test_a_refusal_is_an_error() -> None:
    """The text of the error is the server's."""
    with pytest.raises(RefusedError, match=r"MOVED 7 127\.0\.0\.1:7001"):
        read_answer(io.BytesIO(b"-MOVED 7 127.0.0.1:7001\r\n"))


@pytest.mark.parametrize("cut", [b"", b"+OK", b"+OK\r", b"$5\r\nab", b"*2\r\n+OK\r\n", b"?\r\n$x"])
def test_an_answer_that_is_cut_short_is_no_answer(cut: bytes) -> None:
    """A connection that ends in the middle of an answer has given none."""
    file = io.BytesIO(cut)
    with pytest.raises((OSError, ValueError)):
        while True:
            read_answer(file)


def test_the_run_id() -> None:
    """As INFO tells it; empty where it does not."""
    assert run_id_of(b"# StoreServer\r\nrun_id:abc\r\nos:x\r\n") == b"abc"
    assert run_id_of(b"# StoreServer\r\n") == run_id_of(None) == b""


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (3 << 8, "exit status 3"),
        (9, "killed by SIGKILL"),
        (11 | 0x80, "killed by SIGSEGV"),
        (63, "killed by signal 63"),
    ],
)
def test_a_wait_status_for_people(status: int, text: str) -> None:
    """A status, a signal, one with a core file, one without a name."""
    assert text_of(status) == text


@pytest.mark.parametrize("reaped", [False, True])
def test_how_a_process_ended_that_is_no_child(reaped: bool) -> None:
    """Of a zombie it is known from /proc, of one that is gone from its pidfd where the kernel tells; else only that it ended."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    pidfd = os.pidfd_open(child.pid)
    try:
        seen = start_of(child.pid)
        assert seen is not None
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if reaped:
            child.wait()
        known = {"killed by SIGKILL", *([f"process {child.pid} ended"] if reaped else [])}
        assert how_it_ended(child.pid, seen[0], pidfd) in known
        assert how_it_ended(child.pid, b"another start", pidfd) in {"killed by SIGKILL", f"process {child.pid} ended"}
    finally:
        child.wait()
        os.close(pidfd)


Serve = Callable[[Callable[[list[bytes]], bytes]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server on loopback that answers each command as a function says; returns its port."""
    with ExitStack() as stack:

        def begin(answer: Callable[[list[bytes]], bytes]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    threading.Thread(target=converse, args=(connection,), daemon=True).start()

            def converse(connection: socket.socket) -> None:
                reader = hiredis.Reader()
                with connection, contextlib.suppress(ConnectionAbortedError):
                    while data := connection.recv(65536):
                        reader.feed(data)
                        while (command := reader.gets()) is not False:
                            connection.sendall(answer(command))

            threading.Thread(target=run, daemon=True).start()
            return int(listener.getsockname()[1])

        yield begin


def server(port: int, *certificates: str) -> StoreServer:
    words = [{"words": ["EVAL", name, "0", "server", "why"], "server_at": 3, "reason_at": 4} for name in certificates]
    place = {"host": "127.0.0.1", "port": port, "path": "", "tls": None, "greeting": [["AUTH", "secret"]]}
    return StoreServer({**place, "certificates": words})


def test_certificates_carry_the_run_id_and_the_reason(serve: Serve) -> None:
    """It logs in first, and fills in what is known only now."""
    heard: list[list[bytes]] = []

    def answer(command: list[bytes]) -> bytes:
        heard.append(command)
        return b"$10\r\nrun_id:xyz\r\n" if command[0] == b"INFO" else b"*1\r\n$2\r\nOK\r\n"

    server(serve(answer), "one", "two").certify("killed by SIGKILL")
    assert heard[0] == [b"AUTH", b"secret"]
    assert [command[1:] for command in heard if command[0] == b"EVAL"] == [
        [name, b"0", b"xyz", b"killed by SIGKILL"] for name in (b"one", b"two")
    ]


def test_an_error_of_the_server_is_no_certificate(serve: Serve) -> None:
    """A server that loads is asked again, and what it has taken is not sent twice."""
    heard: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"EVAL":
            heard.append(command[1])
            if heard.count(b"two") == 1 and command[1] == b"two":
                return b"-LOADING Redis is loading the dataset in memory\r\n"
        return b"+OK\r\n"

    server(serve(answer), "one", "two").certify("it ended")
    assert heard == [b"one", b"two", b"two"]


def test_it_follows_a_slot_that_moved(serve: Serve) -> None:
    """A node of a Cluster that names another one is believed."""
    heard: list[bytes] = []

    def there(command: list[bytes]) -> bytes:
        heard.append(command[0])
        return b"+OK\r\n"

    port = serve(there)

    def here(command: list[bytes]) -> bytes:
        return b"-MOVED 12 127.0.0.1:%d\r\n" % port if command[0] == b"EVAL" else b"+OK\r\n"

    server(serve(here), "one").certify("it ended")
    assert heard.count(b"EVAL") == 1


def test_a_provider_that_forbids_all_but_the_certificate(serve: Serve) -> None:
    """CLIENT and INFO may be refused: the certificate goes without a run id."""
    heard: list[list[bytes]] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] in (b"CLIENT", b"INFO"):
            return b"-NOPERM\r\n"
        heard.append(command)
        return b"+OK\r\n"

    server(serve(answer), "one").certify("it ended")
    assert heard[-1] == [b"EVAL", b"one", b"0", b"", b"it ended"]


def test_a_refusal_is_answered_with_patience(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis in trouble is asked over the connection that is there, after pauses that grow; a success begins anew."""
    logins, pauses = [0], list[float]()
    answers = [b"-NOREPLICAS Not enough good replicas to write.\r\n"] * 6 + [b"+OK\r\n"]

    def answer(command: list[bytes]) -> bytes:
        logins[0] += command[0] == b"AUTH"
        return answers.pop(0) if command[0] == b"EVAL" else b"+OK\r\n"

    monkeypatch.setattr(time, "sleep", pauses.append)
    made = server(serve(answer), "one")
    made.certify("it ended")
    assert logins == [1]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 0.5
    assert made.failures == 0


def test_a_connection_that_opens_well_and_closes_again_is_no_success(serve: Serve) -> None:
    """Behind something that closes each connection it tries ever more seldom, as long as none has lived for some seconds."""

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"PING":
            raise ConnectionAbortedError
        return b"+OK\r\n"

    made, pauses = server(serve(answer), "one"), list[float]()
    for _ in range(5):
        made.again_at = 0.0
        made.keep()
        assert made.socket is not None
        made.keep(doubt=True)
        assert made.socket is None
        pauses.append(made.again_at - time.monotonic())
    assert pauses[-1] > 4 * pauses[0]


class Alarm:
    """What was set in the place of an alarm that would end the tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        monkeypatch.setattr(signal, "setitimer", lambda which, seconds: self.seconds.append(seconds))


def test_how_long_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute after the end of the worker; a second, if it was told to end with it or is told so afterwards."""
    alarm, hurry = Alarm(monkeypatch), Hurry()
    hurry.told()
    assert alarm.seconds == [], "the worker lives"
    hurry.worker_ended()
    assert alarm.seconds == [1.0]
    hurry = Hurry()
    hurry.told_at = time.monotonic() - 5
    hurry.worker_ended()
    hurry.told()
    assert alarm.seconds[1:] == [30.0, 1.0]


def ended_process() -> tuple[int, int]:
    """Process id and pidfd of one that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    return child.pid, pidfd


def test_without_another_process_it_tells_one_server_after_the_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no process can be forked, every server is told all the same."""
    heard: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"EVAL":
            heard.append(command[1])
        return b"+OK\r\n"

    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    Alarm(monkeypatch)
    pid, pidfd = ended_process()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = ExitWatch(pid, pidfd, theirs, Hurry())
        watch.servers = [server(serve(answer), name) for name in ("one", "two", "three")]
        watch.run()
    os.close(pidfd)
    assert sorted(heard) == [b"one", b"three", b"two"]


def test_a_good_bye_that_was_not_read_yet_counts(serve: Serve) -> None:
    """The worker said good-bye, and its process ended before this one had its turn: nothing is certified."""
    heard: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        heard.append(command[0])
        return b"+OK\r\n"

    pid, pidfd = ended_process()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = ExitWatch(pid, pidfd, theirs, Hurry())
        watch.servers = [server(serve(answer), "one")]
        ours.sendall(b'{"bye": true}\n')
        ours.close()
        watch.run()
    os.close(pidfd)
    assert heard == []


def test_what_it_cannot_reach_is_told_with_the_reason(serve: Serve) -> None:
    """The worker hears how many servers are reached, and why one is not."""
    refusing = serve(lambda command: b"-WRONGPASS invalid username-password pair\r\n")
    ours, theirs = socket.socketpair()
    pidfd = os.pidfd_open(os.getpid())
    with ours, theirs:
        watch = ExitWatch(os.getpid(), pidfd, theirs, Hurry())
        watch.servers = [server(serve(lambda command: b"+OK\r\n"), "one"), server(refusing, "two")]
        for one in watch.servers:
            one.keep()
        watch.say()
        told = json.loads(ours.recv(4096))
        for one in watch.servers:
            one.close()
    os.close(pidfd)
    assert told == {"connected": 1, "why": "WRONGPASS invalid username-password pair"}
