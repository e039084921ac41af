"""``python -m tests.faults [--write] [evidence] [faults] [mass] [rollout] [callers]``: what each takes, as tables.

Every fault in all its lengths, mass loss and each kind of evidence. With ``--write`` they replace the
tables of docs/faults.md. Takes some ten minutes.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import anyio

from coordinator.cli.figures import percentile
from tests.callers.kills import kill_workers
from tests.faults.evidence import Lag, behind_a_sidecar, certificates, kills
from tests.faults.faults import FAULTS
from tests.faults.mass import lose
from tests.faults.rolling import restart_all
from tests.faults.runs import missing, run

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
CALLERS = DOCUMENT.with_name("sidecar.md")
PROFILES = ("fast", "default", "safe")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _three(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.0f} / {percentile(values, 0.99):.0f} / {max(values):.0f}"


def _say(text: str) -> None:
    print(text, flush=True)


def _evidence() -> tuple[str, bool]:
    def row(what: str, lag: Lag) -> list[object]:
        exit_ms = "{:.0f} / {:.0f}".format(*lag.exit_to_declared) if lag.exit_to_declared else "-"
        line = [
            what,
            ", ".join(sorted(lag.causes)),
            lag.count,
            exit_ms,
            "{:.0f} / {:.0f}".format(*lag.declared_to_offered),
        ]
        _say(str(line))
        return [*line]

    rows = [row("its exit is certified", certificates(200))]
    if shutil.which("go"):  # few: the heirs' own ticks would fill both processors, and the events would not hold all
        rows.append(row("SIGKILL of a worker in Go with 100 calls behind a sidecar", behind_a_sidecar(15, 100)))
    rows.append(row("SIGKILL, started again under the same name", kills(10, {}, again=True)))
    for profile in PROFILES:
        rows.append(row(f"SIGKILL, profile {profile}", kills(20, {"profile": profile})))
    rows.append(row("SIGKILL, lost connections switched off", kills(10, {"lost_connection_after": 0})))
    head = (
        "what happened",
        "cause",
        "deaths",
        "exit to declared, ms (p50 / p99)",
        "declared to offered, ms (p50 / p99)",
    )
    return _table(head, rows), True


def _faults() -> tuple[str, bool]:
    rows, good = [], True
    for fault in FAULTS:
        if why := missing(fault):
            rows.append([fault.name, "-", "not run: " + why, "-", "-"])
            continue
        for seconds in sorted((fault.seconds, *fault.long), key=abs):
            outcome = run(fault, seconds)
            good &= not outcome.broken
            said = "all kept" if not outcome.broken else "; ".join(outcome.broken)
            row = [
                fault.name,
                f"{seconds:g} s",
                said,
                f"{outcome.doubt:.1f} s",
                f"{max(outcome.takeovers, default=0):.1f} s",
            ]
            rows.append(row)
            _say(str(row))
    head = ("fault", "length", "promises", "longest doubt of a living owner", "kill as it ends, to adopted")
    return _table(head, rows), good


def _mass() -> tuple[str, bool]:
    rows, good = [], True
    for killed, back in ((3, False), (6, False), (10, True)):
        outcome = lose(killed, come_back=back)
        good &= not outcome.broken
        opened = "opened" if outcome.opened else "shut"
        said = "all kept" if not outcome.broken else "; ".join(outcome.broken)
        rows.append([f"{killed * 10} of 100", opened, f"{outcome.first:.1f} s", f"{outcome.last:.1f} s", said])
        _say(str(rows[-1]))
    head = ("killed at once", "mass breaker", "first declared", "last call adopted", "promises")
    return _table(head, rows), good


def _rollout() -> tuple[str, bool]:
    rows, good = [], True
    for workers, calls in ((5, 20), (5, 100)):
        outcome = restart_all(workers, calls)
        good &= not outcome.broken
        said = "all kept" if not outcome.broken else "; ".join(outcome.broken)
        rows.append(
            [
                f"{workers} with {calls} calls each", outcome.handed_over, outcome.released, outcome.moves,
                _three(outcome.heard.at_moves), _three(outcome.heard.longest), said,
            ]
        )  # fmt: skip
        _say(str(rows[-1]))
    head = (
        "workers restarted one after the other", "handovers", "not taken in time", "most moves of a call",
        "silence at moves, ms (p50 / p99 / longest)", "longest silence of each call, ms (same)", "promises",
    )  # fmt: skip
    return _table(head, rows), good


def _callers() -> tuple[str, bool]:
    rows, good = [], True
    for what, certified, count in (("certified", True, 1000), ("found out", False, 50)):
        settings = {"max_recoveries": 100_000, "breaker_min": 1000}  # else one death after another is a mass
        seen = anyio.run(partial(kill_workers, count, calls=40, workers=6, certified=certified, settings=settings))
        good &= not seen.behind
        times = " / ".join(f"{seconds * 1000:.0f}" for seconds in seen.seconds)
        share = f"{seen.resumed} ({100 * seen.resumed / seen.lost:.2f} %)"
        first = f"{100 * seen.first_try / seen.lost:.2f} %"
        rows.append([what, seen.kills, seen.lost, share, first, times, len(seen.behind)])
        _say(str(rows[-1]))
    head = (
        "the worker's end is", "workers killed", "connections lost", "resumed", "at the first attempt",
        "lost to resumed, ms (p50 / p99 / longest)", "behind the last checkpoint",
    )  # fmt: skip
    return _table(head, rows), good


def main(*arguments: str) -> int:
    """Runs everything; 1 when a promise was broken."""
    every = {"evidence": _evidence, "faults": _faults, "mass": _mass, "rollout": _rollout, "callers": _callers}
    wanted = [name for name in every if name in arguments] or list(every)
    parts = {name: every[name]() for name in wanted}
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if "--write" in arguments:
        for name, (table, _) in {**parts, "machine": (machine, True)}.items():
            document = CALLERS if name == "callers" else DOCUMENT
            before, _, rest = document.read_text().partition(f"<!-- table: {name} -->\n")
            _, end, after = rest.partition("<!-- end -->")
            document.write_text(f"{before}<!-- table: {name} -->\n{table}\n{end}{after}")
    else:
        for name, (table, _) in parts.items():
            _say(f"\n{name}\n\n{table}")
    return int(not all(good for _, good in parts.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
