"""The users that ``coordinator doctor --acl`` prints, on a test's server: each program by its own."""

from __future__ import annotations

import re
from typing import Any

from coordinator.cli.doctor_acl import users
from coordinator.store.acl import PASSWORD, User

__all__ = ["Users", "as_user", "config_lines", "named", "refusals", "words_of_all"]


def as_user(url: str, name: str) -> str:
    """The URL with that user's login, in the place of one that it has."""
    scheme, _, rest = re.sub(r"://[^/@?]*@", "://", url, count=1).partition("://")
    return f"{scheme}://{name}:{PASSWORD}@{rest}"


def named(name: str, partitions: int = 1) -> User:
    """One of them."""
    return next(user for user in users("recovery", partitions) if user.name == name)


def config_lines(partitions: int = 1) -> tuple[str, ...]:
    """All of them, for a server's configuration."""
    return tuple(" ".join(("user", *_words(user))) for user in users("recovery", partitions))


def words_of_all() -> list[str]:
    """All of them, for a server's command line."""
    return [word for user in users("recovery", 1) for word in ("--user", *_words(user))]


def _words(user: User) -> list[str]:
    return user.line.split()[2:]


def refusals(admin: Any) -> set[tuple[str, str]]:
    """Users with what the server has refused them since it was asked to forget."""
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in admin.execute_command("ACL", "LOG")]
    return {(row[b"username"].decode(), row[b"object"].decode()) for row in rows}


class Users:
    """They have what is printed, from the beginning and again at `close`; a test changes them meanwhile."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self._all_anew()
        self.reset()

    def _all_anew(self) -> None:
        for user in users("recovery", 1):
            self.make(user)

    def reset(self) -> None:
        """What was refused is forgotten."""
        self._admin.execute_command("ACL", "LOG", "RESET")

    def make(self, user: User, *, without: str = "") -> None:
        """One of them anew, as its line says, but for one rule."""
        assert not without or without in user.rules
        words = [word for word in user.line.split() if word != without]
        self._admin.execute_command(*words)

    def change(self, name: str, *rules: str) -> None:
        """Rights given or taken."""
        self._admin.execute_command("ACL", "SETUSER", name, *rules)

    def refused(self) -> set[tuple[str, str]]:
        """As `refusals`."""
        return refusals(self._admin)

    def rejected(self, command: str) -> int:
        """How often a command was refused before it ran, whoever asked."""
        return int(self._admin.info("commandstats").get(f"cmdstat_{command}", {}).get("rejected_calls", 0))

    def close(self) -> None:
        """They are as they were."""
        self._all_anew()
