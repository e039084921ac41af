"""Tries out each command that the programs send or that their scripts call, in a form that changes nothing.

Each finding says what this user lacks for one program. A user with exactly the rights of one program is meant for that program,
and no finding is about the others. The store of conversations has keys of its own, and is checked only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from coordinator.cli.doctor_checks import Command, Finding, Server, refused
from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.store import calls
from coordinator.store.acl import mailboxes, of_partitions
from coordinator.store.commands import TRIES, Name, Try, name_of, places
from coordinator.store.faults import NoGroupError
from coordinator.store.keys import Keys
from coordinator.store.rights import NEEDS, OPTIONAL, Lack, Program, as_lines, every_kind, lacking, used_by, whoami

__all__ = ["UserFor", "check_rights", "tried_commands"]

UserFor = Literal[Program, "coordinating-sidecar", "sessions"]
"""The programs for which ``coordinator doctor --acl`` prints a user."""

NOT_SENT = ("SUBSCRIBE", "UNSUBSCRIBE")
"""After these commands a connection serves nothing else: a script is asked instead, where one may run (not in Redis 6.2)."""
KEYS_LIKE: Name = ("HMGET",)
"""A command that every program needs, by which the access to keys is tried."""


def tried_commands() -> frozenset[str]:
    """Names of all commands that are tried, in upper case."""
    return frozenset(name[0] for name in _used())


def _used() -> frozenset[Name]:
    return frozenset[Name]().union(*(used_by(program) for program in NEEDS))


async def check_rights(server: Server, user_for: UserFor | None = None) -> list[Finding]:
    """Returns one finding for each program; nothing is left in the store.

    Args:
        user_for: the program that this user is for; None to judge by its rights.

    Raises:
        ConfigurationError: the user is for the session store, whose packages are not installed.
        StoreUnavailableError: the store went away meanwhile.
    """
    if user_for == "sessions":
        return [await _of_conversations(server)]
    programs: Sequence[Program] = get_args(Program)
    if user_for is not None:
        programs = ("worker", "coordinator") if user_for == "coordinating-sidecar" else (user_for,)
    tried = await _tried(server, _used())
    by_key = await _access(server.commands, _keys_of(server))
    keys = of_partitions(server.keys.prefix, server.partitions)
    channels = mailboxes(server.keys.prefix, server.partitions)
    user = await whoami(server.command)
    lacks: dict[Program, Lack | None] = {}
    for one in programs:
        told = [(name, what) for name in sorted(used_by(one)) if (what := tried.get(name))]
        lacks[one] = lacking([*told, *by_key], keys, channels)
    meant = list(lacks) if user_for else _meant(lacks, tried)
    return [_finding(one, lacks[one], user) for one in meant]


def _meant(lacks: Mapping[Program, Lack | None], tried: Mapping[Name, str]) -> list[Program]:
    """The programs that a user may be meant for."""
    complete = [program for program, lack in lacks.items() if lack is None]
    of_these = frozenset[Name]().union(*(used_by(program) for program in complete))
    more = {name for name, what in tried.items() if not what and name[0] not in NOT_SENT} - of_these
    return list(lacks) if more else complete


async def _of_conversations(server: Server) -> Finding:
    """The finding about the store of conversations."""
    try:  # only here: it stops a program that imports it where the extra is not installed
        from coordinator.sessions.keys import SessionKeys
        from coordinator.sessions.rights import needed_commands, touched, user
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--for sessions: {error}") from None
    keys, needed = SessionKeys(), needed_commands()
    tried = await _tried(server, needed, keys.alias(":"))
    fence = [[of.detector, of.events, of.instance(":"), of.meta, of.session(":")] for of in _partitions(server)]
    by_key = await _access([server.command, *server.commands], [touched(keys), *fence])
    told = [(name, what) for name in sorted(needed) if (what := tried.get(name))]
    patterns = user(keys, server.keys.prefix, server.partitions).keys
    return _finding("sessions", lacking([*told, *by_key], patterns, ()), await whoami(server.command))


def _finding(program: str, lack: Lack | None, user: str) -> Finding:
    check = f"rights: {program}"
    if lack is None:
        return Finding(check, "ok", f"user {user!r} may do all that this needs")
    only_optional = set(lack.commands) <= set(OPTIONAL) and not lack.keys and not lack.channels
    return Finding(check, "warn" if only_optional else "fail", f"user {user!r} may not {lack.what}", lack.line(user))


async def _tried(server: Server, used: Collection[Name], scratch: str = "") -> dict[Name, str]:
    """What is refused of each command that could be tried: ``command``, ``access``, ``either``, or '' for nothing.

    Args:
        scratch: a key that does not exist; '' for one of the deployment's.
    """
    scratch = scratch or server.keys.scratch
    found: dict[Name, str] = {}
    scripts = not await _denied(server, ("EVAL", "return 1", "0"), "scripts")
    for group, listed in TRIES.items():
        for one in places(listed, scratch, server.keys.mailbox(":")):
            if (name := name_of(one)) in used and (scripts or one[0] not in NOT_SENT):
                found[name] = await _denied(server, one, group)
    if not found.get(("DEL",)):
        await _denied(server, ("DEL", scratch), "keys")
    return found


def _partitions(server: Server) -> list[Keys]:
    return [Keys(server.keys.prefix, partition) for partition in range(server.partitions)]


def _keys_of(server: Server) -> list[list[str]]:
    return [every_kind(of) for of in _partitions(server)]


async def _access(commands: Sequence[Command], keys: Sequence[Sequence[str]]) -> Sequence[tuple[Name, str]]:
    """A refusal when one of the keys is refused.

    Args:
        commands: for each list of keys, what asks the server that holds it.
    """
    for command, some in zip(commands, keys, strict=True):
        for key in some:
            try:
                await command(*KEYS_LIKE, key, "field")
            except StoreUnavailableError as error:
                if error.kind == "permission" and _by_text(error.detail) == "access":
                    return [(KEYS_LIKE, "access")]
                if not refused(error):
                    raise
    return []


async def _denied(server: Server, words: Try, group: str) -> str:
    """What the server refused of a command; '' for nothing."""
    try:
        if words[0] in NOT_SENT:
            call = calls.allowed(scratch=server.keys.scratch, tries=as_lines([words]))
            told = call.parse(await server.command(*call.eval())).refused
            return told[0].split(" ")[1] if told else ""
        await server.command(*words)
    except NoGroupError:
        return ""  # it looked, and there is none
    except StoreUnavailableError as error:
        if error.kind == "permission":
            return _by_text(error.detail)
        if error.kind == "unsupported" and group != "keys":
            return "command"
        if not refused(error):
            raise
    return ""


def _by_text(detail: str) -> str:
    """Redis says what is refused of a command: the command, or the access to its key or channel."""
    return "access" if " access " in detail else "command"
