"""``python -m tests.store.typed_calls [--write]``: ``calls.py`` of the store and of the session store, from the Lua headers.

One function a script, one class a reply: who misspells a field, or forgets a word that a script can answer, fails the type check.
What a header's lines say is told in `coordinator.store.scripts`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
TYPES = {
    "text": "str", "reason": "str", "int": "int", "int?": "int | None", "duration": "float", "share": "float",
    "flag": "bool", "bytes": "bytes", "lines": "tuple[str, ...]",
}  # fmt: skip
SENT = {
    "reason": "fitted({})",
    "duration": "in_ms({})",
    "share": "_permille({})",
    "flag": "int({})",
    "int?": '"" if {0} is None else {0}',
}
"""Kind of an argument -> what is sent; the argument itself for others."""
MANY = {
    "text": ("Sequence[str]", "*{}"),
    "bytes": ("Sequence[bytes]", "*{}"),
    "fields": ("Mapping[str, bytes]", "*(word for pair in {}.items() for word in pair)"),
    "sent": ("Sequence[Argument]", "*{}"),
}
OBJECTS = {"past": ("Past", "NO_PAST"), "fence": ("Fence", "NO_FENCE")}
"""Parameters that are more than one argument: their class, and what is sent without one."""
FENCED = {("cause",): "FencedInstance", ("scope", "owner", "epoch:int", "state"): "FencedWrite"}
"""The two answers that several scripts give an instance that may not write: it is dead, or this session is not its own."""
KEY = re.compile(r"^-- KEYS (\*?)(\w+) +\w+ *(?:<(.+?)>(?: |$))?")
ARGUMENT = re.compile(r"^-- ARGV (\*?)(\w+) +(\w+\??)(?:\[(\w+)\])?(?:=(\S+))? *(?:<(.+?)>(?: |$))?")
REPLY = re.compile(r"^-- REPLY (\w+) *(.*)$")


@dataclass
class Parsed:
    """A script's header, as far as types are concerned."""

    name: str
    what: str
    keys: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    parameters: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    replies: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    wants_keys: bool = False

    def wants(self, expression: str, kind: str = "str", default: str | None = None) -> None:
        """Each name in an expression is a parameter, unless it is one already."""
        for node in ast.walk(ast.parse(expression, mode="eval")):
            if isinstance(node, ast.Name) and node.id != "k":
                of = OBJECTS.get(node.id, (kind, default))
                self.parameters.setdefault(node.id, of)


def camel(name: str) -> str:
    """``let_go`` and ``NAME_IN_USE`` as names of classes."""
    return "".join(part.capitalize() for part in name.split("_"))


def parse(path: Path) -> Parsed:
    """The header of one file."""
    lines = path.read_text().splitlines()
    what = re.sub(r"^-- \w+\.lua: ", "", lines[0])
    found = Parsed(path.stem, what[0].upper() + what[1:])
    header = lines[1 : next(n for n, line in enumerate(lines) if not line.startswith("--"))]
    arguments = [match for line in header if (match := ARGUMENT.match(line))]
    for star, name, kind, most, default, expression in (match.groups() for match in arguments):
        _argument(found, star, name, kind, most, default, expression)
    for star, name, expression in (match.groups() for line in header if (match := KEY.match(line))):
        _key(found, star, name, expression)
    replies: dict[str, tuple[str, ...]] = {}
    for word, fields in (match.groups() for line in header if (match := REPLY.match(line))):
        replies[word] = (*replies.get(word, ()), *fields.split())
    found.replies = list(replies.items())
    return found


def _argument(
    found: Parsed, star: str, name: str, kind: str, most: str | None, default: str | None, expression: str | None
) -> None:
    if name == "server":
        found.sent.append("SERVER")
    elif kind == "pair":
        first, second = (expression or "").split()
        found.parameters |= {first: ("Sequence[str]", None), second: ("Sequence[str]", None)}
        found.sent.append(f'*(f"{{a}} {{b}}" for a, b in zip({first}, {second}, strict=True))')
        _limit(found, first, most)
    elif star:
        of, form = MANY[kind]
        source = expression or name
        found.wants(source, of)
        found.sent.append(form.format(source))
        _limit(found, source, most)
    else:
        source = expression or _in_python(name, kind)
        found.wants(source, TYPES[kind], {"1": "True", "0": "False"}.get(str(default)) if kind == "flag" else default)
        found.sent.append(SENT.get(kind, "{}").format(source))


