"""A server process with one bot: FastAPI, uvicorn, real Pipecat. Prints what happens as lines of JSON.

Arguments: the store's URL, the worker's name, its voice's level, and options as JSON: settings of the worker, and those of `Options`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger

from coordinator import Worker
from coordinator.adapters.pipecat import PipecatCall, WebsocketDoor
from coordinator.adapters.pipecat.running import frame_of, run_pipeline
from coordinator.adapters.pipecat.start_message import read_start
from tests.adapters.pipecat.bot import BrokenSpeechError, context_of, pipeline_of, serializer_of, transport_of


def tell(what: str, **fields: Any) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, "at": time.monotonic(), **fields}).encode() + b"\n")


@dataclass
class Options:
    """How a server differs from the usual one.

    Attributes:
        adapter: False: the bot runs as Pipecat's own examples have it, without this project.
        door: arguments of the door.
        fails: its bot raises.
        fetches: it fetches orphans whose callers do not come.
        guards: False: the serializer is not guarded, as by a program that forgot it.
        sentence: what is said first to a caller who was cut off.
        always_speaks: it is said after a planned move, too.
        lasts: most duration of a call, at whose end it says good-bye.
    """

    adapter: bool = True
    door: dict[str, Any] = field(default_factory=dict)
    fails: bool = False
    fetches: bool = False
    guards: bool = True
    sentence: str = "I am back."
    always_speaks: bool = False
    lasts: float | None = None


class Server:
    """The program."""

    def __init__(self, url: str, name: str, level: int, options: dict[str, Any]) -> None:
        own = {key: options.pop(key) for key in list(options) if key in Options.__dataclass_fields__}
        self._url, self._name, self._level, self._settings = url, name, level, options
        self._options = Options(**own)
        self._door: WebsocketDoor | None = None

    async def run(self) -> None:
        """Serves until it is told to end."""
        app = FastAPI(lifespan=self._lifespan if self._options.adapter else None)
        app.add_api_websocket_route("/media", self._answer if self._options.adapter else self._answer_without)
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=10)
        )

        async def say_port() -> None:
            while not server.started:
                await anyio.sleep(0.01)
            tell("ready", port=server.servers[0].sockets[0].getsockname()[1], pid=os.getpid())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(say_port)
            await server.serve()
            tasks.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with Worker(self._url, name=self._name, **self._settings) as worker:
            self._door = WebsocketDoor(worker, **self._options.door)
            async with self._door.drained_on(signal.SIGTERM), anyio.create_task_group() as tasks:
                if self._options.fetches:
                    tasks.start_soon(self._door.fetch, self._redirect)
                tell("worker", id=worker.id, pid=os.getpid())
                yield
                tasks.cancel_scope.cancel()
        tell("left")

    async def _redirect(self, call: PipecatCall) -> None:
        tell("redirect", call=call.session.id, data=call.data)

    async def _answer(self, websocket: WebSocket) -> None:
        assert self._door is not None
        await self._door.answer(websocket, self._bot)
        tell("answered")

    async def _bot(self, call: PipecatCall) -> None:
        assert call.start is not None
        session = call.session
        if self._options.fails:
            tell("failed", call=session.id)
            raise BrokenSpeechError("it was told to")
        serializer = serializer_of(call.start.stream_id, call.start.call_id, lambda: tell("hung_up", call=session.id))
        if self._options.guards:
            call.guard(serializer)
        transport = transport_of(call.websocket, serializer)
        context = call.keep(context_of())
        tell(
            "bot", call=session.id, returned=call.returned, recovered=session.recovered, planned=session.planned,
            messages=context.get_messages(), data=call.data, epoch=session.epoch, progress=call.progress.to_data(),
        )  # fmt: skip
        call.data["served_by"] = [*call.data.get("served_by", []), self._name]
        task = pipeline_of(transport, context, self._level, lambda key: tell("key", key=key))
        try:
            on_recovered = self._speak if self._options.always_speaks else self._options.sentence or None
            await call.run(
                task, on_recovered=on_recovered, max_duration=self._options.lasts, on_end=lambda: self._good_bye(call)
            )
        finally:
            tell(
                "bot_ended", call=session.id, messages=context.get_messages(), lost=session.lost.is_set(),
                state=call.progress.state.value,
            )  # fmt: skip

    async def _speak(self, call: PipecatCall) -> None:
        await call.task.queue_frame(frame_of("TTSSpeakFrame", self._options.sentence))

    async def _good_bye(self, call: PipecatCall) -> None:
        tell("good_bye", call=call.session.id)
        await call.task.queue_frame(frame_of("TTSSpeakFrame", "Good-bye."))

    async def _answer_without(self, websocket: WebSocket) -> None:
        await websocket.accept()
        start = None
        while start is None:
            start = read_start(await websocket.receive_text())
        serializer = serializer_of(start.stream_id, start.call_id, lambda: tell("hung_up"))
        transport, context = transport_of(websocket, serializer), context_of()
        task = pipeline_of(transport, context, self._level, lambda key: tell("key", key=key))

        async def gone(*_: object) -> None:
            await task.cancel()

        transport.add_event_handler("on_client_disconnected", gone)
        tell("bot", call=start.call_id, returned=False, messages=context.get_messages())
        await run_pipeline(task)


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("PIPECAT_LOG", "WARNING"))
    anyio.run(Server(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])).run)
