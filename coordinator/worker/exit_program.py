"""The exit watcher's program: a small process that sees the process of a worker end, and certifies that at once.

`coordinator.worker.exit_watcher` starts this file by its path. It uses a few modules of the standard library and none of this
package, so that it stays small. It knows no rule of the protocol: the worker says, over a socket, which words are to be sent to which
server when the worker's process has ended. It ends without a word when the worker says good-bye.

Each message is one line of JSON: ``{"servers": [{"host", "port", "path", "tls", "greeting", "certificates"}]}`` replaces what was said
before, ``{"bye": true}`` is the last. A certificate is ``{"words", "server_at", "reason_at"}``: a command, and the places in it of the
server's run id and of how the process ended. The answer to the first kind is ``{"connected": n, "why": text}``: how many servers are
reached, and why one is not; it comes again when that changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # as `typing` has it, which takes as much memory as the rest of this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, BinaryIO

__all__ = ["ExitWatch", "StoreServer", "how_it_ended", "main", "packed", "read_answer", "text_of"]

TRY_SECONDS = 1.0
"""Time for a connection, and for each answer."""
PING_SECONDS = 15.0
"""A connection is used so often: what stands between forgets connections that are idle."""
AGAIN_SECONDS = (0.02, 1.0)
"""Shortest and longest pause between two trials."""
STEADY_SECONDS = 5.0
"""A connection that lived so long is good: the next trial after it comes soon."""
TRIES = 3
"""Looks at how a process ended: it is a zombie until its parent has asked, and then the kernel tells it."""
PATIENCE_SECONDS = 30.0
"""Time for a store to take the certificate: by then the silence has told of the end."""
HURRY_SECONDS = 1.0
"""The same when this process is told to end as well, as by what stops a whole service and then starts it again."""
GOES_ON_SECONDS = 5.0
"""A process that let go of its socket, and lives on for so long, is another program by now."""
MOST_BYTES = 1 << 16

# _IOWR(0xFF, 11, struct pidfd_info) in its first form of 64 bytes; Linux 6.15 and newer tell the exit.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_AT = 60


class RefusedError(Exception):
    """The server answered with an error."""


def packed(words: Sequence[str | bytes]) -> bytes:
    """A command as the server reads it (RESP 2)."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def read_answer(file: BinaryIO) -> Any:
    """The next answer of a server (RESP 2): bytes, None, or a list of these.

    Raises:
        RefusedError: it is an error.
        OSError: the connection is over, or the answer did not come.
    """
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection is over")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RefusedError(rest.decode("utf-8", "replace"))
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else file.read(size + 2)[:-2]
    if kind == b"*":
        return [read_answer(file) for _ in range(int(rest))]
    return rest


def run_id_of(info: bytes | None) -> bytes:
    """The run id in the answer of INFO server, b'' without one."""
    for line in (info or b"").split(b"\r\n"):
        if line.startswith(b"run_id:"):
            return line[7:]
    return b""


def tls_context(told: dict[str, Any]) -> Any:
    """The context of a connection with TLS, as the worker's own connections have it."""
    import ssl  # here: it takes as much memory as all the rest

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(told["check_hostname"]) and told["cert_reqs"] != ssl.CERT_NONE
    context.verify_mode = ssl.VerifyMode(told["cert_reqs"])
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if told.get("certfile"):
        context.load_cert_chain(told["certfile"], told.get("keyfile"), told.get("password") or "")
    if told.get("ca_certs") or told.get("ca_path") or told.get("ca_data"):
        context.load_verify_locations(told.get("ca_certs"), told.get("ca_path"), told.get("ca_data"))
    elif context.verify_mode != ssl.CERT_NONE:
        context.load_default_certs()
    if told.get("min_version"):
        context.minimum_version = ssl.TLSVersion(told["min_version"])
    if told.get("ciphers"):
        context.set_ciphers(told["ciphers"])
    return context


class Hurry:
    """For how long this process may stay when the worker's has ended: less when it was told to end as well.

    While the worker lives nothing ends it. Afterwards an alarm does, whatever it waits for (alarm(2)).
    """

    def __init__(self) -> None:
        self.told_at = float("-inf")
        self.is_over = False

    def told(self, *_: object) -> None:
        """Takes a signal to end."""
        self.told_at = time.monotonic()
        if self.is_over:
            signal.setitimer(signal.ITIMER_REAL, HURRY_SECONDS)

    def worker_ended(self) -> None:
        """From now on this process stays for a limited time. A child that it forks says so again."""
        self.is_over = True
        told_with_it = time.monotonic() - self.told_at < HURRY_SECONDS
        signal.setitimer(signal.ITIMER_REAL, HURRY_SECONDS if told_with_it else PATIENCE_SECONDS)


