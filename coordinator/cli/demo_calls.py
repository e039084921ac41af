"""What became of each call of the demo: told by the workers and by the events in Redis, judged byte by byte."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coordinator.cli.demo_data import recovery_data
from coordinator.ids import name_of

__all__ = ["Call", "Calls"]

Data = Literal["unknown", "acknowledged", "in_flight", "different"]


@dataclass(slots=True)
class Call:
    """One call's way. Times are milliseconds of the Redis server's clock, on the same machine."""

    session: str
    owner: str
    epoch_before: int = 0
    acknowledged: int = -1
    """Number of the last checkpoint that its first owner reported as acknowledged."""
    died_ms: int | None = None
    declared_ms: int | None = None
    cause: str = ""
    offered_ms: int | None = None
    adopted_ms: int | None = None
    adopter: str = ""
    epoch_after: int | None = None
    data: bytes | None = None
    """What the adopter was given."""
    fenced: bool = False

    @property
    def verdict(self) -> Data:
        """Whether the data recovered is the last acknowledged, or the one on its way when the owner was killed."""
        if self.data is None:
            return "unknown"
        if self.data == recovery_data(self.session, self.acknowledged):
            return "acknowledged"
        return "in_flight" if self.data == recovery_data(self.session, self.acknowledged + 1) else "different"

    @property
    def recovered(self) -> bool:
        """Adopted by another, under a higher epoch, with the data last checkpointed."""
        return (
            self.adopted_ms is not None
            and self.epoch_after is not None
            and self.epoch_after > self.epoch_before
            and self.verdict in ("acknowledged", "in_flight")
        )

    def since_death(self, at_ms: int | None) -> int | None:
        """Milliseconds from the death of its owner; None when either did not happen."""
        return None if at_ms is None or self.died_ms is None else at_ms - self.died_ms

    def as_data(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "session": self.session,
            "owner": self.owner,
            "epoch_before": self.epoch_before,
            "acknowledged": self.acknowledged,
            "cause": self.cause,
            "declared_ms": self.since_death(self.declared_ms),
            "offered_ms": self.since_death(self.offered_ms),
            "adopted_ms": self.since_death(self.adopted_ms),
            "adopter": self.adopter,
            "epoch_after": self.epoch_after,
            "data": self.verdict,
            "recovered": self.recovered,
        }


@dataclass(slots=True)
class Calls:
    """All calls of a run."""

    by_session: dict[str, Call] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    """Names of the workers that have opened all their calls."""

    def add(self, session: str, owner: str) -> None:
        """A call that ``owner`` is going to open."""
        self.by_session[session] = Call(session, owner)

    def of(self, owner: str) -> list[Call]:
        """The calls that ``owner`` opened."""
        return [call for call in self.by_session.values() if call.owner == owner]

    def reported(self, worker: str, line: Mapping[str, object]) -> Call | None:
        """Takes a worker's report; the call that it tells of, if any."""
        if line["what"] == "ready":
            self.ready.add(worker)
            return None
        call = self.by_session[str(line["session"])]
        epoch = int(str(line["epoch"]))
        match line["what"]:
            case "opened":
                call.epoch_before, call.acknowledged = epoch, 0
            case "checkpointed" if worker == call.owner and epoch == call.epoch_before:
                call.acknowledged = int(str(line["sequence"]))
            case "adopted":
                call.data, call.epoch_after = b64decode(str(line["data"])), epoch
            case "fenced":
                call.fenced = True
        return call

    def event(self, fields: Mapping[str, str]) -> list[Call]:
        """Takes an entry of the event stream; the calls that changed hands by it."""
        at = int(fields["at"])
        match fields["type"]:
            case "died":
                for call in self.of(name_of(fields["instance"])):
                    call.declared_ms, call.cause = at, fields.get("cause", "")
            case "orphaned":
                for session in fields.get("sessions", "").split("\n"):
                    if session in self.by_session:
                        self.by_session[session].offered_ms = at
            case "adopted" if fields["session"] in self.by_session:
                call = self.by_session[fields["session"]]
                call.adopted_ms, call.adopter = at, name_of(fields["instance"])
                return [call]
        return []
