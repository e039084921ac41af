"""The interface's operations: each reads a call, asks the library, and says what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from coordinator.errors import TenantError
from coordinator.ids import check_session_id, partition_of
from coordinator.settings import Settings
from coordinator.sidecar import wire
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.draining import Draining
from coordinator.sidecar.hosted import Hosted, hash_of
from coordinator.sidecar.operations import (
    ALONE,
    IF_MATCH,
    IF_MATCH_OPTIONAL,
    MAX,
    TRUST,
    UNTIL_DONE,
    WAIT,
    Call,
    Operation,
    Parameter,
    Reply,
    Stream,
    Table,
)
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.server import peer_process, peer_uid, when_closed
from coordinator.sidecar.stream import EventStream
from coordinator.sidecar.watched import Watched
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import requires_of, whole
from coordinator.store.shapes import text as text_of
from coordinator.worker.offer import Offer
from coordinator.worker.sealer import Place, Sealer
from coordinator.worker.session import Session

__all__ = ["Api"]

OK, CREATED, NO_CONTENT = HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT
NOT_FOUND, CONFLICT, GONE = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE
FENCED = HTTPStatus.PRECONDITION_FAILED
ENDED = ("closed", "dead_lettered")


class Api:
    """All of section "sidecar" of the interface.

    Args:
        parts: all partitions, for look-ups.
        by: who certificates are signed by.
        announced: awaited when a worker that beats for itself has announced itself.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        draining: Draining,
        watched: Watched,
        parts: Sequence[StorePartition],
        by: str,
        announced: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings, self._registry, self._draining, self._watched = settings, registry, draining, watched
        self._announced = announced
        self._parts, self._by = parts, by
        self._sealer = Sealer.of(settings)
        self.table = Table()
        self._fill()

    def _add(
        self,
        operation: str,
        text: str,
        callers: Caller,
        handler: Callable[[Call], Any],
        answers: dict[HTTPStatus, tuple[Any, str]],
        *problems: HTTPStatus,
        body: Any = None,
        query: tuple[Parameter, ...] = (),
        headers: tuple[Parameter, ...] = (),
        takes_up: Literal["none", "expected", "all"] = "expected",
    ) -> None:
        method, template = operation.split(" ")
        name = handler.__name__.lstrip("_")
        self.table.add(
            Operation(method, template, name, text, callers, handler, answers, problems, body, query, headers, takes_up)
        )

    def _fill(self) -> None:
        add, here = self._add, "/v1/sessions/{id}"
        add(
            "POST /v1/workers",
            "registers a worker",
            Caller.ANYONE,
            self._register,
            {CREATED: (wire.Registered, "registered")},
            CONFLICT,
            HTTPStatus.TOO_MANY_REQUESTS,
            body=wire.Register,
        )
        add(
            "GET /v1/workers/{instance}/events",
            "kept open: the worker's presence, and what it is told, as it happens",
            Caller.WORKER,
            self._events,
            {OK: (None, "one event a line, or server-sent events if asked for")},
            NOT_FOUND,
            GONE,
            CONFLICT,
            takes_up="all",
        )
        add(
            "POST /v1/workers/{instance}/alive",
            "answers a ping of the stream",
            Caller.WORKER,
            self._alive,
            {NO_CONTENT: (None, "noted")},
            NOT_FOUND,
            GONE,
            body=wire.Alive,
            takes_up="none",
        )
        add(
            "GET /v1/workers/{instance}/sessions",
            "what a worker owns",
            Caller.WORKER | Caller.ADMINISTRATOR,
            self._sessions,
            {OK: (wire.Sessions, "all")},
            NOT_FOUND,
            GONE,
        )
        add(
            "POST /v1/watched",
            "has the end of the asking process stated for instances that beat for themselves; over the unix socket",
            Caller.PROCESS,
            self._watch,
            {NO_CONTENT: (None, "watched, and no more than that: the instances need not be registered yet")},
            CONFLICT,
            HTTPStatus.TOO_MANY_REQUESTS,
            body=wire.Watch,
        )
        add(
            f"PUT {here}",
            "opens a session",
            Caller.WORKER,
            self._open,
            {
                CREATED: (wire.Owned, "opened"),
                OK: (wire.Owned, "its own already: nothing was changed, its data neither"),
            },
            CONFLICT,
            FENCED,
            body=wire.Open,
        )
        add(
            f"GET {here}",
            "the record of a session",
            Caller.OWNER | Caller.ADMINISTRATOR,
            self._record,
            {OK: (wire.Record, "it")},
            NOT_FOUND,
        )
        add(
            f"DELETE {here}",
            "closes a session: the call ended",
            Caller.OWNER,
            self._close,
            {NO_CONTENT: (None, "closed")},
            FENCED,
            headers=(IF_MATCH,),
        )
        add(
            f"GET {here}/owner",
            "where a session lives, so that its caller can be sent there",
            Caller.WORKER | Caller.ADMINISTRATOR,
            self._owner,
            {OK: (wire.Owner, "its owner")},
            NOT_FOUND,
            GONE,
        )
        add(
            f"PUT {here}/checkpoint",
            "writes newer recovery data",
            Caller.OWNER,
            self._checkpoint,
            {NO_CONTENT: (None, "written")},
            FENCED,
            CONFLICT,
            body=wire.Checkpoint,
            headers=(IF_MATCH,),
        )
        add(
            f"POST {here}/release",
            "gives a session up, for others",
            Caller.OWNER,
            self._release,
            {NO_CONTENT: (None, "on offer")},
            FENCED,
            body=wire.Release,
            headers=(IF_MATCH_OPTIONAL,),
        )
        add(
            f"POST {here}/resumed",
            "media is up again",
            Caller.OWNER,
            self._resumed,
            {NO_CONTENT: (None, "noted")},
            FENCED,
            headers=(IF_MATCH_OPTIONAL,),
        )
        add(
            f"POST {here}/let-go",
            "answers `letting_go`: the worker has stopped speaking",
            Caller.OWNER,
            self._let_go,
            {NO_CONTENT: (None, "the heir may speak")},
            FENCED,
            CONFLICT,
            body=wire.LetGo,
            headers=(IF_MATCH_OPTIONAL,),
        )
        add(
            "GET /v1/offers",
            "offers, for workers without the stream",
            Caller.WORKER,
            self._offers,
            {OK: (wire.Offers, "new ones")},
            query=(WAIT, MAX),
        )
        add(
            f"POST {here}/adopt",
            "becomes the owner of an orphan, or takes over a call whose caller came here",
            Caller.WORKER,
            self._adopt,
            {OK: (wire.Owned, "adopted")},
            NOT_FOUND,
            GONE,
            CONFLICT,
            FENCED,
            body=wire.Adopt,
            query=(WAIT,),
        )
        add(
            f"POST {here}/decline",
            "gives an offer back",
            Caller.WORKER,
            self._decline,
            {NO_CONTENT: (None, "others are asked")},
            NOT_FOUND,
            FENCED,
            body=wire.Decline,
        )
        add(
            f"POST {here}/delegate",
            "leaves an offered session adoptable by its id for one lease",
            Caller.WORKER,
            self._delegate,
            {NO_CONTENT: (None, "left")},
            NOT_FOUND,
            FENCED,
        )
        add(
            "POST /v1/drain",
            "hands over what all workers here own",
            Caller.ADMINISTRATOR,
            self._drain,
            {OK: (wire.Drained, "done"), HTTPStatus.ACCEPTED: (wire.Drained, "under way")},
            body=wire.Drain,
            query=(UNTIL_DONE,),
        )
        add(
            "GET /v1/drain",
            "how far that is",
            Caller.ADMINISTRATOR,
            self._drain_progress,
            {OK: (wire.Drained, "so far")},
        )
        add(
            "POST /v1/certificates",
            "states that an instance ended, also one that lives elsewhere",
            Caller.TOKEN_HOLDER,
            self._certify,
            {OK: (wire.Certified, "noted")},
            NOT_FOUND,
            body=wire.Certificate,
        )

    # -- workers -------------------------------------------------------------------------------------------------------

    async def _register(self, call: Call) -> Reply:
        hosted = await self._registry.register(call.read(wire.Register), by_user=peer_uid(call.scope))
        gone: list[bool] = []
        when_closed(call.scope, lambda: gone.append(True))
        if gone:  # it waited for its name in vain, as far as it knows: nobody has the token
            await hosted.withdraw("whoever registered it has gone away")
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the client went away")
        s = self._settings
        body = wire.Registered(
            instance=hosted.handle, worker_token=hosted.token, heartbeat_ms=round(s.heartbeat_interval * 1000),
            answer_within_ms=round(s.wedged_after * 1000), grace_ms=round(s.trust_window * 1000),
        )  # fmt: skip
        return Reply(CREATED, body, {"Location": f"/v1/workers/{hosted.handle}"})

    async def _events(self, call: Call) -> Stream:
        accepts = b" ".join(value for name, value in call.scope["headers"] if name == b"accept")
        server_sent = b"text/event-stream" in accepts
        return EventStream(call.worker, server_sent=server_sent, scope=call.scope)

    async def _alive(self, call: Call) -> Reply:
        call.worker.alive()
        return Reply(NO_CONTENT, headers={TRUST: str(call.worker.trust_ms), ALONE: str(call.worker.alone_ms)})

    async def _watch(self, call: Call) -> Reply:
        process = peer_process(call.scope)
        if process is None:
            raise Problem(HTTPStatus.FORBIDDEN, "the asking process cannot be seen: ask over the unix socket")
        self._watched.announce(hash_of(call.asker.token), call.read(wire.Watch).instances, process)
        if self._announced is not None:
            await self._announced()
        return Reply(NO_CONTENT)

    async def _sessions(self, call: Call) -> Reply:
        hosted = call.worker
        return Reply(OK, wire.Sessions(instance=hosted.handle, sessions=[_owned(s) for s in hosted.worker.sessions]))

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def _open(self, call: Call) -> Reply:
        body, session_id = call.read(wire.Open), check_session_id(call.path["id"])
        worker = call.worker.worker
        before = worker.owned(session_id)
        data = wire.data_of(body)
        session = await worker.open(
            session_id, b"" if data is None else data, pool=body.pool, tenant=body.tenant, requires=body.requires
        )
        return _with_epoch(OK if before is session else CREATED, session)

    async def _record(self, call: Call) -> Reply:
        session_id = check_session_id(call.path["id"])
        found = await reads.record(self._part(session_id), session_id)
        if found is None:
            raise _unknown(session_id)
        said = {name: text_of(value) for name, value in found.items() if name != "data"}
        place = Place(session_id, said.get("tenant", ""), whole(found.get("epoch")))
        data = self._sealer.open_own(place, found.get("data", b""), said.get("encoding", ""))
        body = wire.Record(
            session=session_id, state=said.get("state", ""), owner=said.get("owner", ""), epoch=whole(found.get("epoch")),
            pool=said.get("pool", ""), tenant=said.get("tenant", ""), requires=list(requires_of(found.get("requires"))),
            checkpoint=whole(found.get("checkpoint")), cause=said.get("cause", ""),
            opened_at_ms=whole(found.get("opened_at")), updated_at_ms=whole(found.get("updated_at")),
            **wire.shown(*data),
        )  # fmt: skip
        return Reply(OK, body, {"ETag": f'"{body.epoch}"'})

    async def _owner(self, call: Call) -> Reply:
        session_id = check_session_id(call.path["id"])
        part = self._part(session_id)
        state, owner, tenant = await part.executor.command(
            "HMGET", part.keys.session(session_id), "state", "owner", "tenant"
        )
        if state is None:
            raise _unknown(session_id)
        if call.asker.worker is not None and call.asker.worker.worker.settings.tenant not in ("", text_of(tenant)):
            raise TenantError(session_id)
        words = text_of(state)
        if words in ENDED:
            raise Problem(GONE, f"session {session_id!r} is {words}", state=words)
        if not owner:
            raise Problem(NOT_FOUND, f"session {session_id!r} is {words} and has no owner", state=words)
        life, address = await part.executor.command("HMGET", part.keys.instance(text_of(owner)), "state", "address")
        if life == b"dead":
            raise Problem(NOT_FOUND, f"the owner of session {session_id!r} is dead", state=words)
        body = wire.Owner(session=session_id, state=words, instance=text_of(owner), address=text_of(address))
        return Reply(OK, body)

    async def _close(self, call: Call) -> Reply:
        await call.own_session.close()
        return Reply(NO_CONTENT)

    async def _checkpoint(self, call: Call) -> Reply:
        body, session = call.read(wire.Checkpoint), call.own_session
        data = wire.data_of(body)
        if data is None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a checkpoint needs recovery_data or recovery_data_base64")
        written = await session.checkpoint_numbered(data, body.sequence)
        if not written and body.sequence is not None and body.sequence < session.sequence:
            raise Problem(
                CONFLICT, f"checkpoint {body.sequence} is older than {session.sequence}, which is written",
                sequence=session.sequence,
            )  # fmt: skip
        return Reply(NO_CONTENT, headers={"ETag": f'"{session.epoch}"'})

    async def _release(self, call: Call) -> Reply:
        await call.own_session.release(call.read(wire.Release).reason)
        return Reply(NO_CONTENT)

    async def _resumed(self, call: Call) -> Reply:
        await call.own_session.resumed()
        return Reply(NO_CONTENT)

    async def _let_go(self, call: Call) -> Reply:
        hosted, session = call.worker, call.own_session
        data = wire.data_of(call.read(wire.LetGo))
        if data is not None:
            session.stage(data)
        if not hosted.let_go(session.id):
            raise Problem(CONFLICT, f"nobody asked {hosted.handle} to let go of {session.id!r}")
        return Reply(NO_CONTENT)

    # -- offers --------------------------------------------------------------------------------------------------------

    async def _offers(self, call: Call) -> Reply:
        hosted = call.worker
        found = await hosted.poll(call.query.get(WAIT.name, 0.0), call.query.get(MAX.name, 10))
        offered = [wire.Offered(session=offer.session_id, **hosted.describe(offer)) for offer in found]
        return Reply(OK, wire.Offers(offers=offered))

    async def _adopt(self, call: Call) -> Reply:
        hosted, session_id = call.worker, check_session_id(call.path["id"])
        offer, wait = hosted.offer_of(session_id), call.query.get(WAIT.name)
        session = hosted.worker.owned(session_id)
        if session is None and offer is not None:
            session = await offer.adopt()
            hosted.answered(session_id)
        if session is None and (offer is None or wait is not None):
            session = await hosted.worker.adopt(session_id, wait or 0.0)
        if session is None:
            raise await self._not_to_be_had(session_id)
        return _with_epoch(OK, session)

    async def _not_to_be_had(self, session_id: str) -> Problem:
        part = self._part(session_id)
        state, owner = await part.executor.command("HMGET", part.keys.session(session_id), "state", "owner")
        if state is None:
            return _unknown(session_id)
        words = text_of(state)
        if words in ENDED:
            return Problem(GONE, f"session {session_id!r} is {words}", state=words)
        whose = f"owned by {text_of(owner)}" if owner else words
        return Problem(CONFLICT, f"session {session_id!r} is {whose}", state=words, owner=text_of(owner))

    async def _decline(self, call: Call) -> Reply:
        body = call.read(wire.Decline)
        hosted, offer = self._offer(call)
        await offer.decline(body.reason, counts=body.counts)
        hosted.answered(offer.session_id)
        return Reply(NO_CONTENT)

    async def _delegate(self, call: Call) -> Reply:
        hosted, offer = self._offer(call)
        await offer.delegate()
        hosted.answered(offer.session_id)
        return Reply(NO_CONTENT)

    @staticmethod
    def _offer(call: Call) -> tuple[Hosted, Offer]:
        hosted, session_id = call.worker, check_session_id(call.path["id"])
        offer = hosted.offer_of(session_id)
        if offer is None:
            raise Problem(NOT_FOUND, f"{hosted.handle} has no offer of session {session_id!r}")
        return hosted, offer

    # -- draining, certificates ----------------------------------------------------------------------------------------

    async def _drain(self, call: Call) -> Reply:
        body = call.read(wire.Drain)
        timeout = self._settings.drain_timeout if body.timeout_ms is None else body.timeout_ms / 1000
        self._draining.start(timeout, body.reason or "asked for")
        if call.query.get(UNTIL_DONE.name):
            await self._draining.done()
            return Reply(OK, self._draining.progress())
        return Reply(HTTPStatus.ACCEPTED, self._draining.progress())

    async def _drain_progress(self, call: Call) -> Reply:
        return Reply(OK, self._draining.progress())

    async def _certify(self, call: Call) -> Reply:
        body = call.read(wire.Certificate)
        outcomes = set()
        for part in self._parts:
            answer = await part.executor.run(
                calls.certify(part.keys, instance=body.instance, cause="exited", by=self._by, reason=body.reason)
            )
            outcomes.add(answer.word)
        if outcomes == {"UNKNOWN"}:
            raise Problem(NOT_FOUND, f"nobody knows the instance {body.instance}")
        outcome = "certified" if "OK" in outcomes else "already_dead"
        return Reply(OK, wire.Certified(instance=body.instance, outcome=outcome))

    def _part(self, session_id: str) -> StorePartition:
        return self._parts[partition_of(session_id, len(self._parts))]


def _unknown(session_id: str) -> Problem:
    return Problem(NOT_FOUND, f"session {session_id!r} is not known")


def _with_epoch(status: HTTPStatus, session: Session) -> Reply:
    return Reply(status, _owned(session), {"ETag": f'"{session.epoch}"'})


def _owned(session: Session) -> wire.Owned:
    return wire.Owned(
        session=session.id, epoch=session.epoch, held=session.held, may_speak=session.may_speak,
        recovered=session.recovered, planned=session.planned, checkpoint=session.sequence, pool=session.pool,
        tenant=session.tenant, gap_ms=round(session.gap * 1000), data_age_ms=round(session.data_age * 1000),
        previous_owner=session.previous_owner, cause=session.cause, attempt=session.attempt,
        **wire.shown(session.raw_data, session.encoding),
    )  # fmt: skip