class StoreServer:
    """One server, with a connection that waits, and what it is to be told at the end."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.certificates: list[dict[str, Any]] = told["certificates"]
        self.place: dict[str, Any] = {name: told[name] for name in ("host", "port", "path", "tls", "greeting")}
        self.socket: Any = None
        self.file: Any = None
        self.run_id = b""
        self.used = self.again_at = self.connected_at = 0.0
        self.failures = 0
        self.why = ""

    def connect(self) -> None:
        """Makes the connection and logs in.

        Raises:
            OSError, RefusedError, ValueError: it could not be made.
        """
        place = self.place
        if place["path"]:
            self.socket = made = socket.socket(socket.AF_UNIX)
            made.settimeout(TRY_SECONDS)
            made.connect(place["path"])
        else:
            made = socket.create_connection((place["host"], place["port"]), TRY_SECONDS)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket = made
        if place["tls"]:
            self.socket = made = tls_context(place["tls"]).wrap_socket(made, server_hostname=place["host"])
        self.file = made.makefile("rb")
        for words in place["greeting"]:
            self.ask(words)
        for words in (["CLIENT", "SETNAME", "recovery-exit-watcher"], ["INFO", "server"]):
            try:
                answer = self.ask(words)
            except RefusedError:  # a provider forbids them; then there is no run id to go by
                continue
            self.run_id = run_id_of(answer) if words[0] == "INFO" else self.run_id
        self.connected_at = time.monotonic()

    def ask(self, words: Sequence[str | bytes]) -> Any:
        """The answer to one command. Raises as `read_answer`."""
        self.socket.sendall(packed(words))
        self.used = time.monotonic()
        return read_answer(self.file)

    def close(self) -> None:
        """Closes the connection; the next one is made after a pause."""
        for made in (self.file, self.socket):
            if made is not None:
                with contextlib.suppress(OSError):
                    made.close()
        self.socket = self.file = None

    def failed(self, error: Exception, *, close: bool = True) -> float:
        """Notes an error, and returns the seconds to wait before the next trial."""
        self.why = str(error)[:200] or type(error).__name__
        if close:
            self.close()
        least, most = AGAIN_SECONDS
        pause: float = min(most, least * 2 ** min(self.failures, 10))
        self.failures += 1
        self.again_at = time.monotonic() + pause
        return pause

    def keep(self, doubt: bool = False) -> None:
        """Connects where there is no connection and it is time; uses one that was idle for long, or of which there is doubt."""
        now = time.monotonic()
        try:
            if self.socket is None and now >= self.again_at:
                self.connect()
            elif self.socket is not None and (doubt or now - self.used > PING_SECONDS):
                self.ask(["PING"])
            if self.socket is not None and now - self.connected_at > STEADY_SECONDS:
                self.failures = 0
        except (OSError, RefusedError, ValueError) as error:
            self.failed(error)

    def certify(self, how: str) -> None:
        """Has every certificate written; the alarm of `Hurry` ends it."""
        left = list(self.certificates)
        while left:
            try:
                if self.socket is None:
                    self.connect()
                self.ask(self.filled(left[0], how))
                del left[0]
                self.failures = 0
            except RefusedError as error:
                time.sleep(self.failed(error, close=self.follow(str(error))))
            except (OSError, ValueError) as error:
                time.sleep(self.failed(error))
        self.close()

    def filled(self, certificate: dict[str, Any], how: str) -> list[str | bytes]:
        """The words of a certificate, with what is known now."""
        words: list[str | bytes] = list(certificate["words"])
        words[certificate["server_at"]] = self.run_id
        words[certificate["reason_at"]] = how
        return words

    def follow(self, error: str) -> bool:
        """Goes by an error: to the server that a node of a Cluster names. Returns whether to connect anew."""
        kind, *rest = error.split() or [""]
        if kind == "MOVED" and len(rest) == 2:
            host, _, port = rest[1].rpartition(":")
            if port.isdigit():
                self.place["host"], self.place["port"] = host or self.place["host"], int(port)
        return kind in ("MOVED", "READONLY", "MASTERDOWN", "LOADING")


def start_of(pid: int) -> tuple[bytes, bytes, int] | None:
    """When a process began, its state, and its wait status once it is a zombie; None when it cannot be seen (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[19], fields[0], int(fields[49])


def text_of(status: int) -> str:
    """How a process ended, for people, by its wait status."""
    number = status & 0x7F
    if not number:
        return f"exit status {(status >> 8) & 0xFF}"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def how_it_ended(pid: int, began: bytes, pidfd: int) -> str:
    """How the worker's process ended, as far as the kernel tells one that is not its parent."""
    for _ in range(TRIES):
        asked = bytearray(64)
        asked[:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
        with contextlib.suppress(OSError):
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, asked)
            if int.from_bytes(asked[:8], sys.byteorder) & _PIDFD_INFO_EXIT:
                return text_of(int.from_bytes(asked[_EXIT_CODE_AT : _EXIT_CODE_AT + 4], sys.byteorder))
        seen = start_of(pid)  # a zombie, before its parent has asked for it
        if seen is None or seen[0] != began or seen[1] != b"Z":
            continue
        if seen[2]:  # 0 is also what one sees that may not look at that process
            return text_of(seen[2])
        time.sleep(0.001)
    return f"process {pid} ended"


class ExitWatch:
    """What the worker said, until its process ends."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket, hurry: Hurry) -> None:
        self.pid, self.pidfd, self.hurry = pid, pidfd, hurry
        self.control: socket.socket | None = control
        seen = start_of(pid)
        self.began = seen[0] if seen else b""
        self.servers: list[StoreServer] = []
        self.unread = b""
        self.connected = 0
        self.bye = False
        self.over_at = float("inf")

    def run(self) -> None:
        """Waits until the worker's process ends, and certifies that; or until the worker says good-bye."""
        while not self.bye and time.monotonic() < self.over_at:
            ready = self.wait()
            if self.pidfd in ready:
                self.hear_the_rest()
                if not self.bye:
                    self.certify()
                return
            if self.control is not None and self.control.fileno() in ready:
                self.listen(self.control)
            for server in self.servers:
                asked_nothing = server.socket is not None and server.socket.fileno() in ready  # so it closes
                server.keep(doubt=asked_nothing)
            self.say()

    def wait(self) -> set[int]:
        """The descriptors that have something to say, at the latest when a connection wants to be used."""
        sockets = [server.socket for server in self.servers if server.socket is not None]
        due = min(PING_SECONDS, self.over_at - time.monotonic())
        for server in self.servers:
            if server.socket is None:
                due = min(due, server.again_at - time.monotonic())
        heard = [self.pidfd, *([self.control] if self.control is not None else []), *sockets]
        ready, _, _ = select.select(heard, [], [], max(0.0, due))
        return {one if isinstance(one, int) else one.fileno() for one in ready}

    def hear_the_rest(self) -> None:
        """Takes what the worker had said before its process ended."""
        if self.control is not None:
            self.control.setblocking(False)
        while self.control is not None and not self.bye:
            self.listen(self.control)

    def listen(self, control: socket.socket) -> None:
        """Takes what the worker says."""
        try:
            data = control.recv(MOST_BYTES)
        except OSError:
            data = b""
        if not data:  # its process ends in this moment, or became another program
            control.close()
            self.control = None
            self.over_at = time.monotonic() + GOES_ON_SECONDS
            return
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.bye = self.bye or "bye" in said
            if "servers" in said:
                self.take(said["servers"])
                self.connected = -1

    def take(self, told: list[dict[str, Any]]) -> None:
        """Takes new orders; a connection to a server that is named again stays."""
        before, self.servers = self.servers, []
        for one in told:
            server = StoreServer(one)
            for known in before:
                if known.place == server.place:
                    known.certificates = server.certificates
                    before.remove(known)
                    server = known
                    break
            self.servers.append(server)
        for server in before:
            server.close()

    def say(self) -> None:
        """Tells the worker how many servers are reached, when that has changed."""
        connected = sum(server.socket is not None for server in self.servers)
        if connected != self.connected and self.control is not None:
            self.connected = connected
            why = next((server.why for server in self.servers if server.socket is None), "")
            with contextlib.suppress(OSError):  # the worker is ending
                self.control.sendall(json.dumps({"connected": connected, "why": why}).encode() + b"\n")

    def certify(self) -> None:
        """States the end at every server at the same time, so that none waits for another."""
        self.hurry.worker_ended()
        how, here = how_it_ended(self.pid, self.began, self.pidfd), self.servers[:1]
        for server in self.servers[1:]:
            try:
                child = os.fork()
            except OSError:  # no more processes: then one after the other
                here.append(server)
                continue
            if not child:
                self.hurry.worker_ended()
                server.certify(how)
                return
        for server in here:
            server.certify(how)


def main(pid: int, pidfd: int, control: int) -> None:
    """Watches, in a process that is no child of the worker: a program that waits for all its children does not wait for it."""
    if os.fork():
        os._exit(0)
    hurry = Hurry()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, hurry.told)  # what ends a whole service is for the worker, too, which says good-bye
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:  # what `top` shows
        file.write("exit-watcher")
    ExitWatch(pid, pidfd, socket.socket(fileno=control), hurry).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
