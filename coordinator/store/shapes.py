"""What the fields of stored records look like: scripts and programs tell usable fields from broken ones by this one list.

A field that is not listed may hold anything: a newer program may have written it. An empty field counts as missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from coordinator.states import SERVED, InstanceState, SessionState

__all__ = [
    "Kind",
    "Shape",
    "faults",
    "instance_id",
    "labels_of",
    "lua_readers",
    "requires_of",
    "score",
    "session_id",
    "shaped_fields",
    "text",
    "text_if_any",
    "whole",
]

Kind = Literal["session", "instance", "meta", "detector"]
MOST_DIGITS = 16
"""Digits of a whole number: Lua has 53 bits."""
MOST_EPOCH_DIGITS = 14
"""Digits of an epoch, which follows the clock: one of the year 4822 or later raises no other (``epoch_of`` in read.lua)."""
MOST_SPAN_DIGITS = 12
"""Digits of a length of time in ms: thirty years. It is added to times, and the sum must be a time."""
MOST_TIME_DIGITS = 14
"""Digits of a time in ms."""
MOST_ROLL_DIGITS = 18
"""Digits of a roll, which Redis itself adds up in 64 bits."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value must look like.

    Attributes:
        rule: for people, to stand after "is not".
        fits: returns whether a value that is not empty is right.
        pattern: the same for Lua; '' where scripts take it as it is.
        most: bytes at most, for Lua; 0 for any.
    """

    rule: str
    fits: Callable[[bytes], bool]
    pattern: str = ""
    most: int = 0


def _matches(pattern: str) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern.encode())
    return lambda value: compiled.fullmatch(value) is not None


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _one_of(*words: str) -> Callable[[bytes], bool]:
    return frozenset(word.encode() for word in words).__contains__


def _json(value: bytes) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _are_labels(value: bytes) -> bool:
    found = _json(value)
    return isinstance(found, dict) and all(isinstance(label, str) for label in found.values())


def _are_wanted(value: bytes) -> bool:
    found = _json(value)
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


_WHOLE = Shape("a whole number", _matches(rf"[0-9]{{1,{MOST_DIGITS}}}"), "^%d+$", MOST_DIGITS)
_EPOCH = Shape("an epoch", _matches(rf"[0-9]{{1,{MOST_EPOCH_DIGITS}}}"), "^%d+$", MOST_EPOCH_DIGITS)
_TIME = Shape("a time in ms", _matches(rf"-?[0-9]{{1,{MOST_TIME_DIGITS}}}"), "^%-?%d+$", MOST_TIME_DIGITS + 1)
_SPAN = Shape("a length of time in ms", _matches(rf"[0-9]{{1,{MOST_SPAN_DIGITS}}}"), "^%d+$", MOST_SPAN_DIGITS)
_ROLL = Shape("a roll", _matches(rf"-?[0-9]{{1,{MOST_ROLL_DIGITS}}}"), "^%-?%d+$", MOST_ROLL_DIGITS + 1)
_FLAG = Shape("0 or 1", _one_of("0", "1"))
_INSTANCE = Shape("an instance id", _matches(r"[A-Za-z0-9._~-]{1,128}"), "^[%w%._~%-]+$", 128)
_SESSION_ID = Shape("a session id", _matches(r"[!-z|~]{1,256}"))
_NAME = Shape("a name", _matches(r"[A-Za-z0-9._-]{1,63}"), "^[%w%._%-]+$", 63)
_ENTRY = Shape("the id of an entry", _matches(r"(?=.{3,32}\Z)[0-9]{1,16}-[0-9]{1,16}"), "^%d+%-%d+$", 32)
_TEXT = Shape("text", _is_text)
_ENCODING = Shape("an encoding", _matches(r"json|bytes|sealed:[0-9]{1,3}:[!-~]{1,128}"))  # of sealed data any version
_LABELS = Shape("a JSON object of texts", _are_labels)
_WANTED = Shape("a JSON list of texts", _are_wanted)


def _state(*words: str) -> Shape:
    return Shape("a state", _one_of(*words))


SESSION: Mapping[str, Shape] = {
    "state": _state(*SessionState),
    "owner": _INSTANCE, "previous_owner": _INSTANCE, "heir": _INSTANCE,
    "epoch": _EPOCH, "checkpoint": _WHOLE, "offers": _WHOLE, "recoveries": _WHOLE,
    "opened_at": _TIME, "updated_at": _TIME, "orphaned_at": _TIME, "adopted_at": _TIME, "lease_until": _TIME,
    "evidence_at": _TIME, "served_until": _TIME, "held_before_ms": _SPAN, "dead_lettered_at": _TIME, "closed_at": _TIME,
    "child_until": _TIME, "children_stop_until": _TIME, "apart": _WHOLE, "probation_ms": _SPAN, "accepted_at": _TIME,
    "resumed_epoch": _WHOLE, "renewed_from": _WHOLE, "attempt_of_writer": _WHOLE,
    "anew": _FLAG, "planned": _FLAG,
    "pool": _NAME, "offer_id": _ENTRY,
    "tenant": _TEXT, "cause": _TEXT, "reason": _TEXT, "children": _TEXT, "writer": _TEXT, "request": _TEXT,
    "encoding": _ENCODING, "requires": _WANTED,
}  # fmt: skip
INSTANCE: Mapping[str, Shape] = {
    "state": _state(*InstanceState),
    "name": _NAME, "pool": _NAME,
    "capacity": _WHOLE, "owned": _WHOLE, "loop_lag": _WHOLE, "started_at": _TIME, "ended_at": _TIME, "dead_after_ms": _SPAN,
    "trust_ms": _SPAN, "drain_until": _TIME, "evidence_at": _TIME, "served_until": _TIME, "blamed_from_ms": _TIME,
    "apart": _WHOLE, "probation_ms": _SPAN, "kept_apart": _WHOLE, "died_with": _WHOLE,
    "roll": _ROLL, "asked": _WHOLE, "presence": _FLAG,
    "cause": _TEXT, "by": _TEXT, "reason": _TEXT, "address": _TEXT, "convict": _TEXT, "tenant": _TEXT,
    "labels": _LABELS,
}  # fmt: skip
META: Mapping[str, Shape] = {
    "partitions": _WHOLE, "protocol": _WHOLE, "epoch_floor": _EPOCH, "epoch_highest": _EPOCH, "hold_ms": _SPAN,
    "lost_at_ms": _TIME, "last_drain_ms": _TIME, "rollout_since_ms": _TIME,
}  # fmt: skip
DETECTOR: Mapping[str, Shape] = {
    "last_scan_ms": _TIME, "hold_started_ms": _TIME, "hold_until_ms": _TIME, "held_total_ms": _SPAN, "stepped_at_ms": _TIME,
    "transfers_held_until_ms": _TIME, "breaker_since_ms": _TIME, "silent_since_ms": _TIME, "silent_now": _WHOLE,
    "silent_before": _WHOLE, "late_looks": _WHOLE, "looks_in_time": _WHOLE, "hold_reason": _TEXT,
}  # fmt: skip
STATES: Mapping[Kind, Sequence[str]] = {"session": tuple(SessionState), "instance": tuple(InstanceState)}
RELIED_ON: Mapping[Kind, tuple[str, ...]] = {
    "session": (
        "owner",
        "heir",
        "epoch",
        "checkpoint",
        "offers",
        "pool",
        "offer_id",
        "orphaned_at",
        "attempt_of_writer",
        "dead_lettered_at",
    ),
    "instance": ("pool", "ended_at"),
    "meta": ("partitions", "protocol"),
    "detector": (),
}
"""Fields that scripts check before they use them, beside the state and what Redis itself counts with (``HINCRBY``): they say who
owns a call, or must be a number or a name. For other fields scripts have a fallback, and the sweep finds what is broken."""
_WORD = re.compile(r"'([a-z_]+)'")
_COUNTED = re.compile(r"'HINCRBY', \w+, '([a-z_]+)'")
_OF: Mapping[Kind, Mapping[str, Shape]] = {"session": SESSION, "instance": INSTANCE, "meta": META, "detector": DETECTOR}


def faults(kind: Kind, fields: Mapping[str, bytes | None]) -> dict[str, str]:
    """The broken ones of these fields, each with the rule that it breaks; empty when all are right."""
    shapes = _OF[kind]
    found = {
        name: f"is not {shapes[name].rule}"
        for name, value in fields.items()
        if value and name in shapes and not shapes[name].fits(value)
    }
    return found | {
        name: "is missing" for name in _needed(kind, fields.get("state")) if name in fields and not fields[name]
    }


def _needed(kind: Kind, state: bytes | None) -> tuple[str, ...]:
    """Fields without which a record is broken; `_needs` has the same for Lua."""
    if kind not in ("session", "instance"):
        return ()
    if not state:
        return ("state",)
    owned = state.decode(errors="replace") in SERVED
    return ("pool",) if kind == "instance" else ("epoch", "pool", *(("owner",) if owned else ()))


def shaped_fields(kind: Kind) -> tuple[str, ...]:
    """Names of the fields that have a shape, in the list's order."""
    return tuple(_OF[kind])


