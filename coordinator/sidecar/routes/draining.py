"""The drain of all workers that the sidecar stands for."""

from __future__ import annotations

from http import HTTPStatus

from coordinator.clock import in_seconds
from coordinator.settings import Settings
from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.draining import SidecarDrain
from coordinator.sidecar.requests import Parameter
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, operation

__all__ = ["DrainRoutes"]

OK, ACCEPTED = HTTPStatus.OK, HTTPStatus.ACCEPTED


def _flag(text: str) -> bool:
    if text not in ("0", "1", "true", "false"):
        raise ValueError(f"{text!r} is neither 0 nor 1")
    return text in ("1", "true")


UNTIL_DONE = Parameter(
    "wait", "1: answer when the drain is done", {"type": "string", "enum": ["0", "1", "true", "false"]}, _flag
)


class DrainRoutes:
    """Operations on the one drain."""

    def __init__(self, settings: Settings, draining: SidecarDrain) -> None:
        self._settings, self._draining = settings, draining

    @operation(
        "POST /v1/drain",
        callers=Caller.ADMINISTRATOR,
        body=schemas.Drain,
        query=(UNTIL_DONE,),
        answers={OK: Answer("done", schemas.Drained), ACCEPTED: Answer("under way", schemas.Drained)},
    )
    async def drain(self, call: HttpCall) -> HttpReply:
        """Hands over all sessions of all workers here."""
        body = call.read(schemas.Drain)
        timeout = self._settings.drain_timeout if body.timeout_ms is None else in_seconds(body.timeout_ms)
        self._draining.start(timeout, body.reason or "asked for")
        if call.query.get(UNTIL_DONE.name):
            await self._draining.done()
            return HttpReply(OK, self._draining.progress())
        return HttpReply(ACCEPTED, self._draining.progress())

    @operation("GET /v1/drain", callers=Caller.ADMINISTRATOR, answers={OK: Answer("so far", schemas.Drained)})
    async def drain_progress(self, call: HttpCall) -> HttpReply:
        """Tells the progress of the drain."""
        return HttpReply(OK, self._draining.progress())
