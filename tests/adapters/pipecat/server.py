"""A server process with one bot: FastAPI, uvicorn, real Pipecat. Prints what happens as lines of JSON.

Arguments: the store's URL, the worker's name, its voice's level, and settings as JSON. ``"adapter": false`` runs the bot as Pipecat's
own examples do, without this project.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger

from coordinator import Worker
from coordinator.adapters.pipecat import PipecatCall, WebsocketDoor
from coordinator.adapters.pipecat.running import run_pipeline
from coordinator.adapters.pipecat.start_message import read_start
from tests.adapters.pipecat.bot import BrokenSpeechError, context_of, pipeline_of, serializer_of, transport_of

SENTENCE = "I am back."


def tell(what: str, **fields: Any) -> None:
    """One line, whole or not at all."""
    os.write(1, json.dumps({"what": what, "at": time.monotonic(), **fields}).encode() + b"\n")


async def main(url: str, name: str, level: int, options: dict[str, Any]) -> None:
    """Serves until it is told to end."""
    adapter, door_options = options.pop("adapter", True), options.pop("door", {})
    fails, sentence = options.pop("fails", False), options.pop("sentence", SENTENCE)
    fetches = options.pop("fetches", False)
    the_door: list[WebsocketDoor] = []

    async def redirect(call: PipecatCall) -> None:
        tell("redirect", call=call.session.id, data=call.data)

    async def bot(call: PipecatCall) -> None:
        assert call.start is not None
        if fails:
            raise BrokenSpeechError("it was told to")
        serializer = call.guard(
            serializer_of(call.start.stream_id, call.start.call_id, lambda: tell("hung_up", call=call.session.id))
        )
        transport = transport_of(call.websocket, serializer)
        context = call.keep(context_of())
        tell("bot", call=call.session.id, returned=call.returned, recovered=call.session.recovered,
             planned=call.session.planned, messages=context.get_messages(), data=call.data, pid=os.getpid())  # fmt: skip
        call.data["served_by"] = [*call.data.get("served_by", []), name]
        task = pipeline_of(transport, context, level, lambda key: tell("key", key=key))
        try:
            await call.run(task, on_recovered=sentence or None)
        finally:
            tell("bot_ended", call=call.session.id, messages=context.get_messages(), lost=call.session.lost.is_set())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with Worker(url, name=name, **options) as worker:
            door = WebsocketDoor(worker, **door_options)
            the_door.append(door)
            async with door.drained_on(signal.SIGTERM), anyio.create_task_group() as tasks:
                if fetches:
                    tasks.start_soon(door.fetch, redirect)
                tell("worker", id=worker.id, pid=os.getpid())
                yield
                tasks.cancel_scope.cancel()
        tell("left")

    app = FastAPI(lifespan=lifespan if adapter else None)

    @app.websocket("/media")
    async def media(websocket: WebSocket) -> None:
        if adapter:
            await the_door[0].answer(websocket, bot)
            return
        await websocket.accept()
        start = None
        while start is None:
            start = read_start(await websocket.receive_text())
        serializer = serializer_of(start.stream_id, start.call_id, lambda: tell("hung_up"))
        transport, context = transport_of(websocket, serializer), context_of()
        task = pipeline_of(transport, context, level, lambda key: tell("key", key=key))

        @transport.event_handler("on_client_disconnected")  # type: ignore[untyped-decorator, unused-ignore]
        async def gone(*_: object) -> None:
            await task.cancel()

        tell(
            "bot",
            call=start.call_id,
            returned=False,
            recovered=False,
            planned=False,
            messages=context.get_messages(),
            data={},
        )
        await run_pipeline(task)

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


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("PIPECAT_LOG", "WARNING"))
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
