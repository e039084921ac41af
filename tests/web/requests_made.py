"""Requests as nobody should send them, from a seed: the same seed makes the same ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Sent", "made"]

METHODS = [
    "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PATCH", "get", "G E T", "", "PRI",
    "\x00",
]  # fmt: skip
PATHS = [
    "/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/workers", "/v1/workers/x~1/alive", "/v1/watched",
    "/v1/watched/line",
    "/v1/workers/x~1/events", "/v1/workers/x~1/sessions", "/v1/sessions/a", "/v1/sessions/a/owner",
    "/v1/sessions/a/checkpoint", "/v1/sessions/a/adopt", "/v1/sessions/%00", "/v1/sessions/%ff%fe",
    "/v1/sessions/" + "y" * 300, "/v1/offers?wait=1ms", "/v1/offers?max=x", "/v1/certificates", "/healthz/", "//",
    "/../..", "*", "http://other/healthz", "host:80", "?", "", "/%", "/\u00e9", "/" + "a/" * 3000,
]  # fmt: skip
VERSIONS = [
    "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", "", "HTTP/1.1 x", "HTTP/1.10",
]  # fmt: skip
HEADERS = [
    "Host: 127.0.0.1", "Host: [", "Host: a@b:c/d", "Host:", "Connection: close", "Connection: keep-alive, upgrade",
    "Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Expect: 100-continue",
    "Expect: nonsense", "Content-Length: 0", "Content-Length: 5", "Content-Length: 5, 5", "Content-Length: 5, 6",
    "Content-Length: -1", "Content-Length: 0x5", "Content-Length: 99999999999999", "Content-Length: 1e3",
    "Content-Length:", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
    "Transfer-Encoding : chunked", "transfer-encoding: CHUNKED", "Content-Type: application/json",
    "Accept: text/event-stream", 'If-Match: "1"', "If-Match: *", "Worker-Token: x", "Worker-Token: \u00ff",
    "Authorization: Bearer x", "Authorization: Basic", "Authorization:", "Idempotency-Key: k", "Idempotency-Key: a b",
    "Origin: https://a.example", "X-Bad\x00: y", "X-Folded: a\r\n b", ": nothing", "no colon", "X-Long: " + "z" * 9000,
    "\u00e9: y", "Cookie: " + "a=b; " * 100, "Range: bytes=0-", "Content-Encoding: gzip",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"{", b"[" * 900, b'{"recovery_data": {"a": 1}}', b'{"name": "fuzz"}', b'{"name": null}', b"null",
    b"\xff\xfe", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nx\r\n", b"-1\r\n\r\n",
    b"2;x=y\r\n{}\r\n0\r\nTrailer: x\r\n\r\n", b"ZZ\r\n", b"{}" * 40_000,
    b'{"recovery_data": ' + b'{"a":' * 200 + b"1" + b"}" * 201, b'{"name": "\\ud800"}', b'{"capacity": 1e400}',
    b'{"capacity": ' + b"9" * 5000 + b"}",
]  # fmt: skip
ENDS = ["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent on one connection.

    Attributes:
        parts: one after the other.
        ends: how the client ends it: it says that it sends no more, it waits for an answer first, or it resets the connection.
    """

    parts: list[bytes]
    ends: str


def made(seed: int) -> Sent:
    """One connection's worth of it."""
    chance = random.Random(seed)
    text = b"".join(_request(chance) for _ in range(chance.choice([1, 1, 1, 2, 5])))
    if chance.random() < 0.2:
        text = _damaged(chance, text)
    if chance.random() < 0.05:
        text = chance.randbytes(chance.randrange(1, 3000))
    count = chance.choice([1, 1, 1, 2, 3, 30])
    cuts = sorted(chance.randrange(len(text) + 1) for _ in range(count - 1))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return Sent([part for part in parts if part], chance.choice(["no more", "no more", "waits", "reset"]))


def _request(chance: random.Random) -> bytes:
    end = chance.choice(ENDS)
    path = chance.choice(PATHS)
    lines = [f"{chance.choice(METHODS)} {path} {chance.choice(VERSIONS)}"]
    if chance.random() < 0.8:
        lines.append("Host: 127.0.0.1")
    lines += chance.choices(HEADERS, k=chance.randrange(6))
    body = chance.choice(BODIES) if chance.random() < 0.6 else b""
    if body and chance.random() < 0.5:
        lines.append(f"Content-Length: {len(body)}")
    return (end.join(lines) + end + end).encode("utf-8", "surrogatepass") + body


def _damaged(chance: random.Random, text: bytes) -> bytes:
    found = bytearray(text)
    for _ in range(chance.randrange(1, 8)):
        if found:
            at = chance.randrange(len(found))
            what = chance.random()
            if what < 0.4:
                found[at] = chance.randrange(256)
            elif what < 0.7:
                del found[at : at + chance.randrange(1, 20)]
            else:
                found[at:at] = found[at : at + chance.randrange(1, 200)]
    return bytes(found)
