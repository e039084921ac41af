"""A session as JSON, byte for byte as omnivoice-core v0.15.0 writes it (Go's ``encoding/json``).

Compact, fields in the order of the Go struct; ``<``, ``>``, ``&`` and the two Unicode line ends escaped; whole numbers never as
floats; ``call_id``, ``recovery_data`` and unknown response times left out when empty; keys of ``recovery_data`` sorted. Times keep
their text, floats that were read keep theirs. Two fields that Go does not have (`call_state`, and `latencies` of the metrics) follow
the known ones of their object where there is something to say; unknown fields come last.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from coordinator.bounds import MOST_STATE_BYTES, READABLE_DEPTH, check_depth, is_nested_deeper
from coordinator.errors import InvalidDataError
from coordinator.sessions.errors import CorruptSessionError, InvalidStateError
from coordinator.sessions.state import SessionMetrics, SessionState, Turn
from coordinator.sessions.timestamp import ZERO, Timestamp
from coordinator.voice import CallProgress, LatencyTotals

__all__ = ["KeptFloat", "decode", "decode_time", "encode", "parse", "whole_text"]

T = TypeVar("T")

_quote = json.encoder.encode_basestring  # escapes quotes, backslashes and control characters, as Go does
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_LONE = re.compile("[\ud800-\udfff]")
_INT64 = 1 << 63
_MOST_WHOLE = int(sys.float_info.max)

_TURN = ("role", "content", "timestamp", "duration_ms")
_METRICS = (
    "turn_count", "interruption_count", "user_speech_duration_ms", "agent_speech_duration_ms", "first_response_ms",
    "average_response_ms",
)  # fmt: skip
_SESSION = (
    "id", "created_at", "updated_at", "call_id", "provider", "direction", "from", "to", "status", "history", "metrics",
    "recovery_data",
)  # fmt: skip

_PROGRESS, _LATENCIES = "call_state", "latencies"
_NO_PROGRESS = CallProgress()


class KeptFloat(float):
    """A float that was read from JSON, with the text that it was; it is written as that text again."""

    text: str

    def __new__(cls, text: str) -> KeptFloat:  # noqa: D102
        self = super().__new__(cls, text)
        self.text = text
        return self


def _float(value: float) -> str:
    """As Go writes a float64: no exponent from 1e-6 up, no ``.0``; but from 1e16 with one (Go: from 1e21), since digits alone
    would be read back as a whole number that the float never was.
    """
    if isinstance(value, KeptFloat) and math.isfinite(value):
        return value.text
    if not math.isfinite(value):
        raise InvalidStateError(f"{value} is not a number that JSON has")
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    shortest = float.__repr__(value)
    if 1e-6 <= abs(value) < 1e16:
        return format(Decimal(shortest), "f").removesuffix(".0")
    return shortest.replace("e-0", "e-")


def _json(value: Any, *, ordered: bool) -> str:
    """Any JSON-able value; ``ordered`` sorts the keys of objects, as Go does with maps."""
    if isinstance(value, str):
        return _quote(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > _MOST_WHOLE:
            raise InvalidStateError("a whole number is beyond what a Go program can read, 1.8e308")
        return int.__repr__(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidStateError("an object has a key that is not text")
        keys = sorted(value) if ordered else value
        return "{" + ",".join(f"{_quote(key)}:{_json(value[key], ordered=ordered)}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(item, ordered=ordered) for item in value) + "]"
    raise InvalidStateError(f"a value of type {type(value).__name__} cannot be written as JSON")


def _int(value: int, name: str) -> str:
    if type(value) is not int or not -_INT64 <= value < _INT64:
        kind = "too large" if type(value) is int else f"of type {type(value).__name__}"
        raise InvalidStateError(f"{name} must be a whole number of 64 bits, and is {kind}")
    return str(value)


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidStateError(f"{name} must be text, not {type(value).__name__}")
    return _quote(value)


def _time(value: Timestamp, name: str) -> str:
    if not isinstance(value, Timestamp):
        raise InvalidStateError(f"{name} must be a Timestamp, not {type(value).__name__}")
    return f'"{value.text}"'


def _extra(extra: Mapping[str, Any], known: tuple[str, ...], ours: Mapping[str, Any] | None = None) -> str:
    """What follows the fields that Go knows: fields of ours, then those of ``extra`` under other names."""
    if not extra and not ours:
        return ""
    if taken := sorted(key for key in extra if str(key).lower() in known):
        raise InvalidStateError(f"extra must not have the fields {', '.join(taken)}: they have attributes")
    return "," + _json({**ours, **extra, **ours} if ours else extra, ordered=False)[1:-1]


def _turn(turn: Turn) -> str:
    return (
        f'{{"role":{_text(turn.role, "role")},"content":{_text(turn.content, "content")},'
        f'"timestamp":{_time(turn.timestamp, "timestamp")},"duration_ms":{_int(turn.duration_ms, "duration_ms")}'
        f"{_extra(turn.extra, _TURN)}}}"
    )


def _metrics(metrics: SessionMetrics) -> str:
    values = {name: _int(getattr(metrics, name), name) for name in _METRICS}
    kept = (f'"{name}":{value}' for name, value in values.items() if value != "0" or not name.endswith("response_ms"))
    ours = {_LATENCIES: metrics.latencies.to_data()} if metrics.latencies else None
    return "{" + ",".join(kept) + _extra(metrics.extra, _METRICS, ours) + "}"


def _history(state: SessionState) -> str:
    if not state.history and state.null_history:
        return "null"
    return "[" + ",".join(map(_turn, state.history)) + "]"


def encode(state: SessionState, *, history: str | None = None) -> bytes:
    """The JSON of a state.

    Args:
        state: what to write.
        history: JSON to stand in the place of the history (a sealed session's).

    Raises:
        InvalidStateError: a field has a type or a value that Go could not read, is nested too deep, or all is too large.
    """
    _check_depth(state)
    call_id = f'"call_id":{_text(state.call_id, "call_id")},' if state.call_id else ""
    progress = None if state.progress == _NO_PROGRESS else {_PROGRESS: state.progress.to_data()}
    try:
        recovery = f',"recovery_data":{_json(state.recovery_data, ordered=True)}' if state.recovery_data else ""
        text = (
            f'{{"id":{_text(state.id, "id")},"created_at":{_time(state.created_at, "created_at")},'
            f'"updated_at":{_time(state.updated_at, "updated_at")},{call_id}"provider":{_text(state.provider, "provider")},'
            f'"direction":{_text(state.direction, "direction")},"from":{_text(state.from_, "from")},"to":{_text(state.to, "to")},'
            f'"status":{_text(state.status, "status")},"history":{_history(state) if history is None else history},'
            f'"metrics":{_metrics(state.metrics)}{recovery}{_extra(state.extra, _SESSION, progress)}}}'
        )
    except RecursionError as error:
        raise InvalidStateError("recovery_data or extra is nested too deeply") from error
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    try:
        raw = text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs: U+FFFD, as Go writes them
        raw = whole_text(text).encode()
    if len(raw) > MOST_STATE_BYTES:
        raise InvalidStateError(f"the session is {len(raw)} bytes of JSON, above the limit of {MOST_STATE_BYTES} bytes")
    return raw


def _check_depth(state: SessionState) -> None:
    try:
        check_depth("recovery_data", state.recovery_data)
        for extra in (state.extra, state.metrics.extra, *(turn.extra for turn in state.history if turn.extra)):
            check_depth("extra", extra)
    except InvalidDataError as error:
        raise InvalidStateError(str(error)) from None


def whole_text(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs: as it is read again."""
    return _LONE.sub("\ufffd", text)


def _whole(text: str) -> int | KeptFloat:
    return KeptFloat(text) if text == "-0" else int(text)  # Go writes the float -0 so


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def parse(session_id: str, value: bytes) -> dict[str, Any]:
    """The JSON object in stored bytes, numbers and order kept.

    Raises:
        CorruptSessionError: it is not a session, or one that is nested too deep to be worked with.
    """
    if is_nested_deeper(value, READABLE_DEPTH):
        raise CorruptSessionError(session_id, f"it is nested more than {READABLE_DEPTH} deep")
    try:
        document = json.loads(
            value.decode(errors="replace"), parse_float=KeptFloat, parse_int=_whole, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        # the message of a decoding error has a position and no content
        raise CorruptSessionError(session_id, f"it is not JSON: {error}"[:200]) from None
    if not isinstance(document, dict):
        raise CorruptSessionError(session_id, "it is JSON, and not an object")
    return document


class _Object:
    """One JSON object, whose known fields are taken out one by one as Go would; what is left is unknown."""

    def __init__(self, session_id: str, document: Any, known: tuple[str, ...], where: str = "") -> None:
        self.id, self.where = session_id, where
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise CorruptSessionError(session_id, f"{where or 'it'} is not an object")
        self.left: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}
        for key, value in document.items():  # Go reads keys in any case
            name = key if key in known else key.lower()
            if name in known:
                self.fields[name] = value
            else:
                self.left[key] = value

    def wrong(self, name: str, what: str) -> CorruptSessionError:
        return CorruptSessionError(self.id, f"{self.where}{name} is not {what}")

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "text")
        return value or ""

    def int(self, name: str) -> int:
        value = self.fields.get(name)
        if isinstance(value, KeptFloat) and value.text == "-0":
            value = 0
        if value is not None and (type(value) is not int or not -_INT64 <= value < _INT64):
            raise self.wrong(name, "a whole number of 64 bits")
        return value or 0

    def time(self, name: str) -> Timestamp:
        value = self.fields.get(name)
        if value is None:
            return ZERO
        try:
            return Timestamp(value)
        except (ValueError, TypeError):
            raise self.wrong(name, "a time with an offset") from None


