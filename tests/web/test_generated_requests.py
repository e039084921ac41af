"""Well-formed requests of every kind to a coordinator, which has no OpenAPI document: each has one answer, and it is the right one.

``GENERATED_EXAMPLES``: connections that are made; `make fuzz` makes thousands.
"""

from __future__ import annotations

import http.client
import os
import socket
import urllib.parse
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.acceptance.processes import Process
from tests.sidecar.conftest import Sidecar
from tests.web.programs import port_of, resident_mb

EXAMPLES = int(os.environ.get("GENERATED_EXAMPLES", "60"))
SECONDS = 20.0
GROWTH_MB = 40
MOST_BODY = 64 * 1024
OPEN, PAGE = ("/healthz", "/readyz", "/metrics"), "/"
TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PATH = "abcxyz019-._~!$&'()*+,;=:@"
ODD = ("/" + "a" * 4000, "/healthz/", "/./healthz", "/healthz%00", "/healthz%2F", "/%68ealthz", "/v1/sessions/a")
OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}
)
"""Headers that say how the request is sent; raw bytes try those."""

fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request."""

    method: str
    target: str
    host: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def text(self, *, last: bool) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers] + ["Connection: close"] * last
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body

    def expected(self, *, local: bool) -> set[int]:
        """The statuses that are right; an answer of the store's state, at `/readyz`, is not this request's doing."""
        path = urllib.parse.unquote(self.target.partition("?")[0], "latin-1")
        known = path in (*OPEN, PAGE)
        if any(name.lower() == "origin" for name, _ in self.headers):
            return {403}
        if sum(name.lower() == "authorization" for name, _ in self.headers) > 1 and path not in OPEN:
            return {400}
        if path not in OPEN and not local:
            return {401}
        if path not in OPEN and self.host.partition(":")[0].lower() not in ("localhost", "127.0.0.1"):
            return {421}
        if not known:
            return {404}
        if self.method not in ("GET", "HEAD"):
            return {405}
        return {200, 503} if path == "/readyz" else {200}


def quoted(text: str) -> st.SearchStrategy[str]:
    """As it is, or some of it in percent signs."""
    return st.lists(st.booleans(), min_size=len(text), max_size=len(text)).map(
        lambda flags: "".join(f"%{ord(c):02X}" if flag and c != "/" else c for c, flag in zip(text, flags, strict=True))
    )


paths = st.one_of(
    st.sampled_from((*OPEN, PAGE)),
    st.sampled_from(OPEN).flatmap(quoted),
    st.lists(st.text(PATH, max_size=8), max_size=5).map(lambda parts: "/" + "/".join(parts)),
    st.lists(st.integers(0, 255), max_size=20).map(lambda codes: "/" + "".join(f"%{code:02x}" for code in codes)),
    st.sampled_from(ODD),
)
targets = st.tuples(paths, st.one_of(st.just(""), st.text(PATH + "/?", max_size=30).map(lambda text: "?" + text))).map(
    "".join
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=200).map(
    str.strip
)
names = st.one_of(
    st.text(TOKEN, min_size=1, max_size=30),
    st.sampled_from(["Authorization", "Cookie", "Range", "X-Forwarded-For", "Accept-Encoding", "Origin", "Forwarded"]),
).filter(lambda name: name.lower() not in OF_THE_CONNECTION)
requests = st.builds(
    Sent,
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]),
    target=targets,
    host=st.sampled_from(["localhost", "127.0.0.1:9410", "LOCALHOST", "a.example", "127.0.0.1.a.example", "[::2]"]),
    headers=st.lists(st.tuples(names, values), max_size=12).map(tuple),
    body=st.one_of(st.just(b""), st.binary(max_size=500), st.just(b"x" * (MOST_BODY + 1))),
)


def answers(port: int, sent: list[Sent], source: str) -> list[int]:
    """The status of each, asked one after the other on one connection, which ends with the last or with what is too large."""
    found = []
    with socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0)) as connection:
        for n, one in enumerate(sent, 1):
            connection.sendall(one.text(last=n == len(sent)))
            answer = http.client.HTTPResponse(connection, method=one.method)
            answer.begin()
            answer.read()
            found.append(answer.status)
            if answer.will_close:
                break
    return found


@pytest.mark.timeout(1800)
def test_every_request_has_the_answer_that_is_right(daemon: Process) -> None:
    """By method, path, host and address, whatever else it says; nothing hangs, ends the program, or stays in its memory."""
    port = port_of(daemon.errors())
    answers(port, [Sent("GET", "/", "localhost", (), b"")], "127.0.0.1")
    before = resident_mb(daemon.pid)

    @fuzzed
    @example([Sent("GET", target, "localhost", (), b"") for target in ODD], True)
    @given(st.lists(requests, min_size=1, max_size=5), st.booleans())
    def ask(sent: list[Sent], local: bool) -> None:
        told = answers(port, sent, "127.0.0.1" if local else "127.0.0.2")
        for one, status in zip(sent, told, strict=False):
            assert status in one.expected(local=local), one

    ask()
    assert resident_mb(daemon.pid) - before < GROWTH_MB
    assert daemon.alive
    assert "Traceback" not in daemon.errors()


@pytest.mark.timeout(1800)
def test_nothing_but_the_token_drains(sidecar: Sidecar) -> None:
    """At the hook's port: no method, path or header gets another answer than that it is not let in."""

    @fuzzed
    @given(requests, values)
    def ask(sent: Sent, shown: str) -> None:
        headers = tuple(pair for pair in sent.headers if pair[0].lower() != "authorization")
        for target in ("/prestop", sent.target):
            one = Sent(sent.method, target, sent.host, (*headers, ("Authorization", f"Bearer {shown}")), sent.body)
            [status] = answers(sidecar.drain_port, [one], "127.0.0.1")
            assert status in (401, 403, 404, 405), one

    ask()
    assert sidecar.process.alive
    assert "draining" not in sidecar.log.read_text()
