"""Loads the ``.lua`` files, reads their headers, and turns names into the positions that Redis wants.

A header lists keys, arguments, replies and retry safety. No index is counted by hand, in Lua or in Python:
`coordinator.store.calls` is generated from the headers, and a test compares header and Lua.

The lines of a header::

    -- KEYS owned    SET <owned(instance)>   a name, its type, how `Keys` makes it (its attribute of that name if nothing is said)
    -- KEYS *session HASH <session(sessions)> the last may repeat: one for each of ``sessions``; ``<=name>`` is a key as it is given
    -- ARGV reason   text='' <why>            a name, its type, its default, and what the caller knows it by if that is another name
    -- ARGV *id      text[BATCH] <sessions>   the last may repeat, at most so often
    -- REPLY OK epoch:int owner               a word, and its fields; those without a type are text

Types of arguments are text, reason (made to fit), int, int? ('' for None), duration, share, flag, bytes, pair (two joined by a
blank) and fields (of a mapping); of fields text, int, int?, duration, flag, bytes and lines.

A duration is named ``…_ms`` in Lua; callers give and get seconds, without that ending. A share is named ``…_permille`` there; callers
give a number from 0 to 1 as ``…_share``. A point in time stays in ms of the server's clock: it is compared, not waited for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Generic, TypeVar

from coordinator.store.commands import CHANNEL, KEY, Name, name_of, try_of
from coordinator.store.replies import Reply
from coordinator.store.shapes import lua_readers

__all__ = [
    "SCRIPTS",
    "SERVER",
    "Argument",
    "Script",
    "ScriptCall",
    "ScriptHeader",
    "ServerRunId",
    "commands_of",
    "load_script",
    "load_scripts",
]  # fmt: skip

Argument = bytes | str | int
R = TypeVar("R", bound=Reply, covariant=True)


class ServerRunId(bytes):
    """Stands in for "the run id of the server that this connection talks to": the connection fills it in as it sends.

    Only the connection knows it: between choosing the arguments and sending them, a failover may put another server
    behind the same name.
    """


SERVER = ServerRunId(b"")

NOT_NEEDED = (("PUBLISH",), ("PUBSUB", "NUMSUB"))
"""Commands without which a script goes on: a word is lost, or a lost connection tells nothing."""
CALLED_FIRST = (("TIME",), ("HMGET",), ("HGET",))
"""Commands that a script calls before its first write on every path: Redis itself refuses them in time."""
RIGHTS = "rights"
"""File of ``lua/lib`` that stands before each script that writes."""

_COMMAND = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")
_LINE = re.compile(r"^-- (KEYS|ARGV|REPLY|RETRY|USES)\s+(.*)$")


@dataclass(frozen=True, slots=True)
class ScriptHeader:
    """What the header of a script says.

    Attributes:
        keys, args: names in order, without the repeated ones.
        repeated_key, repeated_arg: name of the group that fills the rest, or ''.
        replies: reply word -> names of its fields.
        retry: why a second call with the same request does no harm.
        uses: files of ``lua/lib`` that stand before the script, in order.
        types: of the keys in order, of the repeated one last; ``ANY`` for any.
    """

    keys: tuple[str, ...]
    args: tuple[str, ...]
    repeated_key: str
    repeated_arg: str
    replies: Mapping[str, tuple[str, ...]]
    retry: str
    uses: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScriptCall(Generic[R]):
    """One run of a script: what an executor sends, and what may come back.

    Attributes:
        keys, args: in the header's order.
        replies: each word that it can answer -> its class.
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    replies: Mapping[bytes, type[R]]

    @property
    def session(self) -> str:
        """Key of the one session that it is for; '' when it is for none, or for several."""
        names = self.script.header.keys
        return self.keys[names.index("session")] if "session" in names else ""

    @property
    def types(self) -> tuple[str, ...]:
        """Type of each key in lower case, as Redis writes it; ``any`` for any."""
        types = self.script.header.types
        named = len(self.script.header.keys)
        each = (*types[:named], *(types[-1:] * (len(self.keys) - named)))
        return tuple(word.lower() for word in each)

    def evalsha(self) -> tuple[Argument, ...]:
        """The command that names the script by its digest."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def eval(self) -> tuple[Argument, ...]:
        """The same with the script's text, for a server that does not know it yet, or no longer."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)

    def place(self, argument: str) -> int:
        """Where a named argument stands in the words of `eval` and `evalsha`."""
        return 3 + len(self.keys) + self.script.header.args.index(argument)

    def parse(self, raw: Sequence[bytes]) -> R:
        """The reply.

        Raises:
            ValueError: the word, or a field's name, is not one that the header lists.
        """
        reply = self.replies.get(raw[0])
        if reply is None:
            raise ValueError(f"{self.script.name}.lua answered {raw[0].decode()!r}, which its header does not list")
        try:
            return reply.read(raw)
        except ValueError as error:
            raise ValueError(f"{self.script.name}.lua {error}") from None