def text(value: object) -> str:
    """A stored text, for people and for comparing; '' where it is missing. Invalid UTF-8 in it is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def text_if_any(value: object) -> str | None:
    """The same; None where it is missing or invalid UTF-8: this program did not write it, and leaves it alone."""
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


def session_id(value: object) -> str:
    """A stored session id; '' where it is invalid."""
    return value.decode() if isinstance(value, bytes) and _SESSION_ID.fits(value) else ""


def instance_id(value: object) -> str:
    """A stored instance id; '' where it is invalid."""
    return value.decode() if isinstance(value, bytes) and _INSTANCE.fits(value) else ""


def score(value: object) -> int:
    """A stored score as a time in ms; 0 where it is invalid."""
    try:
        return int(float(value)) if isinstance(value, bytes) else 0
    except (ValueError, OverflowError):
        return 0


def whole(value: object, default: int = 0) -> int:
    """A stored whole number; the default where it is missing or broken."""
    if isinstance(value, bytes) and ((value.isdigit() and len(value) <= MOST_ROLL_DIGITS) or _ROLL.fits(value)):
        return int(value)
    return default


def labels_of(value: bytes | None) -> dict[str, str]:
    """Labels of an instance; none where they are missing or broken."""
    return json.loads(value) if value and _are_labels(value) else {}


def requires_of(value: bytes | None) -> tuple[str, ...]:
    """The labels that a session requires; none where the field is missing or broken."""
    return tuple(json.loads(value)) if value and _are_wanted(value) else ()


def lua_readers(body: str) -> str:
    """Functions by which a script reads records: all fields of a kind that it asks for, and their checks; '' where it reads none.

    They are straight code with one table of its final size, as they run in every call. A missing field is nil; an empty text
    counts as missing.
    """
    counted = set(_COUNTED.findall(body))
    return "\n".join(_reader(kind, calls, counted) for kind in _OF if (calls := _asked(kind, body)))


def _asked(kind: Kind, body: str) -> list[list[str]]:
    """The fields of each call of a kind's reader."""
    return [_WORD.findall(call) for call in re.findall(rf"\bread_{kind}\(([^()]*)\)", body)]


