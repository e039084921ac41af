"""The one place that compares the callers that an operation declares with the caller of a request."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from coordinator.ids import check_session_id
from coordinator.sidecar.access import SidecarAccess
from coordinator.sidecar.callers import Asker, Caller
from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.requests import IF_MATCH, WORKER_TOKEN, read_parameters
from coordinator.sidecar.routing import HttpCall, Operation

__all__ = ["CallerGate"]

Headers = Mapping[str, list[str]]


class CallerGate:
    """Admits a request under the identity of its caller, or refuses it."""

    def __init__(self, access: SidecarAccess, registry: Registry) -> None:
        self._access, self._registry = access, registry

    async def admit(
        self, operation: Operation, path: Mapping[str, str], scope: Mapping[str, Any], headers: Headers
    ) -> Asker:
        """Before anything is read or done: finds the caller, and admits it if it may call the operation.

        Where a worker may ask, a Worker-Token that is shown has to be right, even if something else would let the request in.
        For other operations only an API token makes up for a wrong one.

        Raises:
            Problem: 401 the request shows nothing that counts, 403 what it shows is too little; 404, 410, 503 as `Registry.by_handle`.
            StoreUnavailableError: the worker had to be looked up, and the store did not answer.
        """
        callers = operation.callers
        if Caller.ANYONE in callers:
            return Asker()
        own = self._worker_token(headers)
        if Caller.PROCESS in callers:
            return self._process(own, scope)
        bearer = "" if self._access.has_token(headers) else self._access.bearer(headers)
        token = own or bearer or None  # many HTTP libraries know no other header for a token
        administrator = self._administrates(callers, scope, headers, (own or "", bearer))
        if not callers.is_worker:
            if administrator:
                return Asker(administrator=True)
            raise self._not_an_administrator(callers, bearer or own)
        if token is None and administrator:
            return Asker(self._registry.living(path["instance"]) if "instance" in path else None, administrator=True)
        try:
            worker = await self._worker(operation, path, token)
        except Problem as problem:
            if problem.status != HTTPStatus.FORBIDDEN or not administrator:
                raise
            worker = self._registry.living(path["instance"])
        return Asker(worker, administrator=administrator)

    def check_owner(self, call: HttpCall) -> None:
        """Checks at the moment of acting that a session which only its owner may touch is the asking worker's.

        Raises:
            Problem: 403 the worker asks for a record that is not its own.
            FencedError: the worker acts on a session that is not its own, or not under that epoch.
            InvalidIdError: invalid session id.
        """
        if Caller.OWNER not in call.operation.callers or call.asker.administrator:
            return
        session_id, worker = check_session_id(call.path["id"]), call.worker
        if call.operation.changes:
            call.session = worker.session(session_id, call.headers.get(IF_MATCH.name))
        elif worker.worker.owned(session_id) is None:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"session {session_id!r} is not owned by {worker.handle}: only its owner and administrators may read its record",
            )

    @staticmethod
    def _worker_token(headers: Headers) -> str | None:
        """The token in the header Worker-Token; a text that cannot be a token is as wrong as another token."""
        try:
            found: str | None = read_parameters((WORKER_TOKEN,), headers).get(WORKER_TOKEN.name)
        except Problem as problem:
            shown = {"WWW-Authenticate": WORKER_TOKEN.name}
            raise Problem(HTTPStatus.UNAUTHORIZED, problem.detail, headers=shown) from None
        return found

    @staticmethod
    def _process(token: str | None, scope: Mapping[str, Any]) -> Asker:
        if token is None:
            raise Problem(
                HTTPStatus.UNAUTHORIZED, "show in Worker-Token the token with which the instances register",
                headers={"WWW-Authenticate": "Worker-Token"},
            )  # fmt: skip
        if not SidecarAccess.is_unix(scope):
            raise Problem(HTTPStatus.FORBIDDEN, "the asking process cannot be seen: ask over the unix socket")
        return Asker(token=token)

    def _administrates(
        self, callers: Caller, scope: Mapping[str, Any], headers: Headers, shown: tuple[str, ...]
    ) -> bool:
        """Whether the request may be an administrator's here; an unknown token takes away the right of its user."""
        if not callers & (Caller.ADMINISTRATOR | Caller.TOKEN_HOLDER):
            return False
        if self._access.has_token(headers):
            return True
        if Caller.ADMINISTRATOR not in callers or any(one and not self._registry.is_known(one) for one in shown):
            return False
        return self._access.is_administrators(scope)

    def _not_an_administrator(self, callers: Caller, token: str | None) -> Problem:
        needed = "a valid API token (setting API_TOKEN) as Authorization: Bearer"
        if Caller.ADMINISTRATOR in callers:
            needed += ", or the sidecar's own user at the unix socket"
        if token is not None and self._registry.is_known(token):
            return Problem(HTTPStatus.FORBIDDEN, f"a worker's token does not suffice: this operation needs {needed}")
        if token:
            needed = f"{needed}; the token that was shown is unknown: show the right one, or none"
        return Problem(
            HTTPStatus.UNAUTHORIZED, f"this operation needs {needed}", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _worker(self, operation: Operation, path: Mapping[str, str], token: str | None) -> Hosted:
        handle = path.get("instance")
        if handle is None:
            return await self._registry.by_token(token)
        if operation.takes_up == "all":
            return await self._registry.attach(handle, token)
        if operation.takes_up == "expected":
            return await self._registry.attached(handle, token)
        return self._registry.by_handle(handle, token)