def _limit(found: Parsed, parameter: str, most: str | None) -> None:
    if most:
        found.checks.append(f'_few("{found.name}", {parameter}, {most})')


def _key(found: Parsed, star: str, name: str, expression: str | None) -> None:
    source = expression or name
    own = source.startswith("=")
    source = source.removeprefix("=")
    if own:
        found.wants(source, "Sequence[str]" if star else "str")
        found.keys.append(f"*{source}" if star else source)
        return
    found.wants_keys = True
    called = ast.parse(source, mode="eval").body
    if star:
        assert isinstance(called, ast.Call)
        [many] = called.args
        found.wants(ast.unparse(many), "Sequence[str]")
        found.keys.append(f"*(k.{ast.unparse(called.func)}(one) for one in {ast.unparse(many)})")
        return
    if isinstance(called, ast.Call):
        for argument in called.args:
            found.wants(ast.unparse(argument))
    found.keys.append(f"k.{source}")


def _field(text: str) -> tuple[str, str]:
    name, _, kind = text.partition(":")
    return _in_python(name, kind), TYPES[kind or "text"]


def _in_python(name: str, kind: str) -> str:
    """A length of time is in seconds there, and its name has no unit; so is a share, which the script has in thousandths."""
    if kind == "share":
        return f"{name.removesuffix('_permille')}_share"
    return name.removesuffix("_ms") if kind == "duration" else name


class _Classes:
    """Which class each reply of each script is; those of the store's scripts are there already for the session store's."""

    def __init__(self, scripts: Sequence[Parsed], there: _Classes | None = None) -> None:
        self._there = there
        shapes = defaultdict[str, set[tuple[str, ...]]](set)
        for script in scripts:
            for word, fields in script.replies:
                shapes[word].add(fields)
        self._alone = {word for word, found in shapes.items() if len(found) == 1}
        self._shapes = shapes
        self.imported: set[str] = set()
        self.new: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        """Name -> base, word, fields."""
        for word in sorted(shapes):
            if there is None or word not in there._shapes:
                self._add(camel(word), "Reply", word, next(iter(shapes[word])) if word in self._alone else ())
        for script in scripts:
            for word, fields in script.replies:
                self._add(self.of(script, word, fields), camel(word), word, fields)

    def _add(self, name: str, base: str, word: str, fields: tuple[str, ...]) -> None:
        if self._there is not None and name in self._there.new:
            self.imported.add(name)
        elif name not in self.new:
            self.new[name] = (base, word, fields)

    def of(self, script: Parsed, word: str, fields: tuple[str, ...]) -> str:
        """Its own, if other scripts answer the same word with other fields."""
        there = self._there
        if there is not None and word in there._shapes:
            return there.of(script, word, fields)
        if not fields or (word in self._alone and fields in self._shapes[word]):
            return camel(word)
        if word == "FENCED":
            return FENCED[fields]
        return camel(script.name) + camel(word)


def _reply_class(name: str, base: str, word: str, fields: Iterable[str]) -> str:
    lines = [f"@dataclass(frozen=True, slots=True)\nclass {name}({base}):"]
    lines.append(f'    """{word}."""')
    if base == "Reply":
        lines.append(f'    word: ClassVar[str] = "{word}"')
    lines += ["    {}: {}".format(*_field(one)) for one in fields]
    return "\n".join(lines)


