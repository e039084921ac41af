"""Certificates: the word of a caller that knows that an instance ended."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from coordinator.sidecar import schemas
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, operation
from coordinator.store import calls
from coordinator.store.executor import StorePartition

__all__ = ["CertificateRoutes"]

OK, NOT_FOUND = HTTPStatus.OK, HTTPStatus.NOT_FOUND


class CertificateRoutes:
    """Operations on certificates.

    Args:
        parts: all partitions.
        by: the name that signs certificates.
    """

    def __init__(self, parts: Sequence[StorePartition], by: str) -> None:
        self._parts, self._by = parts, by

    @operation(
        "POST /v1/certificates",
        callers=Caller.TOKEN_HOLDER,
        body=schemas.Certificate,
        answers={OK: Answer("noted", schemas.Certified)},
        problems=(NOT_FOUND,),
    )
    async def certify(self, call: HttpCall) -> HttpReply:
        """States that an instance ended, also one that lives elsewhere."""
        body = call.read(schemas.Certificate)
        outcomes = set()
        for part in self._parts:
            answer = await part.executor.run(
                calls.certify(part.keys, instance=body.instance, cause="exited", by=self._by, reason=body.reason)
            )
            outcomes.add(answer.word)
        if outcomes == {"UNKNOWN"}:
            raise Problem(NOT_FOUND, f"instance {body.instance} is not known")
        outcome = "certified" if "OK" in outcomes else "already_dead"
        return HttpReply(OK, schemas.Certified(instance=body.instance, outcome=outcome))
