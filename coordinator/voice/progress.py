"""What a call is doing, and what it was doing when its worker died.

One table holds every transition that is allowed. A program keeps the progress where its heir finds it: in the conversation
(`coordinator.sessions.SessionState.progress`), or in recovery data as a mapping (`CallProgress.to_data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordinator.errors import CallStateError, InvalidDataError, InvalidValueError
from coordinator.printable import named

__all__ = ["CALL_TRANSITIONS", "CallProgress", "CallState", "call_transitions_table"]


class CallState(StrEnum):
    """What a call is doing."""

    CONNECTED = "connected"
    """Its media is up, and the conversation has not begun, or not again."""
    LISTENING = "listening"
    """The caller has the word."""
    PROCESSING = "processing"
    """The caller has said something, and the answer is being made."""
    RESPONDING = "responding"
    """The agent speaks."""
    RECONNECTING = "reconnecting"
    """Its media is not up: it was lost, or another worker takes the call over."""
    DISCONNECTED = "disconnected"
    """The call has ended; final."""

    @property
    def speaker(self) -> str:
        """Who has the word: ``user``, ``agent``, or '' where neither has."""
        return _SPEAKERS.get(self, "")


_SPEAKERS = {CallState.LISTENING: "user", CallState.RESPONDING: "agent"}
_TALKING = frozenset({CallState.LISTENING, CallState.PROCESSING, CallState.RESPONDING})

CALL_TRANSITIONS: Mapping[CallState, frozenset[CallState]] = {
    CallState.CONNECTED: _TALKING | {CallState.RECONNECTING, CallState.DISCONNECTED},
    CallState.LISTENING: frozenset(
        {CallState.PROCESSING, CallState.RESPONDING, CallState.RECONNECTING, CallState.DISCONNECTED}
    ),
    CallState.PROCESSING: frozenset(
        {CallState.LISTENING, CallState.RESPONDING, CallState.RECONNECTING, CallState.DISCONNECTED}
    ),
    CallState.RESPONDING: frozenset(
        {CallState.LISTENING, CallState.PROCESSING, CallState.RECONNECTING, CallState.DISCONNECTED}
    ),
    CallState.RECONNECTING: frozenset({CallState.CONNECTED, CallState.DISCONNECTED}),
    CallState.DISCONNECTED: frozenset(),
}
"""The states that may follow each state, besides itself. Without media a call neither listens nor responds."""


def call_transitions_table() -> str:
    """The table as Markdown, as it stands in ``docs/sessions.md``."""
    rows = ["| from | to |", "|---|---|"]
    for before, allowed in CALL_TRANSITIONS.items():
        after = ", ".join(f"`{state}`" for state in CallState if state in allowed)
        rows.append(f"| `{before}` | {after or 'none: it is final'} |")
    return "\n".join(rows)


@dataclass(slots=True)
class CallProgress:
    """The state of one call, which changes by `move_to` alone.

    Attributes:
        state: what it is doing now.
        interrupted: what it was doing when its media or its worker was lost, until the conversation goes on: ``listening``,
            ``processing`` or ``responding``. None where nothing was cut off. A worker that dies before the conversation
            goes on leaves this as it was.
    """

    state: CallState = CallState.CONNECTED
    interrupted: CallState | None = None

    def can_move_to(self, state: CallState | str) -> bool:
        """Whether `move_to` would take this state.

        Raises:
            InvalidValueError: no call state has this name.
        """
        after = _known(state)
        return after is self.state or after in CALL_TRANSITIONS[self.state]

    def move_to(self, state: CallState | str) -> bool:
        """The call does something else from now on. Safe to repeat.

        Returns:
            Whether anything changed: False when the call was in this state already.

        Raises:
            CallStateError: the state may not follow the present one; nothing has changed.
            InvalidValueError: no call state has this name; nothing has changed.
        """
        after = _known(state)
        if after is self.state:
            return False
        if after not in CALL_TRANSITIONS[self.state]:
            allowed = [one for one in CallState if one in CALL_TRANSITIONS[self.state]]
            raise CallStateError(self.state, after, allowed)
        if after is CallState.RECONNECTING and self.state in _TALKING:
            self.interrupted = self.state
        elif after in _TALKING:
            self.interrupted = None
        self.state = after
        return True

    def recovered(self) -> CallProgress:
        """The progress with which an heir begins: ``reconnecting``, and `interrupted` says what was cut off.

        A call that has ended stays ended. Safe to repeat.
        """
        heirs = CallProgress(self.state, self.interrupted)
        if heirs.can_move_to(CallState.RECONNECTING):
            heirs.move_to(CallState.RECONNECTING)
        return heirs

    def called_again(self) -> CallProgress:
        """The progress of a caller who is on the line again: ``connected``, and `interrupted` says what was cut off.

        After a call that had ended nothing was.
        """
        heirs = self.recovered()
        return CallProgress() if heirs.state is CallState.DISCONNECTED else CallProgress(interrupted=heirs.interrupted)

    def to_data(self) -> dict[str, str]:
        """The progress as a JSON-able mapping, for recovery data."""
        data = {"state": self.state.value}
        return data if self.interrupted is None else {**data, "interrupted": self.interrupted.value}

    @classmethod
    def from_data(cls, data: object) -> CallProgress:
        """The progress from what `to_data` made. Fields that this program does not know are left out.

        Raises:
            InvalidDataError: it is no progress of a call.
        """
        if not isinstance(data, Mapping):
            raise InvalidDataError(f"the progress of a call is a mapping, not {type(data).__name__}")
        interrupted = data.get("interrupted")
        try:
            progress = cls(_known(data.get("state")), None if interrupted is None else _known(interrupted))
        except InvalidValueError as error:
            raise InvalidDataError(f"the progress of a call has an unknown state: {error}") from None
        if progress.interrupted is not None and progress.interrupted not in _TALKING:
            raise InvalidDataError(f"a call that was {named(interrupted)} was not interrupted: only a conversation is")
        if progress.state in _TALKING:  # the conversation goes on: what was cut off is over
            progress.interrupted = None
        return progress

    @classmethod
    def inherited(cls, data: object) -> CallProgress:
        """The progress with which an heir begins, from recovery data; never raises.

        What cannot be read, or was never written, says nothing about what was cut off.
        """
        try:
            return cls.from_data(data).recovered()
        except InvalidDataError:
            return cls().recovered()


def _known(state: object) -> CallState:
    try:
        return CallState(state)  # type: ignore[arg-type]  # whatever was given
    except ValueError:
        raise InvalidValueError("call state", state, f"one of {', '.join(CallState)}") from None