def _function(script: Parsed, classes: _Classes, keys: str) -> str:
    parameters = [f"k: {keys}"] if script.wants_keys else []
    ordered = sorted(script.parameters.items(), key=lambda item: item[1][1] is not None)
    if ordered:
        parameters.append("*")
    parameters += [f"{name}: {kind}" + (f" = {default}" if default else "") for name, (kind, default) in ordered]
    alias = f"{camel(script.name)}Reply"
    answers = [classes.of(script, word, fields) for word, fields in script.replies]
    body = "".join(f"    {check}\n" for check in script.checks)
    table = ", ".join(f'b"{word}": {classes.of(script, word, fields)}' for word, fields in script.replies)
    noqa = "  # noqa: A001 - the word of the protocol" if script.name == "open" else ""
    one, only = ("," if len(part) == 1 else "" for part in (script.keys, script.sent))
    constant = script.name.upper()
    return f'''{alias}: TypeAlias = {" | ".join(answers)}
_{constant}: Mapping[bytes, type[{alias}]] = {{{table}}}


def {script.name}({noqa}
    {", ".join(parameters)}
) -> ScriptCall[{alias}]:
    """{script.what}"""
{body}    return ScriptCall(SCRIPTS["{script.name}"], ({", ".join(script.keys)}{one}), ({", ".join(script.sent)}{only}), _{constant})
'''


def _scripts(package: str) -> list[Parsed]:
    return [parse(path) for path in sorted((ROOT / "coordinator" / package / "lua").glob("*.lua"))]


def module(package: str, heading: str) -> str:
    """The text of a package's ``calls.py``."""
    scripts = _scripts(package)
    classes = _Classes(scripts, None if package == "store" else _Classes(_scripts("store")))
    replies = [_reply_class(name, *of) for name, of in classes.new.items()]
    keys = "SessionKeys" if package == "sessions" else "Keys"
    functions = [_function(script, classes, keys) for script in scripts]
    shared = ", ".join(sorted(classes.imported))
    return formatted("\n\n".join([heading.replace("SHARED", shared), *replies, *functions]))


def formatted(text: str) -> str:
    """As ruff writes it."""
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "format", "-"], input=text, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


STORE = '''"""One function a script, one class a reply: generated from the headers of ``lua/*.lua`` (tests/store/typed_calls.py).

Each function returns a `ScriptCall`, which an executor runs; none does I/O. Lengths of time are in seconds. A reason is made to
fit.
What the keys and arguments mean, and why each script is safe to run twice, stands in its header. A reply without fields, and one
that always has the same, is one class for all scripts; else each script's own is a subclass of the word's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from coordinator.bounds import fitted
from coordinator.clock import in_ms
from coordinator.store.keys import Keys
from coordinator.store.past import NO_PAST, Past
from coordinator.store.replies import Reply
from coordinator.store.scripts import SCRIPTS, SERVER, ScriptCall
from coordinator.store.usual import BATCH, DAY, DEAD_LETTER_TTL, GIVE_UP_AFTER, INLINE_BYTES, MOST_SUSPECTS




def _few(script: str, things: Sequence[str], most: int) -> None:
    if len(things) > most:
        raise ValueError(f"{len(things)} are more than one call of {script}.lua takes ({most})")


def _permille(share: float) -> int:
    return round(share * 1000)
'''

SESSIONS = '''"""One function a script, one class a reply: generated from the headers of ``lua/*.lua`` (tests/store/typed_calls.py).

Lengths of time are in seconds; what the keys and arguments mean stands in the header of each ``.lua`` file. With a fence a script asks
first whether the writer still owns the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from coordinator.clock import in_ms
from coordinator.sessions.keys import SessionKeys
from coordinator.store.calls import SHARED
from coordinator.store.fence import NO_FENCE, Fence
from coordinator.store.replies import Reply
from coordinator.store.scripts import ScriptCall, load_scripts

SCRIPTS = load_scripts("coordinator.sessions")
'''

HEADINGS: Mapping[str, str] = {"store": STORE, "sessions": SESSIONS}


def main(*arguments: str) -> int:
    """Writes the files, or says which is not current."""
    stale = 0
    for package, heading in HEADINGS.items():
        path, text = ROOT / "coordinator" / package / "calls.py", module(package, heading)
        if "--write" in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(ROOT)} is not current")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
