"""The recovery data of a bot's call: its context, and the program's own data beside it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.adapters.pipecat.context_bounds import SizedMessage, fit_context
from coordinator.errors import DataTooLargeError, InvalidDataError
from coordinator.worker.data import encode

__all__ = ["ContextRecord", "RecordDraft", "draft_record", "new_call", "plain_message", "read_record"]

FORM = 1
"""Of the record, under the key ``pipecat``."""
TURNS = ("progress", "latencies")
"""What `FrameTurns` has kept, beside the context."""
ANY_SIZE = 2**62
WRAPPING_BYTES = len(encode({"m": 0}, ANY_SIZE)[0]) - 1 - len(b",")
"""What `encode` needs around one message beside the message; a comma follows it in the record."""


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """What a worker finds.

    Attributes:
        messages: of the context, as JSON has them; those of a service's own form as ``{"llm_specific": ..., "message": ...}``.
        dropped_turns: how many turns before them did not fit.
        data: the program's own.
        turns: what the call was doing, and what its turns took, for `FrameTurns`.
        fault: why nothing could be read; '' when all is well.
    """

    messages: list[Any] = field(default_factory=list)
    dropped_turns: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    turns: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RecordDraft:
    """What a worker writes.

    Attributes:
        recovery_data: for `Session.checkpoint`.
        dropped_turns: how many turns did not fit, earlier ones included.
        is_lost: not even what the system was told fits; the program's data is written alone.
        unwritable: why a message could not be written, '' when all could.
    """

    recovery_data: dict[str, Any]
    dropped_turns: int
    is_lost: bool
    unwritable: str


def new_call(data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the recovery data with which a bot's call is opened.

    Args:
        data: the program's own, JSON-able: what the bot needs to join the call's room, for instance.
    """
    return {"pipecat": FORM, "context": [], "dropped_turns": 0, "data": dict(data or {})}


def read_record(recovery_data: object) -> ContextRecord:
    """Reads recovery data; never raises, as a call without its past is better than none.

    A mapping without this record is taken for the program's own data: a call may be opened by a program that knows nothing of
    Pipecat.
    """
    if not recovery_data:
        return ContextRecord()
    if not isinstance(recovery_data, Mapping):
        return ContextRecord(fault="the recovery data is not a JSON object")
    if "pipecat" not in recovery_data:
        return ContextRecord(data=dict(recovery_data))
    messages, data = recovery_data.get("context"), recovery_data.get("data")
    dropped = recovery_data.get("dropped_turns")
    kept = dict(data) if isinstance(data, dict) else {}
    turns = {name: recovery_data[name] for name in TURNS if name in recovery_data}
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return ContextRecord(data=kept, turns=turns, fault="its context is not a list of messages")
    return ContextRecord(messages, dropped if isinstance(dropped, int) and dropped > 0 else 0, kept, turns)


def plain_message(message: object) -> object:
    """A message of a context as JSON can have it: one in a service's own form says for which service it is."""
    if isinstance(message, Mapping):
        return dict(message)
    if hasattr(message, "llm") and hasattr(message, "message"):
        return {"llm_specific": message.llm, "message": message.message}
    return message


def draft_record(
    messages: Iterable[object],
    data: Mapping[str, Any],
    most_bytes: int,
    dropped_before: int = 0,
    turns: Mapping[str, Any] | None = None,
) -> RecordDraft:
    """Makes the newest record that fits.

    Args:
        messages: of the context.
        data: the program's own.
        most_bytes: the setting ``max_data_bytes``.
        dropped_before: how many turns did not fit in the record from which the context was restored.
        turns: of `FrameTurns`; left out where the newest turn of the context does not fit beside it.

    Raises:
        DataTooLargeError, InvalidDataError: the program's own data alone cannot be written.
    """
    around = len(encode(new_call(data) | {"dropped_turns": ANY_SIZE // 2**10}, most_bytes)[0])
    beside = dict(turns or {})
    sized, unwritable = [], ""
    for one in map(plain_message, messages):
        try:
            size = len(encode({"m": one}, ANY_SIZE)[0]) - WRAPPING_BYTES
        except (InvalidDataError, DataTooLargeError) as error:
            unwritable = str(error)
            continue
        sized.append(SizedMessage(one, size))
    room = most_bytes - around
    fitted = fit_context(sized, room - (len(encode(beside, ANY_SIZE)[0]) - len("}") if beside else 0))
    if fitted.is_lost or fitted.messages[-1:] != [one.message for one in sized[-1:]]:
        fitted, beside = fit_context(sized, room), {}
    dropped = dropped_before + fitted.dropped_turns
    record = new_call(data) | {"context": fitted.messages, "dropped_turns": dropped} | beside
    return RecordDraft(record, dropped, fitted.is_lost, unwritable)
