"""``coordinator doctor --acl``: a user of Redis for each kind of program; asks no server, for the users are not there yet."""

from __future__ import annotations

from coordinator.cli.tables import complain, console, print_json
from coordinator.settings import Settings
from coordinator.store.acl import PASSWORD, User, user_for
from coordinator.store.rights import Program

__all__ = ["print_users", "users"]

USERS: tuple[tuple[str, str, tuple[Program, ...]], ...] = (
    ("worker", "Worker, coordinator sidecar, coordinator supervise", ("worker",)),
    ("coordinator", "coordinator run", ("coordinator",)),
    ("reader", "commands that look, and doctor; it can change nothing", ("reader",)),
    ("exporter", "redis_exporter with orphans.lua, which is a script that only reads", ("exporter",)),
    ("operator", "every command: drain, certify, replay, purge, repair, drop", ("operator",)),
    ("coordinating-sidecar", "coordinator sidecar --coordinate", ("worker", "coordinator")),
)


def users(prefix: str, partitions: int) -> list[User]:
    """All users of a deployment, with the least rights that suffice.

    Without the packages of the extra ``sessions`` the session store's user is left out, and standard error says so.
    """
    made = [user_for(name, does, programs, prefix, partitions) for name, does, programs in USERS]
    try:  # only here: it stops a program that imports it where the extra is not installed
        from coordinator.sessions.keys import SessionKeys
        from coordinator.sessions.rights import user
    except ModuleNotFoundError as error:
        complain(f"left out the user of the session store: {error}")
        return made
    return [*made, user(SessionKeys(), prefix, partitions)]


def print_users(settings: Settings, *, as_json: bool) -> None:
    """Prints the lines for ``redis-cli``, and on standard error what they were made from."""
    found = users(settings.prefix, settings.partitions)
    if as_json:
        made_from = {"prefix": settings.prefix, "partitions": settings.partitions}
        print_json({**made_from, "users": [user.as_data() for user in found]})
        return
    complain(f"made from prefix {settings.prefix} and partitions {settings.partitions}")
    for user in found:
        complain(f"user {user.name} is for: {user.does}")
        console(soft_wrap=True).print(user.line)
    complain(
        f"put a password of its own into each line in the place of {PASSWORD}, and keep the other users out of Redis; "
        "where a server has another deployment's users, rename these: a line takes the keys of before from a user of its name"
    )
