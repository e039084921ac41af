"""RTP with the library: a tone to the far end of each call, and from its heir the same stream (docs/media.md).

    python rtp.py voice-1 call-1=127.0.0.1:4000     # then kill -9, SIGTERM or freeze it beside a second one: python rtp.py voice-2

A packet is 20 ms of G.711. What goes on with the stream is in the recovery data: where the far end is, the SSRC, and the sequence
number and timestamp of the last packet; examples/go goes on with it, too. Sequence numbers are kept whole, above 16 bits as well:
SRTP counts them so.
"""

import math
import secrets
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import anyio

from coordinator import CoordinatorError, Offer, Session, SessionHeldError, Worker

PACKET_SECONDS, SAMPLES = 0.02, 160
TONE = bytes.fromhex("1e0b0b1e9e8b8b9e") * 20  # 1 kHz: the "digital milliwatt" of G.711
RTCP_BYE = 203
STAGE_PACKETS = 25
LETTING_GO_PACKETS = 100  # longer than any write that is under way then
MARGIN_PACKETS = 100  # for data that was under way for long when its owner died


@asynccontextmanager
async def bound(offer: Offer | None = None) -> AsyncIterator[socket.socket]:
    """A port for a call. For an offer it is called while the owner still speaks: what takes time is done here, and silently."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.bind(("", 0))
        yield udp


async def serve_call(session: Session) -> None:
    stream = dict(session.recovery_data)
    if session.recovered and not session.planned:  # its owner died some packets after it wrote this
        since = math.ceil(session.data_age / PACKET_SECONDS) + 1
        stream["timestamp"] += since * SAMPLES  # goes on with the time
        stream["sequence"] += since + MARGIN_PACKETS  # no number is sent twice, and a gap is harmless
    print(session.id, "adopted" if session.recovered else "opened", f"at {stream['sequence']}", flush=True)
    ready = bound() if session.prepared is None else nullcontext(session.prepared)
    async with ready as udp, anyio.create_task_group() as tasks:
        # A far end that does not learn our address from our packets is told it here: by a re-INVITE, or at its media proxy.
        tasks.start_soon(speak, session, stream, udp)
        tasks.start_soon(resumed, session)
        await far_end_says_bye(udp)
        tasks.cancel_scope.cancel()
        if session.may_speak:
            hang_up(stream, udp)  # only here, where the call is over: in no `finally`, since a lost call is cancelled
    print(session.id, "ended", flush=True)


async def speak(session: Session, stream: dict[str, Any], udp: socket.socket) -> None:
    """A packet every 20 ms, for as long as that is allowed."""
    closely = 0

    async def letting_go() -> None:
        """An heir waits: until it has the call, each packet is staged, and the newest goes along. The tone goes on until then."""
        nonlocal closely
        closely = LETTING_GO_PACKETS
        session.stage(stream)

    session.letting_go = letting_go
    due, begins, sent = anyio.current_time(), True, 0
    while True:
        stream["timestamp"] += SAMPLES
        if session.may_speak:  # asked for each packet: false when another may have the call, or when we stood still
            stream["sequence"] += 1
            send(packet(stream, begins), stream, udp)
            begins, sent = False, sent + 1
            if closely or sent % STAGE_PACKETS == 0:
                closely = max(0, closely - 1)
                session.stage(stream)  # in the same turn of the loop as the packet: nobody lets go in between
        else:
            begins = True
        due += PACKET_SECONDS
        missed = max(0, int((anyio.current_time() - due) / PACKET_SECONDS))  # left out: no burst after a pause
        due += missed * PACKET_SECONDS
        stream["timestamp"] += missed * SAMPLES
        await anyio.sleep_until(due)


def packet(stream: dict[str, Any], begins: bool) -> bytes:
    """With the marker on the first after a silence, by which the far end starts its jitter buffer anew."""
    sequence, timestamp = stream["sequence"] % 2**16, stream["timestamp"] % 2**32
    return struct.pack("!BBHII", 0x80, begins << 7, sequence, timestamp, stream["ssrc"]) + TONE


def send(data: bytes, stream: dict[str, Any], udp: socket.socket) -> None:
    with suppress(OSError):  # a packet that cannot be sent is a lost one
        host, _, port = stream["media"].rpartition(":")
        udp.sendto(data, (host, int(port)))


def hang_up(stream: dict[str, Any], udp: socket.socket) -> None:
    send(struct.pack("!BBHI", 0x81, RTCP_BYE, 1, stream["ssrc"]), stream, udp)


async def far_end_says_bye(udp: socket.socket) -> None:
    """Reads what comes. On the same port as RTP, as with rtcp-mux; check the sender where not everybody may end a call."""
    while True:
        await anyio.wait_readable(udp)
        with suppress(OSError):
            if udp.recv(2048)[1:2] == bytes([RTCP_BYE]):
                return


async def resumed(session: Session) -> None:
    with suppress(CoordinatorError):  # it ends the clock of the takeover, and no call is to fail for that
        await session.resumed()


async def main(name: str, *calls: str) -> None:
    async with Worker(name=name) as worker:  # the Redis of COORDINATOR_REDIS_URL
        for call in calls:
            session_id, _, far = call.partition("=")
            stream = {"ssrc": secrets.randbits(32), "sequence": secrets.randbits(15), "timestamp": secrets.randbits(31)}
            with suppress(SessionHeldError):  # it goes on where it is
                await worker.open(session_id, {"media": far, **stream})
        await worker.serve(serve_call, prepare=bound, drain_on=[signal.SIGTERM])
        print(f"{name}: {len((await worker.drain()).handed_over)} calls handed over", flush=True)


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
