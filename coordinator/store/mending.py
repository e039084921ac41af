"""What is done when a script met something that does not parse: it is found and set aside, and the script runs again.

Pure: a generator that yields what is to be run and is sent the answers, for executors of both kinds.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.store import calls, setting_aside
from coordinator.store.keys import TYPES, Keys, kind_of
from coordinator.store.replies import Reply
from coordinator.store.scripts import Argument, R, ScriptCall
from coordinator.store.shapes import Kind, faults, shaped_fields

__all__ = ["Broken", "Command", "Mending", "broken_in", "fields_of", "look", "mend", "mend_keys", "set_aside"]

Command = tuple[Argument, ...]
Mending = Generator[Sequence[ScriptCall[Reply] | Command], list[Any], bool]
"""Yields what is to be run in one round trip, is sent the answers, errors among them; returns whether to try again."""

RECORDS: Mapping[str, Kind] = {
    "session": "session",
    "letter": "session",
    "instance": "instance",
    "meta": "meta",
    "detector": "detector",
}
"""Kind of a key -> the kind of record whose fields it has."""
ANY = ("any", "various", "channel")
FIRST = ("meta", "detector", "events", "quarantine")
"""Kinds of keys that are read and written when others are set aside, and so are mended before them."""


class MendingRunner(Protocol):
    """Runs scripts."""

    async def run(self, call: ScriptCall[R]) -> R:
        """A script."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A key that does not hold what it must.

    Attributes:
        wanted: type that it must have.
        fields: those that are broken, as they were read.
        fault: what is wrong, for people.
        owner: of a session, as its record says.
    """

    key: str
    wanted: str
    fields: Mapping[str, bytes]
    fault: str
    owner: str = ""

    def set_aside(self, owner: str = "") -> ScriptCall[calls.SetAsideReply]:
        """The call that sets it aside. ``owner``: the instance that may own the session, where the record names none."""
        keys, kind = Keys.of(self.key), kind_of(self.key)
        name = self.key.removeprefix(f"{keys.tag}:{kind}").removeprefix(":")
        return setting_aside.set_aside(
            keys, kind=kind, name=name, wanted=self.wanted, fault=self.fault, broken=self.fields,
            owner=self.owner or owner,
        )  # fmt: skip


def broken_in(key: str, there: Any, values: Any) -> Broken | None:
    """What is broken about a record, given the answers to ``TYPE`` and to ``HMGET`` of `shaped_fields`; None when nothing is."""
    kind = RECORDS[kind_of(key)]
    if not isinstance(there, bytes):
        return None  # the server did not answer for it
    if there not in (b"hash", b"none"):
        return Broken(key, "hash", {}, f"is a {_text(there)}, not a hash")
    if isinstance(values, Exception) or not values:
        return None
    fields = dict(zip(shaped_fields(kind), values, strict=True))
    wrong = faults(kind, fields)
    if not wrong:
        return None
    owner = "" if "owner" in wrong else _text(fields.get("owner") or b"")
    told = "; ".join(f"{name} {rule}: {_text(fields[name])[:80]!r}" for name, rule in wrong.items())
    return Broken(key, "hash", {name: fields[name] or b"" for name in wrong}, told, owner)


def look(keys: Sequence[str]) -> list[Command]:
    """The commands whose answers `broken_in` judges, two a key."""
    found: list[Command] = []
    for key in keys:
        found += [("TYPE", key), ("HMGET", key, *shaped_fields(RECORDS[kind_of(key)]))]
    return found


def fields_of(key: str) -> tuple[str, ...]:
    """The fields that `look` asks for, of a record."""
    return shaped_fields(RECORDS[kind_of(key)])


async def set_aside(run: MendingRunner, broken: Broken, owner: str = "") -> str:
    """Sets it aside, and returns what was done; '' when it is no longer broken, or waits for the end of a hold. Safe to repeat.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    answer = await run.run(broken.set_aside(owner))
    return answer.done if isinstance(answer, calls.SetAsideOk) else ""


def mend(call: ScriptCall[Reply]) -> Mending:
    """Finds what a script's run can have met that does not parse, and sets it aside."""
    return _mend([*zip(call.keys, call.types, strict=True)], _owner_in(call))


def mend_keys(keys: Sequence[str]) -> Mending:
    """Finds what a plain command can have met in these keys that does not parse, and sets it aside."""
    return _mend([(key, TYPES[kind_of(key)]) for key in keys], "")


def _mend(of_types: Sequence[tuple[str, str]], owner: str) -> Mending:
    typed = [(key, wanted) for key, wanted in of_types if wanted not in ANY and key]
    records = list(dict.fromkeys(key for key, wanted in typed if wanted == "hash" and _kind(key) in RECORDS))
    others = [(key, wanted) for key, wanted in typed if key not in records]
    answers = yield [*look(records), *(("TYPE", key) for key, _ in others)]
    at = 2 * len(records)
    found = [broken_in(key, answers[2 * n], answers[2 * n + 1]) for n, key in enumerate(records)]
    found += [
        Broken(key, wanted, {}, f"is a {_text(there)}, not a {wanted}")
        for (key, wanted), there in zip(others, answers[at:], strict=True)
        if there not in (wanted.encode(), b"none") and isinstance(there, bytes)
    ]
    broken = [one for one in found if one is not None]
    broken.sort(key=lambda one: kind_of(one.key) not in FIRST)
    if not broken:
        return False
    done = yield [one.set_aside(owner) for one in broken]
    return any(not isinstance(one, Exception) for one in done)


def _owner_in(call: ScriptCall[Reply]) -> str:
    """The instance that a call acts for, or whose grave it empties."""
    names = call.script.header.keys
    if "instance" not in names:
        return ""
    return call.keys[names.index("instance")].split(":instance:", 1)[-1]


def _kind(key: str) -> str:
    try:
        return kind_of(key)
    except ValueError:
        return ""


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
