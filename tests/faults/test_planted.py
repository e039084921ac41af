"""The history checker finds bugs that were planted in the scripts, in runs that keep every promise without them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.deployment import KEYS, Deployment
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]


def released_and_written(d: Deployment) -> None:
    """A worker releases its calls and goes on writing them."""
    d.workers[0].send(signal.SIGHUP)
    mine = set(d.calls[0])
    wait_until(lambda: all(o[1] not in d.ids[0] for c, o in d.owners().items() if c in mine), 20, "others have them")


def claimed_again_by_a_stale_coordinator(d: Deployment) -> None:
    """A worker dies, its calls are adopted, and a coordinator that stood still claims them once more."""
    d.kill(0)
    wait_until(d.all_served, 20, "its calls are adopted")
    subprocess.run(
        [sys.executable, "-m", "tests.faults.stale_claim", d.server.url, d.ids[0][0], *d.calls[0]],
        env=os.environ | d._environment, check=True, timeout=120,
    )  # fmt: skip


def the_clock_steps_ahead(d: Deployment) -> None:
    """All that the server remembers is a minute older from one moment to the next, as if its clock had jumped.

    Several times, since whoever beats between the jump and the next look is safe even without the guard.
    """
    for _ in range(12):
        pipe = d.client.pipeline(transaction=True)
        pipe.hincrby(KEYS.detector, "last_scan_ms", -60_000)
        for instance in d.client.zrange(KEYS.instances, 0, -1):
            pipe.zincrby(KEYS.instances, -60_000, instance)
        pipe.execute()
        threading.Event().wait(0.17)


def frozen_and_continued(d: Deployment) -> None:
    """A worker stands still until its calls are adopted, and continues."""
    d.expect_death_of(0)
    d.workers[0].send(signal.SIGSTOP)
    mine = set(d.calls[0])
    wait_until(
        lambda: all(o[0] == "active" and o[1] not in d.ids[0] for c, o in d.owners().items() if c in mine),
        20,
        "adopted",
    )
    d.workers[0].send(signal.SIGCONT)
    wait_until(lambda: len(d.client.zrange(KEYS.instances, 0, -1)) >= 3, 20, "it is back, under whichever id")


@dataclass(frozen=True)
class Bug:
    """Changes of files of the package: path, old text, new text."""

    name: str
    scenario: Callable[[Deployment], None]
    promise: str
    changes: tuple[tuple[str, str, str], ...]


RESURRECT = "if me.state == 'dead' then\n  redis.call('HSET', instance, 'state', 'alive')\nend\nif false then"

BUGS = (
    Bug("no epoch check", released_and_written, "G1", (
        ("store/lua/lib/owner.lua", "r.owner ~= owner or r.epoch ~= epoch or", ""),
    )),
    Bug("no fence on claim", claimed_again_by_a_stale_coordinator, "G1", (
        ("store/lua/claim.lua", "if r.owner ~= grave or", "if"),
    )),
    Bug("no tick guard", the_clock_steps_ahead, "G4", (
        ("store/lua/scan.lua", "elseif now - last > max_scan_gap_ms then", "elseif false then"),
        ("store/lua/declare.lua", "now - last > max_scan_gap_ms", "false"),
        # the second clock and the breaker alone make up for it, so they go too
        ("policy.py", "and watched >= its / 2", ""),
        ("store/lua/lib/breaker.lua", "if (suspects + recent) * 1000 <", "if true or (suspects + recent) * 1000 <"),
    )),
    Bug("a beat that creates", frozen_and_continued, "G4", (
        ("store/lua/beat.lua", "if me.state == 'dead' then", RESURRECT),
    )),
)  # fmt: skip


def _planted(bug: Bug, folder: Path) -> str:
    shutil.copytree(REPOSITORY / "coordinator", folder / "coordinator", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in bug.changes:
        file = folder / "coordinator" / name
        text = file.read_text()
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new))
    return str(folder)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_found(bug: Bug, tmp_path: Path) -> None:
    """With the bug the history breaks its promise."""
    with Deployment(code=_planted(bug, tmp_path)) as d:
        bug.scenario(d)
        broken = d.finish()
    assert any(line.startswith(bug.promise) for line in broken), broken


@pytest.mark.parametrize("bug", BUGS[1:3], ids=lambda bug: bug.name.replace(" ", "-"))
def test_without_the_bug_nothing_is_found(bug: Bug) -> None:
    """The same run on the scripts as they are keeps all promises. (Releases and frozen workers have tests of their own.)"""
    with Deployment() as d:
        bug.scenario(d)
        assert d.finish() == []