def decode_time(session_id: str, document: dict[str, Any], name: str) -> Timestamp:
    """One time of a session's JSON object.

    Raises:
        CorruptSessionError: it is not a time.
    """
    return _Object(session_id, document, _SESSION).time(name)


def _read_turn(session_id: str, document: Any, number: int) -> Turn:
    if (
        type(document) is dict and tuple(document) == _TURN
    ):  # as both programs write it: a long history is mostly of these
        role, content, at, ms = document.values()
        if (
            type(role) is str
            and type(content) is str
            and type(at) is str
            and type(ms) is int
            and -_INT64 <= ms < _INT64
        ):
            with contextlib.suppress(ValueError):
                return Turn(role, content, Timestamp(at), ms)
    o = _Object(session_id, document, _TURN, f"turn {number}'s ")
    return Turn(o.text("role"), o.text("content"), o.time("timestamp"), o.int("duration_ms"), o.left)


def _take(left: dict[str, Any], name: str, read: Callable[[object], T], otherwise: T) -> T:
    """A field that Go does not have. What does not parse as ours is another program's: it is left where it is."""
    if name not in left:
        return otherwise
    try:
        taken = read(left[name])
    except InvalidDataError:
        return otherwise
    del left[name]
    return taken


def decode(session_id: str, value: bytes) -> SessionState:
    """The state in stored bytes.

    Args:
        session_id: under which it was stored: it must say the same.
        value: the bytes.

    Raises:
        CorruptSessionError: Go could not read it as a session, or it says that it is another session.
    """
    o = _Object(session_id, parse(session_id, value), _SESSION)
    if o.text("id") != session_id:
        raise CorruptSessionError(session_id, f"it says that it is session {o.text('id')[:80]!r}")
    history, recovery_data = o.fields.get("history"), o.fields.get("recovery_data")
    if history is not None and not isinstance(history, list):
        raise o.wrong("history", "a list")
    if recovery_data is not None and not isinstance(recovery_data, dict):
        raise o.wrong("recovery_data", "an object")
    m = _Object(session_id, o.fields.get("metrics"), _METRICS, "metrics ")
    latencies = _take(m.left, _LATENCIES, LatencyTotals.from_data, LatencyTotals())
    progress = _take(o.left, _PROGRESS, CallProgress.from_data, CallProgress())
    return SessionState(
        id=session_id,
        created_at=o.time("created_at"),
        updated_at=o.time("updated_at"),
        call_id=o.text("call_id"),
        provider=o.text("provider"),
        direction=o.text("direction"),
        from_=o.text("from"),
        to=o.text("to"),
        status=o.text("status"),
        history=[_read_turn(session_id, turn, number) for number, turn in enumerate(history or (), 1)],
        metrics=SessionMetrics(**{name: m.int(name) for name in _METRICS}, extra=m.left, latencies=latencies),
        recovery_data=recovery_data or {},
        extra=o.left,
        null_history=history is None,
        progress=progress,
    )
