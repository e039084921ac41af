"""What a session is: its turns, its metrics, and what is computed from them.

Names, defaults and arithmetic are those of omnivoice-core v0.15.0 (``storage/types.go``). The response times are declared
there and never computed; here they are (`responses_ms`). What it does not have at all is the call's progress and its
turns' latencies: a save by Go erases both.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from coordinator.sessions.errors import InvalidStateError
from coordinator.sessions.timestamp import ZERO, Timestamp
from coordinator.voice import CallProgress, LatencyTotals, TurnLatencies

__all__ = ["Direction", "Origin", "SessionMetrics", "SessionState", "SessionStatus", "Turn", "responses_ms"]


class SessionStatus(StrEnum):
    """The statuses that have a meaning; any other text is kept, and counts as under way."""

    PENDING = "pending"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    TRANSFERRING = "transferring"
    ENDED = "ended"
    CONNECTING = "connecting"
    """Of omnivoice-core's documentation, not of its code: the same as pending."""
    FAILED = "failed"
    """Of omnivoice-core's documentation, not of its code: the call is over."""


TERMINAL = frozenset({SessionStatus.ENDED, SessionStatus.FAILED})
WAITING = frozenset({SessionStatus.PENDING, SessionStatus.CONNECTING})


class Direction(StrEnum):
    """Who called."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(slots=True)
class Turn:
    """One turn of the conversation.

    Attributes:
        role: who spoke: ``user`` or ``agent``; other words are kept and count as turns only.
        content: the transcript.
        timestamp: when it was added, which is when it had been spoken.
        duration_ms: how long it was spoken, in milliseconds.
        extra: fields that this program does not know, kept.
    """

    role: str = ""
    content: str = ""
    timestamp: Timestamp = ZERO
    duration_ms: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Turn {self.role} {self.duration_ms} ms>"  # what was said belongs in no log


@dataclass(slots=True)
class SessionMetrics:
    """Figures of one session; times in milliseconds, 0 for a response time that is not known.

    Attributes:
        first_response_ms, average_response_ms: see `responses_ms`.
        extra: fields that this program does not know, kept.
        latencies: what the parts of the turns took, all workers of the call together.
    """

    turn_count: int = 0
    interruption_count: int = 0
    user_speech_duration_ms: int = 0
    agent_speech_duration_ms: int = 0
    first_response_ms: int = 0
    average_response_ms: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    latencies: LatencyTotals = field(default_factory=LatencyTotals)


@dataclass(slots=True)
class Origin:
    """What a store remembers of the state that it gave or took: nothing of it is written.

    Attributes:
        tenant: whose store it was.
        version: of the stored bytes (`coordinator.sessions.header.version_of`).
        sequence: how often the sealed part was written, 0 when it never was.
        ended: whether it was stored as ended.
    """

    tenant: str
    version: str
    sequence: int
    ended: bool


@dataclass(slots=True)
class SessionState:
    """The state of one call that outlives its worker.

    Attributes:
        id: the session's id.
        created_at, updated_at: the latter moves with every save and heartbeat until the session has ended.
        call_id, provider, direction, from_, to, status: of the call; ``from_`` is ``from`` in JSON.
        history: the turns, oldest first.
        metrics: figures.
        recovery_data: what a worker needs to attach to the call again; JSON-able. Whole numbers of any size are kept here, but
            a Go program reads them as float64: ids above 2^53 belong in text.
        extra: fields that this program does not know, kept.
        progress: what the call is doing, and what was cut off when its worker died.
    """

    id: str
    created_at: Timestamp = field(default_factory=Timestamp.now)
    updated_at: Timestamp = field(default_factory=Timestamp.now)
    call_id: str = ""
    provider: str = ""
    direction: str = ""
    from_: str = ""
    to: str = ""
    status: str = SessionStatus.PENDING
    history: list[Turn] = field(default_factory=list)
    metrics: SessionMetrics = field(default_factory=SessionMetrics)
    recovery_data: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    null_history: bool = field(default=False, compare=False)
    """Whether an empty history is written as ``null``, as a Go program does that made its struct by hand."""
    origin: Origin | None = field(default=None, compare=False)
    """Set by a store: None for a state that was never loaded nor saved."""
    sealed: tuple[str, str] | None = field(default=None, compare=False)
    """Set by a store: what was sealed last, so that a repeated save is the same bytes."""
    progress: CallProgress = field(default_factory=CallProgress)

    @property
    def ended(self) -> bool:
        """Whether the call is over: ``ended``, or ``failed`` as omnivoice-core's documentation has it."""
        return self.status in TERMINAL

    @property
    def waiting(self) -> bool:
        """Whether the call is not established yet: ``pending``, or ``connecting`` as the documentation has it."""
        return self.status in WAITING

    @property
    def duration(self) -> dt.timedelta:
        """From its creation to its end, or until now while it is under way."""
        end = self.updated_at if self.ended else Timestamp.now()
        return dt.timedelta(microseconds=(end.ns - self.created_at.ns) // 1000)

    def add_turn(self, role: str, content: str, duration_ms: int, latencies: TurnLatencies | None = None) -> Turn:
        """Appends what was just spoken, and brings the metrics up to date, the response times too.

        `SessionManager.record_turn` does the same, and writes a span and histograms.

        Args:
            role: ``user`` or ``agent``; others count as turns, not as speech.
            content: the transcript.
            duration_ms: how long it was spoken, in milliseconds.
            latencies: what is known of how long it took to come, for an agent's turn.
        """
        turn = Turn(role, content, Timestamp.now(), duration_ms)
        self.history.append(turn)
        self.metrics.turn_count += 1
        if role == "user":
            self.metrics.user_speech_duration_ms += duration_ms
        elif role == "agent":
            self.metrics.agent_speech_duration_ms += duration_ms
            if responses := responses_ms(self.history):
                self.metrics.first_response_ms = responses[0]
                self.metrics.average_response_ms = round(sum(responses) / len(responses))
        if latencies is not None:
            self.metrics.latencies.add(latencies)
        self.updated_at = Timestamp.now()
        return turn

    def record_interruption(self) -> None:
        """The user spoke while the agent did."""
        self.metrics.interruption_count += 1
        self.updated_at = Timestamp.now()

    def detached(self) -> SessionState:
        """A copy that no store knows: to write it somewhere else, or to another tenant on purpose.

        Raises:
            InvalidStateError: it is nested so deep that no store would take it.
        """
        try:
            other = copy.deepcopy(self)
        except RecursionError:
            raise InvalidStateError("recovery_data or extra is nested too deep to be copied") from None
        other.origin = other.sealed = None
        return other

    def __repr__(self) -> str:
        return f"<SessionState {self.id} {self.status} turns={len(self.history)}>"  # no numbers, no words: it may be logged


def responses_ms(history: Iterable[Turn]) -> list[int]:
    """How long the user waited for each answer, in whole milliseconds.

    A turn is added when it has been spoken: it ended at its timestamp, and began its duration before. An answer is an agent's
    turn that comes next after a user's; the wait is from the end of the user's turn to the beginning of the agent's. A greeting
    answers nothing, nor does an agent's second turn in a row. An agent that began before the user had ended did not
    wait: it is left out. Turns of other roles (tools) stand between and change nothing.
    """
    responses: list[int] = []
    asked: Turn | None = None
    for turn in history:
        if turn.role == "user":
            asked = turn
        elif turn.role == "agent":
            if asked is not None:
                wait = (turn.timestamp.ns - asked.timestamp.ns) // 1_000_000 - turn.duration_ms
                if wait >= 0:
                    responses.append(wait)
            asked = None
    return responses
