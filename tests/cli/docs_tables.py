"""The tables in the docs that are made from code; ``python -m tests.cli.docs_tables`` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from coordinator import bounds
from coordinator.cli.doctor_acl import users
from coordinator.metrics import Metrics
from coordinator.settings import Settings
from coordinator.settings.groups import EVERY, grouped, programs_of, shown
from coordinator.states import transitions_table
from coordinator.store.scripts import SCRIPTS
from coordinator.voice.progress import call_transitions_table
from tests.cli.lifetimes import lifetimes_table
from tests.inside import labels_of

ROOT = Path(__file__).resolve().parents[2]


def scripts_table() -> str:
    """Every script: what it does, what it answers, why a second call does no harm."""
    rows = ["| script | what it does | answers | called twice |", "|---|---|---|---|"]
    for name, script in SCRIPTS.items():
        first = script.source.decode().split(f"-- {name}.lua: ", 1)[1].split("\n", 1)[0]
        replies = "<br>".join(f"`{' '.join((word, *fields))}`" for word, fields in script.header.replies.items())
        cells = (first.rstrip("."), replies, script.header.retry.rstrip("."))
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def settings_table() -> str:
    """Every setting with its default and the programs that use it, group by group."""
    rows: list[str] = []
    for group, fields in grouped(Settings.model_fields):
        rows += [f"**{group}**", "", "| setting | default | for | what it is |", "|---|---|---|---|"]
        for name, field in fields.items():
            programs = programs_of(field)
            whose = "all" if programs == EVERY else ", ".join(programs)
            rows.append(f"| `{name.upper()}` | {shown(field) or '-'} | {whose} | {field.description} |")
        rows.append("")
    return "\n".join(rows[:-1])


def metrics_table() -> str:
    """Every metric with its labels."""
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for metric in vars(Metrics(CollectorRegistry(), "0")).values():
        if isinstance(metric, MetricWrapperBase):
            [what] = metric.describe()
            name = what.name.removeprefix("recovery_") + ("_total" if what.type == "counter" else "")
            labels = ", ".join(labels_of(metric)) or "-"
            rows.append(f"| `{name}` | {what.type} | {labels} | {what.documentation} |")
    return "\n".join(rows)


def acl_table() -> str:
    """The users of Redis that most deployments need, as commands."""
    lines = [user.line for user in users("recovery", 1) if user.name in ("worker", "coordinator", "reader")]
    return "\n".join(["```", *lines, "```"])


def users_table() -> str:
    """Every user of Redis: what it is for, and what it may."""
    rows = ["| user | is for | keys | channels | commands |", "|---|---|---|---|---|"]
    for user in users("recovery", 1):
        keys, channels = (
            "<br>".join(f"`{pattern}`" for pattern in one) or "none" for one in (user.keys, user.channels)
        )
        words = " ".join(rule.removeprefix("+") for rule in user.commands)
        rows.append(f"| `{user.name}` | {user.does} | {keys} | {channels} | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def bounds_table() -> str:
    """Every rule for what is written."""
    b, whole = bounds, "a whole number from 1 to 2^53 - 1"
    assert b.MOST_WHOLE == 2**53 - 1
    rules = {
        "session id": "1 to 256 printable ASCII characters without white space and braces",
        "instance name, pool": b.NAME_RULE.replace("a-z 0-9 . _ -", "a-z 0-9 `.` `_` `-`"),
        "instance id": "its name, `~` and a ULID",
        "epoch, number of a checkpoint": whole,
        "name of a label": b.LABEL_RULE.replace("=", "`=`"),
        "`labels`, `requires`": f"at most {b.MOST_LABELS}; a requirement is `name` or `name=value`",
        "`tenant`, `address`, value of a label": f"text of at most {b.MOST_TEXT} characters, all of them printable",
        "`reason`": f"text of at most {b.MOST_REASON:,} characters; the library shows what is not printable in it (`\\x1b`), "
        "HTTP refuses it",
        "recovery data": "at most `MAX_DATA_BYTES` (which is at most 64 MiB): bytes of any kind, or a JSON object",
        "recovery data as JSON": f"nested at most {b.MOST_DEPTH} deep; finite numbers, whole ones within ±(2^53 - 1); "
        "text without halves of characters",
        "state of the session store": f"at most {b.MOST_STATE_BYTES // 2**20} MiB; `recovery_data` and `extra` nested at most "
        f"{b.MOST_DEPTH} deep; numbers that a float64 holds",
        "duration": "at most ten years",
    }  # fmt: skip
    return "\n".join(["| value | rule |", "|---|---|", *(f"| {value} | {rule} |" for value, rule in rules.items())])


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "settings": (ROOT / "docs/settings.md", settings_table),
    "acl": (ROOT / "docs/security.md", acl_table),
    "users": (ROOT / "docs/security.md", users_table),
    "lifetimes": (ROOT / "docs/security.md", lifetimes_table),
    "metrics": (ROOT / "docs/metrics.md", metrics_table),
    "states": (ROOT / "docs/protocol.md", transitions_table),
    "call-states": (ROOT / "docs/sessions.md", call_transitions_table),
    "scripts": (ROOT / "docs/protocol.md", scripts_table),
    "bounds": (ROOT / "docs/protocol.md", bounds_table),
}


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- table: {name} -->\n)(?:(?!<!--).)*?(<!-- end -->)", re.DOTALL)


def written(name: str) -> str:
    """The table as it stands in its document."""
    path, _ = TABLES[name]
    match = _pattern(name).search(path.read_text())
    if match is None:
        raise ValueError(f"{path.name} has no place for the table {name}")
    return match[0].removeprefix(match[1]).removesuffix(match[2]).removesuffix("\n")


def write_all() -> None:
    """Replaces each table in its document by what the code says now."""
    for name, (path, make) in TABLES.items():
        old = written(name)
        path.write_text(
            path.read_text().replace(f"<!-- table: {name} -->\n{old}", f"<!-- table: {name} -->\n{make()}", 1)
        )


if __name__ == "__main__":
    write_all()
