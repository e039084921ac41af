"""Which commands each program needs of Redis, in one place: looked at when it starts, tried and granted by ``doctor``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.store import calls
from coordinator.store.commands import TRIES, Name, Try, name_of, places
from coordinator.store.keys import Keys
from coordinator.store.scripts import NOT_NEEDED, SCRIPTS, Argument, R, Script, ScriptCall, commands_of

__all__ = [
    "CONNECTING", "NEEDS", "OPTIONAL", "SPOKEN", "Lack", "Need", "Program", "RightsRunner", "check_rights", "commands_needed",
    "every_kind", "lacking", "look_at_rights", "needed_by", "rule_of", "tries_of", "used_by", "whoami",
]  # fmt: skip

Program = Literal["worker", "coordinator", "reader", "exporter", "operator"]
"""In this order: a program that beats and serves (worker, sidecar, supervisor), a coordinator, a program that only reads (status,
doctor), redis_exporter with the script of the chart, and a person who also changes something by the command line."""
SCRIPTS_ARE_RUN_BY: tuple[Name, ...] = (("EVALSHA",), ("EVAL",))
CONNECTING = ("client|setname", "select", "cluster|slots", "acl|whoami", "info")
"""Commands that a connection sends by itself, as rules of an ACL; INFO tells the server's run id."""
SPOKEN = frozenset({"PUBLISH", "SUBSCRIBE"})
"""Commands whose access is to a channel."""
OPTIONAL: tuple[Name, ...] = (("PUBSUB", "NUMSUB"), ("WAIT",))
"""Without these a program logs what it lacks, and goes on."""


@dataclass(frozen=True, slots=True)
class Need:
    """Scripts that a program runs, and commands that it sends by itself."""

    scripts: tuple[str, ...]
    commands: tuple[Name, ...]


NEEDS: Mapping[Program, Need] = {
    "worker": Need(
        (
            "adopt", "agree", "ask", "beat", "certify", "checkpoint", "close", "decline", "delegate", "drain", "hand_over", "init",
            "join", "extend_leases", "let_go", "open", "reassert", "release", "renew", "resumed", "set_aside", "set_aside_member",
            "stopped", "trust", "withdraw",
        ),
        (
            ("HGET",), ("HGETALL",), ("HMGET",), ("PING",), ("PUBLISH",), ("SCARD",), ("SMEMBERS",), ("SUBSCRIBE",), ("TIME",),
            ("UNSUBSCRIBE",), ("WAIT",), ("XACK",), ("XGROUP", "CREATE"), ("XREADGROUP",), ("ZRANGE",),
        ),
    ),
    "coordinator": Need(
        (
            "certify", "claim", "declare", "expire", "forget", "init", "blame", "prune", "repair", "scan", "set_aside_member",
            "settle", "trim",
        ),
        (
            ("DEL",), ("EXISTS",), ("HGET",), ("HMGET",), ("HSCAN",), ("PUBLISH",), ("SCAN",), ("SCARD",), ("SISMEMBER",),
            ("SRANDMEMBER",), ("TIME",), ("WAIT",), ("XACK",), ("XGROUP", "CREATE"), ("XGROUP", "DELCONSUMER"),
            ("XINFO", "CONSUMERS"), ("XLEN",), ("XPENDING",), ("XRANGE",),
            ("XREADGROUP",), ("ZADD",), ("ZCARD",), ("ZRANGE",), ("ZRANGEBYSCORE",), ("ZREM",), ("ZSCORE",),
        ),
    ),
    "reader": Need(
        (),
        (
            ("HGET",), ("HGETALL",), ("HMGET",), ("HSTRLEN",), ("SCAN",), ("SCARD",), ("TIME",), ("ZCARD",), ("ZRANGE",),
        ),
    ),
    "exporter": Need(
        (), (("EVAL",), ("HGET",), ("SCARD",), ("TIME",), ("ZCARD",), ("ZRANGE",), ("ZRANGEBYSCORE",)),
    ),
    "operator": Need(
        ("certify", "correct", "drain", "purge", "replay"),
        (
            ("HGET",), ("HGETALL",), ("HMGET",), ("HSTRLEN",), ("PUBLISH",), ("SCAN",), ("SCARD",), ("SMEMBERS",), ("TIME",),
            ("WAIT",), ("ZCARD",), ("ZRANGE",),
        ),
    ),
}  # fmt: skip


class RightsRunner(Protocol):
    """Runs scripts and commands."""

    async def run(self, call: ScriptCall[R]) -> R:
        """A script."""

    async def command(self, *args: Argument) -> Any:
        """A plain command."""


def commands_needed(scripts: Iterable[Script], commands: Iterable[Name]) -> frozenset[Name]:
    """All that these scripts call and what is sent beside them, except the commands without which they go on."""
    called = {name for script in scripts for name in commands_of(script.source) if name not in NOT_NEEDED}
    return frozenset({*SCRIPTS_ARE_RUN_BY, *called, *commands})


def needed_by(program: Program) -> frozenset[Name]:
    """Every command that a program needs to do its work."""
    need = NEEDS[program]
    if not need.scripts:
        return frozenset(need.commands)
    return commands_needed(_scripts_of(program), (*need.commands, ("HMGET",), ("TYPE",)))


def used_by(program: Program) -> frozenset[Name]:
    """The same, and the commands without which its scripts go on."""
    called = {name for script in _scripts_of(program) for name in commands_of(script.source)}
    return needed_by(program) | (called & set(NOT_NEEDED))


def _scripts_of(program: Program) -> list[Script]:
    """The scripts of a program; if it runs any, also the one that sets aside what these cannot use."""
    scripts = NEEDS[program].scripts
    return [SCRIPTS[name] for name in (*scripts, "set_aside")] if scripts else []