@dataclass(frozen=True, slots=True)
class Script:
    """A loaded script."""

    name: str
    header: ScriptHeader
    source: bytes
    sha: str


def _names(words: Sequence[str], what: str, name: str) -> tuple[tuple[str, ...], str]:
    repeated = [w for w in words if w.startswith("*")]
    if len(repeated) > 1 or (repeated and words[-1] != repeated[0]):
        raise ValueError(f"{name}.lua: only the last of {what} may repeat, not {repeated}")
    return tuple(w for w in words if not w.startswith("*")), repeated[0][1:] if repeated else ""


def read_header(name: str, text: str) -> ScriptHeader:
    """The header of a script's text.

    Raises:
        ValueError: its first line does not name it, or a part is missing.
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith(f"-- {name}.lua: "):
        raise ValueError(f"{name}.lua must begin with '-- {name}.lua: what it does'")
    found: dict[str, list[str]] = {"KEYS": [], "ARGV": [], "REPLY": [], "RETRY": [], "USES": []}
    for line in lines:
        if not line.startswith("--"):
            break
        if match := _LINE.match(line):
            found[match[1]].append(match[2].strip())
    if not found["REPLY"] or len(found["RETRY"]) != 1:
        raise ValueError(f"{name}.lua: its header needs REPLY lines and one RETRY line")
    keys, repeated_key = _names([k.split()[0] for k in found["KEYS"]], "KEYS", name)
    args, repeated_arg = _names([a.split()[0] for a in found["ARGV"]], "ARGV", name)
    replies: dict[str, tuple[str, ...]] = {}
    for word, *fields in map(str.split, found["REPLY"]):
        replies[word] = (*replies.get(word, ()), *(one.partition(":")[0] for one in fields))
    uses = tuple(word for line in found["USES"] for word in line.split())
    types = tuple(line.split()[1] for line in found["KEYS"])
    return ScriptHeader(
        keys, args, repeated_key, repeated_arg, MappingProxyType(replies), found["RETRY"][0], uses, types
    )


def _library(folder: Traversable, name: str) -> Traversable:
    """A piece of Lua: of the script's own package, else of the protocol."""
    own = folder / "lib" / f"{name}.lua"
    return own if own.is_file() else resources.files("coordinator.store") / "lua" / "lib" / f"{name}.lua"


def commands_of(source: bytes) -> tuple[tuple[str, ...], ...]:
    """The commands that a script calls, each once; with the subcommand where there is one."""
    found = _COMMAND.findall(source.decode())
    return tuple(dict.fromkeys(name_of(words) for words in found))


def _may(command: Name) -> str:
    """Lua that asks for the right to a command, with as many words as it wants."""
    words = ["a_key" if word in (KEY, CHANNEL) else f"'{word}'" for word in try_of(command)]
    return f"may({', '.join(words)})"


def _look_first(body: str) -> str:
    """Lua that ends a script before its first write when one of its commands is not permitted."""
    needed = [command for command in commands_of(body.encode()) if command not in (*NOT_NEEDED, *CALLED_FIRST)]
    if not needed:
        return ""
    looks = " and ".join(_may(command) for command in needed)
    return (
        f"if may and not ({looks}) then\n  return refusal('{' '.join('|'.join(command) for command in needed)}')\nend"
    )


def load_script(name: str, package: str = "coordinator.store") -> Script:
    """Reads ``lua/<name>.lua`` of a package and the files that it uses, and puts the check of all needed rights before it.

    Raises:
        ValueError: its header is wrong.
        KeyError: it calls a command without a form in `coordinator.store.commands`.
    """
    folder = resources.files(package) / "lua"
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    header = read_header(name, text)
    parts = [_library(folder, lib).read_text(encoding="utf-8") for lib in header.uses]
    if "read" in header.uses:
        parts.append(lua_readers("\n".join([*parts, text])))
    look_first = _look_first("\n".join([*parts, text]))
    parts.append(_library(folder, RIGHTS).read_text(encoding="utf-8"))
    source = "\n".join([*parts, look_first, text]).encode()
    return Script(name, header, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


def load_scripts(package: str) -> Mapping[str, Script]:
    """Every script of a package's folder ``lua``, by name.

    Raises:
        ValueError: a header is wrong.
    """
    folder = resources.files(package) / "lua"
    names = sorted(f.name.removesuffix(".lua") for f in folder.iterdir() if f.name.endswith(".lua"))
    return MappingProxyType({name: load_script(name, package) for name in names})


SCRIPTS: Mapping[str, Script] = load_scripts("coordinator.store")
