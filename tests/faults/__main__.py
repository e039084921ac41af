"""``python -m tests.faults [--write] [NAME…]``: what each kind of fault takes, as tables; `TABLES` has their names.

With ``--write`` they replace the tables of docs/faults.md. All of them take more than an hour.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio

from coordinator.cli.figures import percentile
from tests import other_servers
from tests.callers.kills import kill_workers
from tests.faults.evidence import Lag, behind_a_sidecar, certificates, kills, over_a_line
from tests.faults.faults import FAULTS
from tests.faults.killers import kill_from_within
from tests.faults.mass import lose
from tests.faults.matrix import MEANWHILE, tried
from tests.faults.matrix import rows as move_rows
from tests.faults.rolling import restart_all
from tests.faults.runs import missing, run
from tests.faults.sidecars import rows as behind_sidecars
from tests.faults.silence import fall_silent
from tests.faults.slow_heir import take_over

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
CALLERS = DOCUMENT.with_name("sidecar.md")
SIDE_BY_SIDE = 2
OF_OTHER_SERVERS = ("Sentinel", "Cluster, 6 partitions")
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
        exit_ms, adopted_ms = (
            "{:.0f} / {:.0f}".format(*two) if two else "-" for two in (lag.exit_to_declared, lag.exit_to_adopted)
        )
        line = [
            what,
            ", ".join(sorted(lag.causes)),
            lag.count,
            exit_ms,
            "{:.0f} / {:.0f}".format(*lag.declared_to_offered),
            adopted_ms,
        ]
        _say(str(line))
        return [*line]

    rows = [row("its exit is certified", certificates(200))]
    if shutil.which("go"):  # few: the heirs' own ticks would fill both processors, and the events would not hold all
        rows.append(row("SIGKILL of a worker in Go with 100 calls behind a sidecar", behind_a_sidecar(15, 100)))
    rows.append(row("SIGKILL, with the exit watcher", kills(50, {}, watched=True)))
    rows.append(row("SIGKILL, with a line to a sidecar that sees no process", over_a_line(50)))
    rows.append(row("SIGKILL, without it from here on; started again under the same name", kills(10, {}, again=True)))
    for profile in PROFILES:
        rows.append(row(f"SIGKILL, profile {profile}", kills(20, {"profile": profile})))
    rows.append(row("SIGKILL, lost connections switched off", kills(10, {"lost_connection_after": 0})))
    head = (
        "what happened",
        "cause",
        "deaths",
        "exit to declared, ms (p50 / p99)",
        "declared to offered, ms (p50 / p99)",
        "exit to last call adopted, ms (p50 / p99)",
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


def _moves() -> tuple[str, bool]:
    good, made = True, []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:  # most of the time they wait
        for where, one in move_rows():
            made.append((where, one, [pool.submit(tried, where, one, meanwhile) for meanwhile in MEANWHILE]))
        rows = []
        for where, one, runs in made:
            seen = [run.result() for run in runs]
            ran = [outcome for outcome in seen if outcome is not None]
            if not ran:
                rows.append([where, one.name, "this server cannot", *"-----"])
                continue
            broken = [line for outcome in ran for line in outcome.broken]
            good &= not broken
            lost = [seconds for outcome in ran for seconds in outcome.lost]
            rows.append(
                [
                    where, one.name, "all kept" if not broken else "; ".join(broken),
                    " / ".join(f"{outcome.doubt:.1f}" for outcome in ran) + " s",
                    _longest([outcome.silent for outcome in ran]), _longest(ran[-1].meanwhile),
                    f"{len(lost)}, {_longest(lost)}" if lost else "none",
                    _longest([seconds for outcome in ran for seconds in outcome.afterwards]),
                ]
            )  # fmt: skip
            _say(str(rows[-1]))
    head = (
        "the store", "what happens", "promises", "longest doubt (nobody / newcomers / a death)", "not allowed to speak",
        "dies meanwhile, to adopted", "calls that lost data with it", "killed afterwards, to adopted",
    )  # fmt: skip
    return _table(head, rows), good


def _servers() -> tuple[str, bool]:
    good, names = True, list[str]()
    lines = [(where, one) for where, one in move_rows() if where in OF_OTHER_SERVERS]
    cells: list[list[str]] = [[where, one.name] for where, one in lines]
    for kind in other_servers.KINDS:
        if why := other_servers.missing_means(kind):
            _say(f"{kind}: {why}")
            continue
        program = other_servers.server(kind)
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        names.append(f"{version.split()[0]} {version.partition('v=')[2].split()[0]}")
        os.environ["TEST_REDIS_SERVER"] = program
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for cell, seen in zip(
                cells, pool.map(lambda row: tried(row[0], row[1], "a worker dies"), lines), strict=True
            ):
                broken = [] if seen is None else seen.broken
                good &= not broken
                said = "cannot" if seen is None else "; ".join(broken) or f"all kept, {seen.doubt:.1f} s"
                cell.append(said)
                _say(f"{names[-1]}: {cell[0]}, {cell[1]}: {said}")
        del os.environ["TEST_REDIS_SERVER"]
    return _table(("the store", "what happens", *names), cells), good


def _longest(seconds: Sequence[float]) -> str:
    return f"{max(seconds, default=0.0):.1f} s"


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


def _silent() -> tuple[str, bool]:
    rows, good = [], True
    for what, settings in (("on", {}), ("off", {"lost_connection_after": 0})):
        seen = fall_silent(1000, settings)
        good &= not seen.wrongly and seen.declared == 1000
        spread = f"{(seen.last - seen.first) * 1000:.0f} ms"
        said = "all kept" if not seen.wrongly else f"{len(seen.wrongly)} were declared that lived"
        rows.append([f"1,000 of 1,020, lost connections {what}", ", ".join(sorted(seen.causes)), seen.declared,
                     f"{seen.first:.1f} s", spread, f"{seen.adopted:.1f} s", said])  # fmt: skip
        _say(str(rows[-1]))
    head = ("silent at once", "cause", "declared", "first declared", "first to last", "last call adopted", "promises")
    return _table(head, rows), good


def _killers() -> tuple[str, bool]:
    rows, good = [], True
    for neighbours in (20, 200):
        for workers in (2, 10):
            for killers in (1, 3):
                seen = kill_from_within(neighbours, workers, killers)
                kept = not seen.broken and seen.letters == {f"kills-{n}" for n in range(killers)}
                good &= kept
                times = [seconds * 1000 for seconds in seen.silences]
                said = "all kept" if kept else "; ".join(seen.broken) or f"dead letters: {sorted(seen.letters)}"
                rows.append(
                    [neighbours, workers, killers, seen.deaths, len(seen.letters), seen.moves, _three(times), said]
                )
                _say(str(rows[-1]))
    head = (
        "neighbours", "workers", "calls that kill", "deaths", "dead letters", "most moves of a neighbour",
        "longest silence of each neighbour, ms (p50 / p99 / longest)", "promises",
    )  # fmt: skip
    return _table(head, rows), good


def _slow() -> tuple[str, bool]:
    rows, good = [], True
    for what, costs in (
        ("its loop over `offers()` waits 200 ms after each", {"attach": 0.2}),
        ("each handler of `serve` begins with 50 ms of work", {"work": 0.05}),
    ):
        seen = take_over(100, **costs)
        kept = not seen.broken and not seen.letters
        good &= kept
        said = "all kept" if kept else "; ".join(seen.broken) or "dead letters"
        rows.append(
            [what, 100, seen.letters, seen.attempts, f"{seen.last:.1f} s", f"{seen.silence * 1000:.0f} ms", said]
        )
        _say(str(rows[-1]))
    head = (
        "the heir", "calls", "dead letters", "most attempts", "last call adopted", "longest silence of its own calls", "promises",
    )  # fmt: skip
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


def _sidecars() -> tuple[str, bool]:
    rows, good = [], True
    for row, kept in behind_sidecars():
        good &= kept
        rows.append(row)
        _say(str(row))
    head = (
        "fault",
        *(f"{name}: longest silence" for name in ("Go", "JavaScript", "Python")),
        "calls that moved",
        "promises",
    )
    return _table(head, rows), good


TABLES: dict[str, Callable[[], tuple[str, bool]]] = {
    "evidence": _evidence,
    "faults": _faults,
    "moves": _moves,
    "servers": _servers,
    "sidecars": _sidecars,
    "mass": _mass,
    "silent": _silent,
    "killers": _killers,
    "slow": _slow,
    "rollout": _rollout,
    "callers": _callers,
}


def main(*arguments: str) -> int:
    """Measures these tables, or all; 1 when a promise was broken, 2 for a table that there is not."""
    if unknown := {*arguments} - {*TABLES, "--write"}:
        _say(f"There is no table {min(unknown)!r}; there are {', '.join(TABLES)}.")
        return 2
    good = True
    for name in [name for name in TABLES if name in arguments] or list(TABLES):
        table, kept = TABLES[name]()
        good &= kept
        if "--write" in arguments:  # at once: the next may be interrupted
            _write(name, table)
        else:
            _say(f"\n{name}\n\n{table}")
    if "--write" in arguments:
        system = f"{platform.system()} {platform.machine()}"
        _write("machine", f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}")
    return int(not good)


def _write(name: str, table: str) -> None:
    document = CALLERS if name == "callers" else DOCUMENT
    before, _, rest = document.read_text().partition(f"<!-- table: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    document.write_text(f"{before}<!-- table: {name} -->\n{table}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
