"""Sessions: opened, looked up, checkpointed, given up and closed."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from coordinator.errors import TenantError
from coordinator.ids import check_session_id
from coordinator.settings import Settings
from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.requests import IF_MATCH, IF_MATCH_OPTIONAL
from coordinator.sidecar.routes.answers import ended, not_known, with_epoch
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, operation
from coordinator.states import InstanceState
from coordinator.store import lookups, reads
from coordinator.store.executor import StorePartition
from coordinator.store.shapes import requires_of, whole
from coordinator.store.shapes import text as text_of
from coordinator.worker.sealer import Place, Sealer

__all__ = ["SessionRoutes"]

OK, CREATED, NO_CONTENT = HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT
NOT_FOUND, CONFLICT, GONE = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE
FENCED = HTTPStatus.PRECONDITION_FAILED


class SessionRoutes:
    """Operations on sessions.

    Args:
        part_of: returns the partition of a session.
    """

    def __init__(self, settings: Settings, part_of: Callable[[str], StorePartition]) -> None:
        self._part_of = part_of
        self._sealer = Sealer.of(settings)

    @operation(
        "PUT /v1/sessions/{id}",
        callers=Caller.WORKER,
        body=schemas.Open,
        answers={
            CREATED: Answer("opened", schemas.Owned),
            OK: Answer("the worker owns it already: nothing was changed, its data neither", schemas.Owned),
        },
        problems=(CONFLICT, FENCED),
    )
    async def open(self, call: HttpCall) -> HttpReply:
        """Opens a session."""
        body, session_id = call.read(schemas.Open), check_session_id(call.path["id"])
        worker = call.worker.worker
        before = worker.owned(session_id)
        data = schemas.data_of(body)
        session = await worker.open(
            session_id, b"" if data is None else data, pool=body.pool, tenant=body.tenant, requires=body.requires
        )
        return with_epoch(OK if before is session else CREATED, session)

    @operation(
        "GET /v1/sessions/{id}",
        callers=Caller.OWNER | Caller.ADMINISTRATOR,
        answers={OK: Answer("it", schemas.Record)},
        problems=(NOT_FOUND,),
    )
    async def record(self, call: HttpCall) -> HttpReply:
        """Returns the record of a session."""
        session_id = check_session_id(call.path["id"])
        found = await reads.record(self._part_of(session_id), session_id)
        if found is None:
            raise not_known(session_id)
        said = {name: text_of(value) for name, value in found.items() if name != "data"}
        place = Place(session_id, said.get("tenant", ""), whole(found.get("epoch")))
        data = self._sealer.open_own(place, found.get("data", b""), said.get("encoding", ""))
        body = schemas.Record(
            session=session_id, state=said.get("state", ""), owner=said.get("owner", ""), epoch=whole(found.get("epoch")),
            pool=said.get("pool", ""), tenant=said.get("tenant", ""), requires=list(requires_of(found.get("requires"))),
            checkpoint=whole(found.get("checkpoint")), cause=said.get("cause", ""),
            opened_at_ms=whole(found.get("opened_at")), updated_at_ms=whole(found.get("updated_at")),
            **schemas.shown(*data),
        )  # fmt: skip
        return HttpReply(OK, body, {"ETag": f'"{body.epoch}"'})

    @operation(
        "DELETE /v1/sessions/{id}",
        callers=Caller.OWNER,
        headers=(IF_MATCH,),
        answers={NO_CONTENT: Answer("closed")},
        problems=(FENCED,),
    )
    async def close(self, call: HttpCall) -> HttpReply:
        """Closes a session: the call ended."""
        await call.own_session.close()
        return HttpReply(NO_CONTENT)

    @operation(
        "GET /v1/sessions/{id}/owner",
        callers=Caller.WORKER | Caller.ADMINISTRATOR,
        answers={OK: Answer("its owner", schemas.Owner)},
        problems=(NOT_FOUND, GONE),
    )
    async def owner(self, call: HttpCall) -> HttpReply:
        """Returns the address of a session's owner, so that the caller can be sent there."""
        session_id = check_session_id(call.path["id"])
        part = self._part_of(session_id)
        where = await lookups.owner_of(part, session_id)
        if not where.state:
            raise not_known(session_id)
        if call.asker.worker is not None and call.asker.worker.worker.settings.tenant not in ("", where.tenant):
            raise TenantError(session_id)
        if (over := ended(session_id, where.state)) is not None:
            raise over
        if not where.owner:
            raise Problem(NOT_FOUND, f"session {session_id!r} is {where.state} and has no owner", state=where.state)
        owner = await lookups.reachable(part, where.owner)
        if owner.state == InstanceState.DEAD:
            raise Problem(NOT_FOUND, f"the owner of session {session_id!r} is dead", state=where.state)
        body = schemas.Owner(session=session_id, state=where.state, instance=where.owner, address=owner.address)
        return HttpReply(OK, body)

    @operation(
        "PUT /v1/sessions/{id}/checkpoint",
        callers=Caller.OWNER,
        body=schemas.Checkpoint,
        headers=(IF_MATCH,),
        answers={NO_CONTENT: Answer("written")},
        problems=(FENCED, CONFLICT),
    )
    async def checkpoint(self, call: HttpCall) -> HttpReply:
        """Writes newer recovery data."""
        body, session = call.read(schemas.Checkpoint), call.own_session
        data = schemas.data_of(body)
        if data is None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a checkpoint needs recovery_data or recovery_data_base64")
        written = await session.checkpoint_numbered(data, body.sequence)
        if not written and body.sequence is not None and body.sequence < session.sequence:
            raise Problem(
                CONFLICT, f"checkpoint {body.sequence} is older than {session.sequence}, which is written",
                sequence=session.sequence,
            )  # fmt: skip
        return HttpReply(NO_CONTENT, headers={"ETag": f'"{session.epoch}"'})

    @operation(
        "POST /v1/sessions/{id}/release",
        callers=Caller.OWNER,
        body=schemas.Release,
        headers=(IF_MATCH_OPTIONAL,),
        answers={NO_CONTENT: Answer("on offer")},
        problems=(FENCED,),
    )
    async def release(self, call: HttpCall) -> HttpReply:
        """Gives a session up, to be offered to other workers."""
        await call.own_session.release(call.read(schemas.Release).reason)
        return HttpReply(NO_CONTENT)

    @operation(
        "POST /v1/sessions/{id}/resumed",
        callers=Caller.OWNER,
        headers=(IF_MATCH_OPTIONAL,),
        answers={NO_CONTENT: Answer("noted")},
        problems=(FENCED,),
    )
    async def resumed(self, call: HttpCall) -> HttpReply:
        """States that the media is up again."""
        await call.own_session.resumed()
        return HttpReply(NO_CONTENT)

    @operation(
        "POST /v1/sessions/{id}/let-go",
        callers=Caller.OWNER,
        body=schemas.LetGo,
        headers=(IF_MATCH_OPTIONAL,),
        answers={NO_CONTENT: Answer("the heir may speak")},
        problems=(FENCED, CONFLICT),
    )
    async def let_go(self, call: HttpCall) -> HttpReply:
        """Answers `letting_go`: the worker has stopped speaking."""
        hosted, session = call.worker, call.own_session
        data = schemas.data_of(call.read(schemas.LetGo))
        if data is not None:
            session.stage(data)
        if not hosted.handovers.let_go(session.id):
            raise Problem(CONFLICT, f"{hosted.handle} was not asked to let go of {session.id!r}")
        return HttpReply(NO_CONTENT)
