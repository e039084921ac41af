"""Bounds on what is written: every rule for a value that comes from outside and is to be stored, in one place.

Each check returns the value, or raises an error of one sentence that names the value and the rule, before anything is sent. No
message repeats recovery data. A value that was stored before there was a rule can still be read.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coordinator.errors import InvalidDataError, InvalidIdError, InvalidValueError
from coordinator.printable import HIDDEN, has_hidden, printable

__all__ = [
    "INSTANCE", "LABEL", "LABEL_RULE", "MOST_DEPTH", "MOST_LABELS", "MOST_REASON", "MOST_SECONDS", "MOST_STATE_BYTES", "MOST_TEXT",
    "MOST_WHOLE", "NAME", "NAME_RULE", "READABLE_DEPTH", "REQUIREMENT", "check_callable",
    "check_count", "check_depth", "check_epoch", "check_instance",
    "check_json", "check_labels", "check_name", "check_pool", "check_reason", "check_record", "check_requires", "check_seconds",
    "check_session_id", "check_signals", "check_text", "check_word", "fitted", "is_nested_deeper",
]  # fmt: skip

Word = TypeVar("Word", bound=str)
Parsed = TypeVar("Parsed", list[Any], dict[str, Any])

MOST_DEPTH = 64
"""Depth of objects and lists within each other, the outermost included."""
READABLE_DEPTH = 128
"""The same depth for what is read: no reader comes near the end of its stack at that depth."""
MOST_WHOLE = 2**53 - 1
"""The greatest whole number that every reader of JSON reads as it was written (RFC 7493, 2.2). Greater ones belong in text."""
MOST_TEXT = 256
MOST_REASON = 1024
MOST_LABELS = 64
MOST_STATE_BYTES = 16 * 1024 * 1024
"""A session of the session store as JSON, its conversation included."""
MOST_SECONDS = 10 * 366 * 86400.0

SESSION_ID = r"[!-z|~]{1,256}"  # printable ASCII without white space and braces
NAME = r"[A-Za-z0-9._-]{1,63}"
INSTANCE = rf"{NAME}~[0-9A-Za-z]{{1,32}}"
LABEL = r"[!-<>-~]{1,128}"  # printable ASCII without white space and the equals sign
REQUIREMENT = rf"{LABEL}(=[^{HIDDEN}]{{0,{MOST_TEXT}}})?"

_SESSION_ID, _NAME, _INSTANCE, _LABEL = (re.compile(rule) for rule in (SESSION_ID, NAME, INSTANCE, LABEL))
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[{}\]]")
_NUMBERS = re.compile(rb"[0-9][0-9.eE+-]*")
_MANY_DIGITS = re.compile(rb"[0-9]{16}")

NAME_RULE = "1 to 63 characters of A-Z a-z 0-9 . _ -"
LABEL_RULE = "1 to 128 printable ASCII characters without white space and ="


# -- ids ---------------------------------------------------------------------------------------------------------------


def check_session_id(session_id: str) -> str:
    """Returns the id, if it can be one: SIP Call-IDs, E.164 numbers and the like can.

    Raises:
        InvalidIdError: the id is not 1 to 256 printable ASCII characters without white space and braces.
    """
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        rule = "a session id: 1 to 256 printable ASCII characters without white space and braces"
        raise InvalidIdError(session_id, rule)
    return session_id


def check_name(name: str) -> str:
    """Returns the instance name.

    Raises:
        InvalidIdError: the name is not 1 to 63 characters of A-Z a-z 0-9 . _ -
    """
    return _named("an instance name", name)


def check_pool(pool: str) -> str:
    """Returns the pool.

    Raises:
        InvalidIdError: the pool is not 1 to 63 characters of A-Z a-z 0-9 . _ -
    """
    return _named("a pool", pool)


def _named(what: str, value: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidIdError(value, f"{what}: {NAME_RULE}")
    return value


def check_instance(instance: str) -> str:
    """Returns the instance id.

    Raises:
        InvalidIdError: the id is not a name, ``~`` and a ULID.
    """
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        raise InvalidIdError(instance, "an instance id: its name, ~ and a ULID")
    return instance


def check_epoch(epoch: int) -> int:
    """Returns the epoch.

    Raises:
        InvalidIdError: the epoch is not a whole number from 1 to 2^53 - 1.
    """
    if type(epoch) is not int or not 1 <= epoch <= MOST_WHOLE:
        raise InvalidIdError(epoch, f"an epoch: a whole number from 1 to {MOST_WHOLE}")
    return epoch


# -- texts -------------------------------------------------------------------------------------------------------------


def check_text(name: str, value: str, most: int = MOST_TEXT) -> str:
    """Returns the text.

    Args:
        name: the name of the value, for the message.
        value: any text, '' included.
        most: characters.

    Raises:
        InvalidValueError: the value is not text, is too long, or has invisible characters or halves of characters.
    """
    if not isinstance(value, str) or len(value) > most or has_hidden(value):
        raise InvalidValueError(name, value, f"text of at most {most} characters, all of them printable")
    return value


def check_reason(reason: str, name: str = "reason") -> str:
    """Returns a reason for people. It is often the text of another system's error, so invisible characters become visible.

    Raises:
        InvalidValueError: the reason is not text, is longer than 1,024 characters, or has halves of characters.
    """
    if isinstance(reason, str) and len(reason) <= MOST_REASON:
        try:
            reason.encode()
        except UnicodeEncodeError:
            pass
        else:
            return printable(reason)
    raise InvalidValueError(name, reason, f"text of at most {MOST_REASON} characters that can be encoded as UTF-8")


def check_word(name: str, word: Word, known: Sequence[Word]) -> Word:
    """Returns the word.

    Raises:
        InvalidValueError: the word is not in the closed list.
    """
    if word not in known:
        raise InvalidValueError(name, word, f"one of {', '.join(known)}")
    return word


def fitted(text: str) -> str:
    """Fits this program's own words about errors and endings to the rule for reasons; never raises."""
    return printable(text[:MOST_REASON])[:MOST_REASON]


