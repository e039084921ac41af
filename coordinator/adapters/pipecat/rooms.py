"""Bots that join a room, as on LiveKit or Daily: an heir joins by itself, so `Worker.serve` hands it the call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from coordinator.adapters.pipecat.call import HANGS_AFTER_SECONDS, PipecatCall
from coordinator.worker.serving import Handler
from coordinator.worker.session import Session
from coordinator.worker.worker import Worker

__all__ = ["room_handler"]


def room_handler(
    worker: Worker[Any],
    bot: Callable[[PipecatCall], Awaitable[object]],
    *,
    hangs_after: float | None = HANGS_AFTER_SECONDS,
) -> Handler[Any]:
    """Makes a handler for `Worker.serve` of a bot.

    Args:
        worker: the one that serves.
        bot: joins the room that ``call.data`` names and runs its pipeline with ``call.run``, its transport given to ``call.mute``.
        hangs_after: as `WebsocketDoor` has it.
    """

    async def serve(session: Session[Any]) -> None:
        call = PipecatCall(
            session,
            most_bytes=worker.settings.max_data_bytes,
            is_draining=lambda: worker.is_draining,
            hangs_after=hangs_after,
        )
        try:
            await call.served_by(bot)
        finally:
            call.stop_media()
            call.finished.set()

    return serve
