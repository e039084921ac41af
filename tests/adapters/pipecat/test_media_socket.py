"""The websocket that a bot gets: what passes, what is heard, and its silence."""

from __future__ import annotations

import pytest
from starlette.websockets import WebSocketDisconnect, WebSocketState

from coordinator.adapters.pipecat.media_socket import MediaSocket
from tests.adapters.pipecat.lines import Line

AUDIO = '{"event": "media", "media": {"payload": "//8="}}'
CLEAR = '{"event": "clear"}'


class Right:
    """Whether the bot may be heard, and how often its first audio was told."""

    def __init__(self) -> None:
        self.given = True
        self.told = 0

    def may_send(self) -> bool:
        return self.given

    def heard(self) -> None:
        self.told += 1


async def socket_on(line: Line, right: Right) -> MediaSocket:
    """An accepted one."""
    await line.websocket.accept()
    return MediaSocket(line.websocket, right.may_send, right.heard)


async def test_all_passes_while_the_call_is_held() -> None:
    """Both ways, as text and as bytes; the first audio is told once, and a message without audio is none."""
    line, right = Line("hello"), Right()
    socket = await socket_on(line, right)
    assert await socket.receive_text() == "hello"
    await socket.send_text(CLEAR)
    assert right.told == 0
    await socket.send_text(AUDIO)
    await socket.send_bytes(b"audio")
    assert line.sent == [CLEAR, AUDIO, "audio"]
    assert right.told == 1


async def test_nothing_is_sent_without_the_right_to_it() -> None:
    """The right is asked for with each message, and may come back: audio meanwhile is dropped and not told."""
    line, right = Line(), Right()
    socket = await socket_on(line, right)
    right.given = False
    await socket.send_text(AUDIO)
    assert (line.sent, right.told) == ([], 0)
    right.given = True
    await socket.send_text(AUDIO)
    assert (line.sent, right.told) == ([AUDIO], 1)


async def test_silence_looks_like_a_caller_who_is_gone() -> None:
    """A transport that asks for the state finds nobody, so it has nothing to hang up; what it sends all the same is dropped."""
    line, right = Line(), Right()
    socket = await socket_on(line, right)
    socket.silence()
    assert socket.client_state == WebSocketState.DISCONNECTED
    await socket.send_text(AUDIO)
    assert (line.sent, line.code, right.given) == ([], 0, True)


async def test_the_end_of_a_stream_is_told_from_the_end_of_a_connection() -> None:
    """A stop is the provider's word that the call is over; a connection that ends says nothing."""
    line, right = Line(), Right()
    socket = await socket_on(line, right)
    line.say({"event": "stop"})
    await socket.receive_text()
    assert (socket.hung_up.is_set(), socket.disconnected.is_set()) == (True, False)
    line.drop()
    with pytest.raises(WebSocketDisconnect):
        await socket.receive_text()
    assert socket.disconnected.is_set()


async def test_it_is_closed_once_and_never_raises() -> None:
    """The first code counts; a provider that is gone is left alone."""
    line, right = Line(), Right()
    socket = await socket_on(line, right)
    await socket.end(1012)
    await socket.end(1000)
    assert line.code == 1012
    gone = Line()
    socket = await socket_on(gone, right)
    gone.drop()
    with pytest.raises(WebSocketDisconnect):
        await socket.receive_text()
    await socket.end(1012)
    assert gone.code == 0


async def test_the_bots_own_closing_passes() -> None:
    """A pipeline that ends closes its connection as before."""
    line, right = Line(), Right()
    socket = await socket_on(line, right)
    await socket.close(1000)
    assert line.code == 1000