def _reader(kind: Kind, calls: list[list[str]], counted: set[str]) -> str:
    shapes, names = _OF[kind], list(dict.fromkeys(name for call in calls for name in call))
    always = [name for name in names if all(name in call for call in calls)]
    if len(names) == 1:  # no list for one
        asked, found = "HGET", [f"{names[0]} = v or nil"]
    else:
        asked, found = "HMGET", [f"{name} = v[{i}] or nil" for i, name in enumerate(names, 1)]
    lines = [
        f"local function read_{kind}(key)",
        f"  local v = redis.call('{asked}', key, {', '.join(repr(name) for name in names)})",
        f"  local r = {{ {', '.join(found)} }}",
    ]
    checked = [name for name in names if name in RELIED_ON[kind] or (name in counted and name in shapes)]
    for name in checked:
        long = f" or #v > {shapes[name].most}" if shapes[name].most else ""
        lines.append(f"  v = r.{name}")
        lines.append(f"  if v and v ~= '' and (not find(v, '{shapes[name].pattern}'){long}) then")
        lines.append(f"    broken(key, '{name}')")
        lines.append("  end")
    if "state" in names and kind in STATES:
        lines += [
            "  local state = r.state",
            "  if state and " + " and ".join(f"state ~= '{word}'" for word in STATES[kind]) + " then",
            "    broken(key, 'state')",
            "  end",
        ]
    if kind == "session" and "state" in always:
        lines += _needs(always)
    return "\n".join([*lines, "  return r", "end"])


def _needs(always: Sequence[str]) -> list[str]:
    """Lua that refuses a session's record without its needed fields; see `_needed`."""
    others = [name for name in always if name in ("owner", "epoch", "pool")]
    lines = [
        f"  if not state and ({' or '.join(f'r.{name}' for name in others)}) then",
        "    broken(key, 'state')",
        "  end",
    ]
    served = " or ".join(f"state == '{state}'" for state in SERVED)
    for name in others:
        when = f" and ({served})" if name == "owner" else ""
        lines += [f"  if state{when} and (r.{name} or '') == '' then", f"    broken(key, '{name}')", "  end"]
    return lines if others else []
