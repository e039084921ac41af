"""Users of Redis with what their program needs and nothing else, as lines of ``ACL SETUSER``.

They are made from what `coordinator.store.rights` lists; every server from Redis 6.2 on takes them. No connection is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordinator.store.commands import Name
from coordinator.store.keys import Keys, kind_of
from coordinator.store.rights import CONNECTING, SPOKEN, Program, rule_of, used_by

__all__ = ["PASSWORD", "User", "commands", "mailboxes", "numbers_below", "of_partitions", "user_for"]

PASSWORD = "PASSWORD"  # noqa: S105 - a placeholder
"""Stands for a password of the reader's own."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of Redis.

    Attributes:
        name: of the user.
        does: what it is for, in a few words.
        commands: rules that permit commands, each as narrow as the oldest server takes it.
        keys, channels: patterns.
    """

    name: str
    does: str
    commands: tuple[str, ...]
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()

    @property
    def rules(self) -> list[str]:
        """All rules. They begin with nothing permitted, since the user may exist already, or get all channels by default."""
        keys = ["resetkeys", *(f"~{key}" for key in self.keys)]
        channels = ["resetchannels", *(f"&{channel}" for channel in self.channels)]
        return [*keys, *channels, "-@all", *self.commands]

    @property
    def line(self) -> str:
        """The command that makes the user, or gives an existing one these rights and one more password."""
        return " ".join(("ACL SETUSER", self.name, "on", f">{PASSWORD}", *self.rules))

    def as_data(self) -> dict[str, object]:
        """JSON-able."""
        return {
            "user": self.name, "does": self.does, "commands": list(self.commands), "keys": list(self.keys),
            "channels": list(self.channels), "line": self.line,
        }  # fmt: skip


def user_for(name: str, does: str, programs: Sequence[Program], prefix: str, partitions: int) -> User:
    """One user for these programs of a deployment, each of which may touch every kind of key of its partitions."""
    names = {name for program in programs for name in used_by(program)}
    channels = mailboxes(prefix, partitions)
    return User(
        name,
        does,
        commands(names),
        of_partitions(prefix, partitions),
        channels if any(name[0] in SPOKEN for name in names) else (),
    )


def commands(names: Iterable[Name]) -> tuple[str, ...]:
    """Rules that permit these commands and what a connection sends by itself."""
    return tuple(sorted({*map(rule_of, names), *(f"+{rule}" for rule in CONNECTING)}))


def mailboxes(prefix: str, partitions: int) -> tuple[str, ...]:
    """Patterns of all channels of a deployment."""
    return of_partitions(prefix, partitions, kind_of(Keys(prefix, 0).mailbox("*")) + ":*")


def of_partitions(prefix: str, partitions: int, what: str = "*") -> tuple[str, ...]:
    """Patterns of keys in all partitions of a deployment, and of no other whose prefix begins alike."""
    return tuple(f"{{{prefix}:{numbers}}}:{what}" for numbers in numbers_below(partitions))


def numbers_below(count: int) -> list[str]:
    """Patterns that fit the whole numbers below ``count`` as they are written, and nothing else: ``[0-9]``, ``1[0-5]``."""
    found, first = [], 0
    while first < count:
        last = min(count, 10 ** len(str(first))) - 1
        found += _between(str(first), str(last))
        first = last + 1
    return found


def _between(first: str, last: str) -> list[str]:
    """Patterns of all numbers of one length; the first must be a round one."""
    if not first:
        return [""]
    a, b, rest = first[0], last[0], len(first) - 1
    if last[1:] == "9" * rest:
        return [_digit(a, b) + "[0-9]" * rest]
    full = [_digit(a, str(int(b) - 1)) + "[0-9]" * rest] if a < b else []
    return full + [b + more for more in _between("0" * rest, last[1:])]


def _digit(a: str, b: str) -> str:
    return a if a == b else f"[{a}-{b}]"
