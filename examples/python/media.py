"""A media server whose callers come back: plays a tone over the websocket of a provider, as Twilio's Media Streams (docs/media.md).

    pip install websockets
    python media.py voice-1 8001 &
    python media.py voice-2 8002 &

Behind a door of your own; the provider's instructions connect a call again when its stream ends. Kill one, or stop it with SIGTERM:
its callers come to the other one, which goes on at the frame that they heard last.
"""

import base64
import json
import math
import signal
import sys
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from coordinator import CoordinatorError, FencedError, Session, Worker

FRAME_SECONDS = 0.02
TONE = base64.b64encode(bytes.fromhex("1e0b0b1e9e8b8b9e") * 20).decode()  # 1 kHz in G.711
MARK_FRAMES = 10  # between two marks, which the provider sends back when the caller has heard what is before them
STAGE_FRAMES = 50
AHEAD_FRAMES = 50  # that the provider may have in its queue
WAIT_SECONDS = 4.0  # for the worker that has the call
COMES_BACK_SECONDS = 15.0  # a caller whose connection broke without a word; then the call is closed
TRY_AGAIN, MOVED = 1013, 1012


class Door:
    """Where calls come in, for the first time or again."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._newest, self.leaves = worker, {}, anyio.Event()
        self._data = (
            WeakKeyDictionary()
        )  # of each session here: newer than what is stored, for a caller who comes back here

    async def answer(self, socket: ServerConnection) -> None:
        start = await start_of(socket)
        if start is None:
            return
        call = start["callSid"]
        if call in self._newest:
            self._newest[call].cancel()  # the newest connection has the call: the one before is silent at once
        self._newest[call] = own = anyio.CancelScope()
        try:
            with own:
                await self._receive(call, start["streamSid"], socket)
        finally:
            if self._newest[call] is own:
                del self._newest[call]

    async def _receive(self, call: str, stream: str, socket: ServerConnection) -> None:
        try:
            session = await self._worker.receive(call, {"heard": 0}, WAIT_SECONDS)
        except CoordinatorError:  # this worker drains, or the store is away
            session = None
        if session is None:
            await socket.close(TRY_AGAIN)  # the provider comes again, here or elsewhere
            return
        data = self._data.setdefault(session, dict(session.recovery_data))
        print(call, "adopted" if session.recovered else "opened", f"at {data['heard']}", flush=True)
        hung_up = await self._serve(session, data, stream, socket)
        if not hung_up:  # the connection broke, or we move, or another worker has the call: nobody hangs up
            await socket.close(MOVED)
            with anyio.move_on_after(
                math.inf if self.leaves.is_set() else COMES_BACK_SECONDS
            ):  # a drain has its own end
                await session.lost.wait()
                return
        with suppress(CoordinatorError):  # another worker has it, or the library closes it later
            await session.close()

    async def _serve(self, session: Session, data: dict[str, Any], stream: str, socket: ServerConnection) -> bool:
        """Whether the caller hung up."""
        hung_up = False

        async def letting_go() -> None:
            session.stage(data)  # an heir goes on where the caller is, and after a crash up to a second before

        session.letting_go = letting_go
        async with anyio.create_task_group() as tasks:

            async def end_at(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_at, session.lost)  # silent at once
            if (
                not self.leaves.is_set()
            ):  # who comes back all the same finds no other door, and is served here to the end
                tasks.start_soon(end_at, self.leaves)  # at the end of a sentence, where there are some
            tasks.start_soon(play, session, data, stream, socket)
            tasks.start_soon(resumed, session)
            with suppress(ConnectionClosed):
                hung_up = await listen(session, data, socket)
            tasks.cancel_scope.cancel()
        return hung_up


async def start_of(socket: ServerConnection) -> dict[str, Any] | None:
    """What says which call it is. Check the provider's signature before: whoever knows a call's id gets the call."""
    with suppress(ConnectionClosed):
        async for text in socket:
            if (message := json.loads(text)).get("event") == "start":
                return message["start"]
    return None


async def play(session: Session, data: dict[str, Any], stream: str, socket: ServerConnection) -> None:
    """A frame every 20 ms, for as long as that is allowed; a mark says to which frame of the whole call they lead."""

    async def say(event: str, **more: Any) -> None:
        await socket.send(json.dumps({"event": event, "streamSid": stream, **more}))

    frame, due = data["heard"], anyio.current_time()
    with suppress(ConnectionClosed):
        while True:
            if session.may_speak and frame < data["heard"] + AHEAD_FRAMES:  # asked for each frame
                await say("media", media={"payload": TONE})
                frame += 1
                if frame % MARK_FRAMES == 0:
                    await say("mark", mark={"name": str(frame)})
            due = max(due + FRAME_SECONDS, anyio.current_time())  # after a pause frames are late, and not sent at once
            await anyio.sleep_until(due)


async def listen(session: Session, data: dict[str, Any], socket: ServerConnection) -> bool:
    async for text in socket:
        match json.loads(text):
            case {"event": "mark", "mark": {"name": str(name)}} if name.isdecimal():
                data["heard"] = int(name)  # what was sent only is lost with the provider's queue
                if data["heard"] % STAGE_FRAMES == 0:
                    with suppress(FencedError):  # `lost` tells
                        session.stage(data)
            case {"event": "stop"}:
                return True
    return False


async def resumed(session: Session) -> None:
    with suppress(CoordinatorError):  # it ends the clock of the takeover, and no call is to fail for that
        await session.resumed()


async def main(name: str, port: str) -> None:
    async with Worker(name=name) as worker:  # the Redis of COORDINATOR_REDIS_URL
        door = Door(worker)
        async with serve(door.answer, "127.0.0.1", int(port)):
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                print(f"{name}: listens", flush=True)
                async for _ in signals:
                    break
                door.leaves.set()  # each call's connection is closed, and its caller comes to another door, which asks for it
                print(f"{name}: {len((await worker.drain()).handed_over)} calls handed over", flush=True)


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