def check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the labels.

    Raises:
        InvalidValueError: there are too many, or a name or value breaks its rule.
    """
    if not isinstance(labels, Mapping) or len(labels) > MOST_LABELS:
        raise InvalidValueError("labels", labels, f"a mapping of at most {MOST_LABELS} names to texts")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise InvalidValueError("labels", name, f"the name of a label: {LABEL_RULE}")
        check_text(f"label {name}", value)
    return labels


def check_requires(requires: Sequence[str]) -> list[str]:
    """Returns the labels that an adopter should have, as a list.

    Raises:
        InvalidValueError: it is one text and not a list, has too many labels, or a label is neither ``name`` nor ``name=value``.
    """
    if isinstance(requires, str | bytes) or not isinstance(requires, Sequence) or len(requires) > MOST_LABELS:
        raise InvalidValueError("requires", requires, f"a list of at most {MOST_LABELS} labels")
    for one in requires:
        if not isinstance(one, str) or not _LABEL.fullmatch(one.partition("=")[0]):
            raise InvalidValueError("requires", one, f"a label, as name or name=value; a name is {LABEL_RULE}")
        check_text("requires", one.partition("=")[2])
    return list(requires)


# -- numbers -----------------------------------------------------------------------------------------------------------


def check_seconds(name: str, seconds: float) -> float:
    """Returns the time.

    Raises:
        InvalidValueError: the time is not a number from 0 to ten years.
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not 0 <= seconds <= MOST_SECONDS:
        raise InvalidValueError(name, seconds, f"a number of seconds from 0 to {MOST_SECONDS:.0f}")
    return seconds


# -- JSON --------------------------------------------------------------------------------------------------------------


def is_nested_deeper(raw: bytes, most: int) -> bool:
    """Whether objects and lists of a JSON text lie more than ``most`` deep within each other; it need not be well-formed."""
    if raw.count(b"{") + raw.count(b"[") <= most:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            return True
    return False


def check_count(name: str, count: int) -> int:
    """Returns a number of things.

    Raises:
        InvalidValueError: it is no whole number, or below zero.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidValueError(name, count, "a whole number from 0")
    return count


def check_callable(name: str, given: object) -> None:
    """Checks that something can be called.

    Raises:
        InvalidValueError: it cannot.
    """
    if not callable(given):
        raise InvalidValueError(name, given, "a function")


def check_signals(name: str, given: object) -> tuple[signal.Signals, ...]:
    """Returns signals that a program can hear.

    Raises:
        InvalidValueError: it is no list of signals, or one of them cannot be caught.
    """
    rule = "a list of signals that can be caught, such as [signal.SIGTERM]"
    try:
        found = tuple(signal.Signals(number) for number in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise InvalidValueError(name, given, rule) from None
    if {signal.SIGKILL, signal.SIGSTOP} & {*found}:
        raise InvalidValueError(name, given, rule)
    return found


def check_json(name: str, raw: bytes) -> bytes:
    """Returns the JSON text, if every reader reads it as it was written.

    Raises:
        InvalidDataError: the text is nested more than 64 deep, or has a whole number beyond ±(2^53 - 1).
    """
    if is_nested_deeper(raw, MOST_DEPTH):
        raise InvalidDataError(f"{name} is nested more than {MOST_DEPTH} deep")
    if _MANY_DIGITS.search(raw) and any(map(_is_too_great, _NUMBERS.findall(_STRINGS.sub(b"", raw)))):
        raise InvalidDataError(
            f"{name} has a whole number beyond ±{MOST_WHOLE} (2^53 - 1), which other readers of JSON would round: write it as text"
        )
    return raw


def check_record(*, pool: str, tenant: str, requires: str, data: bytes, encoding: str) -> None:
    """Checks what a session's record holds before it is offered as though it were new.

    Raises:
        InvalidIdError, InvalidValueError, InvalidDataError: no worker could read the record, or write it by today's rules.
    """
    check_pool(pool)
    check_text("tenant", tenant)
    if requires:
        check_requires(_parsed("requires", requires.encode(errors="replace"), list))
    if encoding == "json":
        _parsed("recovery data", data, dict)


def _parsed(name: str, raw: bytes, kind: type[Parsed]) -> Parsed:
    try:
        value = json.loads(check_json(name, raw))
    except ValueError as error:
        if isinstance(error, InvalidDataError):
            raise
        value = None
    if not isinstance(value, kind):
        raise InvalidDataError(f"{name} is not a JSON {'list' if kind is list else 'object'}")
    return value


def _is_too_great(number: bytes) -> bool:
    return number.isdigit() and (len(number) > 16 or int(number) > MOST_WHOLE)


def check_depth(name: str, value: object) -> None:
    """Checks a value that is to become JSON, without going deeper into it than the rule allows.

    Raises:
        InvalidDataError: the value is nested more than 64 deep, or contains itself.
    """
    level: list[object] = [value]
    for _ in range(MOST_DEPTH):
        level = list({id(inner): inner for outer in level for inner in _within(outer)}.values())
        if not level:
            return
    raise InvalidDataError(f"{name} is nested more than {MOST_DEPTH} deep")


def _within(value: object) -> Sequence[object]:
    """Objects and lists right inside of a value."""
    if isinstance(value, Mapping):
        return [one for one in value.values() if isinstance(one, Mapping | list | tuple)]
    if isinstance(value, list | tuple):
        return [one for one in value if isinstance(one, Mapping | list | tuple)]
    return ()
