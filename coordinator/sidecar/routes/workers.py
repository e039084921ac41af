"""Workers: they register, show that they live, and receive events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from coordinator.clock import in_ms
from coordinator.settings import Settings
from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.hosted import hash_of
from coordinator.sidecar.line import HeldLine
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.routes.answers import owned
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, Stream, operation
from coordinator.sidecar.server import peer_process, peer_uid, when_closed
from coordinator.sidecar.stream import EventStream
from coordinator.sidecar.watched import Watched

__all__ = ["WorkerRoutes"]

OK, CREATED, NO_CONTENT = HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT
NOT_FOUND, CONFLICT, GONE = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE
TOO_MANY_REQUESTS = HTTPStatus.TOO_MANY_REQUESTS

LINES, SERVER_SENT = "application/x-ndjson", "text/event-stream"
TRUST = "Trust-Ms"
"""Header of an answer: the time for which the worker may rely on what it owns."""
ALONE = "Alone-Ms"
"""Header of an answer: that time, for when its sidecar does not answer any more."""
TRUST_HEADERS = {
    TRUST: "time for which the worker may rely on what it owns, from the sending of the request",
    ALONE: "that time for when the sidecar does not answer any more, so that it can be started again",
}


class WorkerRoutes:
    """Operations on workers.

    Args:
        announced: is awaited when a worker that beats for itself has announced itself.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        watched: Watched,
        announced: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings, self._registry, self._watched, self._announced = settings, registry, watched, announced

    @operation(
        "POST /v1/workers",
        callers=Caller.ANYONE,
        body=schemas.Register,
        answers={CREATED: Answer("registered", schemas.Registered)},
        problems=(CONFLICT, TOO_MANY_REQUESTS),
    )
    async def register(self, call: HttpCall) -> HttpReply:
        """Registers a worker."""
        hosted = await self._registry.register(call.read(schemas.Register), by_user=peer_uid(call.scope))
        gone: list[bool] = []
        when_closed(call.scope, lambda: gone.append(True))
        if gone:  # the client gave up waiting for its name: no program has the token
            await hosted.withdraw("the client that registered it has gone away")
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the client went away")
        s = self._settings
        body = schemas.Registered(
            instance=hosted.handle, worker_token=hosted.token, heartbeat_ms=in_ms(s.heartbeat_interval),
            answer_within_ms=in_ms(s.wedged_after), grace_ms=in_ms(s.trust_window),
        )  # fmt: skip
        return HttpReply(CREATED, body, {"Location": f"/v1/workers/{hosted.handle}"})

    @operation(
        "GET /v1/workers/{instance}/events",
        callers=Caller.WORKER,
        answers={OK: Answer("one event a line, or server-sent events if asked for", media_types=(LINES, SERVER_SENT))},
        problems=(NOT_FOUND, GONE, CONFLICT),
        takes_up="all",
    )
    async def events(self, call: HttpCall) -> Stream:
        """Streams the worker's events as they happen; the open stream is the worker's presence."""
        accepts = b" ".join(value for name, value in call.scope["headers"] if name == b"accept")
        return EventStream(call.worker, server_sent=SERVER_SENT.encode() in accepts, scope=call.scope)

    @operation(
        "POST /v1/workers/{instance}/alive",
        callers=Caller.WORKER,
        body=schemas.Alive,
        answers={NO_CONTENT: Answer("noted", headers=TRUST_HEADERS)},
        problems=(NOT_FOUND, GONE),
        takes_up="none",
    )
    async def alive(self, call: HttpCall) -> HttpReply:
        """Answers a ping of the stream."""
        presence = call.worker.presence
        presence.alive()
        return HttpReply(NO_CONTENT, headers={TRUST: str(presence.trust_ms), ALONE: str(presence.alone_ms)})

    @operation(
        "GET /v1/workers/{instance}/sessions",
        callers=Caller.WORKER | Caller.ADMINISTRATOR,
        answers={OK: Answer("all", schemas.Sessions)},
        problems=(NOT_FOUND, GONE),
    )
    async def sessions(self, call: HttpCall) -> HttpReply:
        """Returns the sessions that a worker owns."""
        hosted = call.worker
        return HttpReply(
            OK, schemas.Sessions(instance=hosted.handle, sessions=[owned(s) for s in hosted.worker.sessions])
        )

    @operation(
        "POST /v1/watched",
        callers=Caller.PROCESS,
        body=schemas.Watch,
        answers={NO_CONTENT: Answer("the process is watched; the instances need not be registered yet")},
        problems=(CONFLICT, TOO_MANY_REQUESTS),
    )
    async def watch(self, call: HttpCall) -> HttpReply:
        """Has the end of the asking process stated for instances that beat for themselves; over the unix socket."""
        process = peer_process(call.scope)
        self._watched.announce(hash_of(call.asker.token), call.read(schemas.Watch).instances, process)
        if self._announced is not None:
            await self._announced()
        return HttpReply(NO_CONTENT)

    @operation(
        "POST /v1/watched/line",
        callers=Caller.PROCESS,
        body=schemas.Watch,
        answers={
            OK: Answer(
                "the instances are watched; the answer stays open for as long as the line does", media_types=(LINES,)
            )
        },
        problems=(CONFLICT, TOO_MANY_REQUESTS),
        kept_open=True,
    )
    async def hold_line(self, call: HttpCall) -> Stream:
        """The same, with a request that the process keeps open while it lives: where it cannot be seen, the end of that is its own."""
        process, line = peer_process(call.scope), HeldLine(call.scope)
        instances = call.read(schemas.Watch).instances
        self._watched.announce(hash_of(call.asker.token), instances, line if process is None else process)
        if self._announced is not None:
            await self._announced()
        return partial(line.answer, by="line" if process is None else "process")