def tries_of(names: Iterable[Name], key: str, channel: str) -> list[Try]:
    """These commands, in the order of `TRIES`, with this key and channel."""
    wanted = set(names)
    return places([one for tries in TRIES.values() for one in tries if name_of(one) in wanted], key, channel)


def rule_of(name: Name) -> str:
    """The rule of ``ACL SETUSER`` that permits a command, or its subcommand alone: ``+xgroup|create``."""
    return f"+{'|'.join(name).lower()}"


def every_kind(k: Keys) -> list[str]:
    """A key of each kind; those with an id have one that no record has."""
    alone = [
        k.meta, k.instances, k.graves, k.leases, k.orphans, k.dead_letters, k.events, k.detector, k.names, k.quarantine,
    ]  # fmt: skip
    makers = (k.session, k.owned, k.blamed, k.instance, k.offers, k.set_aside, k.set_aside_key, k.mailbox)
    return [*alone, *(make(":") for make in makers), k.letter(":", 0), k.scratch]


def as_lines(tries: Iterable[Try]) -> list[str]:
    """Each command's words, one a line, as ``allowed.lua`` takes them; on Redis 6.2 it tries each."""
    return ["\n".join(str(word) for word in one) for one in tries]


async def check_rights(runner: RightsRunner, k: Keys, program: Program) -> None:
    """Checks that the user has every right that the program will need. One round trip; changes nothing, safe to repeat.

    Raises:
        ConfigurationError: one line with the user, what it may not do, and the rule that permits it.
        StoreUnavailableError: the store did not answer.
    """
    tries = tries_of(needed_by(program) - set(OPTIONAL), k.scratch, k.mailbox(":"))
    keys = [("PERSIST", key) for key in every_kind(k)]
    await look_at_rights(runner, k.scratch, [*tries, *keys], [f"{k.tag}:*"], [k.mailbox("*")])


async def look_at_rights(
    runner: RightsRunner,
    scratch: str,
    tries: Sequence[Try],
    keys: Sequence[str],
    channels: Sequence[str] = (),
    setting: str = "redis_url",
) -> None:
    """As `check_rights`, for any commands.

    Args:
        scratch: a key that nothing uses.
        tries: commands, each in a form that changes nothing.
        keys, channels: patterns of what they are to be permitted on, for the message.
        setting: the setting to blame, for the message.
    """
    try:
        answer = await runner.run(calls.allowed(scratch=scratch, tries=as_lines(tries)))
        told = [line.split(" ") for line in answer.refused]
        refused = _made_clear({name_of(tries[int(number)]): what for number, what in told})
    except StoreUnavailableError as error:
        if error.kind != "permission":
            raise
        refused = [_by_text(error.detail)]
    if lack := lacking(refused, keys, channels):
        raise ConfigurationError(f"{setting}: {lack.told(await whoami(runner.command))}")


@dataclass(frozen=True, slots=True)
class Lack:
    """What a user needs and may not do."""

    commands: tuple[Name, ...]
    keys: tuple[str, ...]
    channels: tuple[str, ...]

    @property
    def what(self) -> str:
        """In words, to stand after "may not"."""
        missing = [f"run {', '.join(' '.join(name) for name in self.commands)}"] if self.commands else []
        missing += [f"use keys {' '.join(self.keys)}"] if self.keys else []
        missing += [f"use channels {' '.join(self.channels)}"] if self.channels else []
        return ", nor ".join(missing)

    def line(self, user: str) -> str:
        """The command that permits it, and nothing else."""
        rules = [*map(rule_of, self.commands), *(f"~{key}" for key in self.keys), *(f"&{one}" for one in self.channels)]
        return f"ACL SETUSER {user} {' '.join(rules)}"

    def told(self, user: str) -> str:
        """The same as one sentence, with the command that permits it."""
        return f"user {user!r} may not {self.what}; permit it with: {self.line(user)}"


def lacking(refused: Sequence[tuple[Name, str]], keys: Sequence[str], channels: Sequence[str]) -> Lack | None:
    """What follows from refusals, each of a ``command``, of the ``access`` to its key or channel, or of ``either``.

    Args:
        keys, channels: patterns that would permit the access.
    """
    commands = dict.fromkeys(name for name, what in refused if what != "access")
    lacks_channels = any(what != "command" and name[0] in SPOKEN for name, what in refused)
    lacks_keys = any(what == "access" and name[0] not in SPOKEN for name, what in refused)
    lack = Lack(tuple(commands), tuple(keys if lacks_keys else ()), tuple(channels if lacks_channels else ()))
    return lack if lack.what else None


def _made_clear(refused: Mapping[Name, str]) -> list[tuple[Name, str]]:
    """Tells by PUBLISH to the same channel what of SUBSCRIBE is refused, command or channel: Redis 8 itself does not say."""
    publish = refused.get(("PUBLISH",), "")
    clear = {"": "command", "access": "access"}.get(publish, "either")
    return [(name, clear if what == "either" else what) for name, what in refused.items()]


def _by_text(detail: str) -> tuple[Name, str]:
    """What a refusal of the connection or of the whole script was about; Redis 6.2 names no subcommand."""
    command = re.search(r"run the '([a-z|]+)' command", detail)
    if not command:
        return ("EVALSHA",), "access"
    narrow = next((rule for rule in CONNECTING if rule.startswith(f"{command[1]}|")), command[1])
    return tuple(narrow.upper().split("|")), "command"


async def whoami(command: Callable[..., Awaitable[Any]]) -> str:
    """The user of this connection; ``<user>`` where the server does not tell."""
    try:
        told = await command("ACL", "WHOAMI")
    except StoreUnavailableError:
        return "<user>"
    return bytes(told).decode()
