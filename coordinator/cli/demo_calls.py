"""The way of each call of the demo, by the events and records in Redis and by what the adopters print."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coordinator.ids import name_of

__all__ = ["Calls", "DemoCall"]

Data = Literal["unknown", "acknowledged", "different"]
ADOPTED = re.compile(r"(?P<session>\S+) adopted at (?P<sequence>\d+)\s*")


@dataclass(slots=True)
class DemoCall:
    """One call's way. Times are milliseconds of the Redis server's clock, on the same machine."""

    session: str
    owner: str
    epoch_before: int = 0
    accepted: bytes = b""
    """Sequence that Redis had accepted last when the owner was dead."""
    died_ms: int | None = None
    declared_ms: int | None = None
    cause: str = ""
    offered_ms: int | None = None
    adopted_ms: int | None = None
    adopter: str = ""
    epoch_after: int | None = None
    sequence: int | None = None
    """Sequence of the data that the adopter says it was given."""
    fenced: bool = False

    @property
    def verdict(self) -> Data:
        """Whether the data that the adopter was given is what was accepted last."""
        if self.sequence is None or not self.accepted:
            return "unknown"
        last = json.loads(self.accepted)
        same = (last["call_sid"], last["sequence"]) == (self.session, self.sequence)
        return "acknowledged" if same else "different"

    @property
    def recovered(self) -> bool:
        """Adopted by another, under a higher epoch, with the data accepted last."""
        return (
            self.adopted_ms is not None
            and self.epoch_after is not None
            and self.epoch_after > self.epoch_before
            and self.verdict == "acknowledged"
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
            "sequence": self.sequence,
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

    by_session: dict[str, DemoCall] = field(default_factory=dict)

    def add(self, session: str, owner: str) -> None:
        """A call that ``owner`` is going to open."""
        self.by_session[session] = DemoCall(session, owner)

    def of(self, owner: str) -> list[DemoCall]:
        """The calls that ``owner`` opened."""
        return [call for call in self.by_session.values() if call.owner == owner]

    def said(self, line: str) -> None:
        """Takes a line that a worker printed."""
        if (match := ADOPTED.fullmatch(line)) and match["session"] in self.by_session:
            self.by_session[match["session"]].sequence = int(match["sequence"])

    def event(self, fields: Mapping[str, str]) -> DemoCall | None:
        """Takes an entry of the event stream; returns the call that it took from a living worker, if any."""
        at = int(fields["at"])
        call = self.by_session.get(fields.get("session", ""))
        match fields["type"]:
            case "died":
                for dead in self.of(name_of(fields["instance"])):
                    dead.declared_ms, dead.cause = at, fields.get("cause", "")
            case "orphaned":
                for session in fields.get("sessions", "").split("\n"):
                    if session in self.by_session:
                        self.by_session[session].offered_ms = at
            case "opened" if call is not None:
                call.epoch_before = int(fields["epoch"])
            case "adopted" if call is not None:
                call.adopted_ms, call.adopter = at, name_of(fields["instance"])
                call.epoch_after = int(fields["epoch"])
            case "fenced" if call is not None:
                call.fenced = True
                return call
        return None
