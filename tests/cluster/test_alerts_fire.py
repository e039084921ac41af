"""Every alert fires by a real fault, on a real Prometheus that scrapes real coordinators and Redis, and ends with it.

The rules are the chart's own file; only their waiting times and windows are divided (see `FACTOR`). The tests share one
deployment and run in their order, each with a fault of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.processes import Process
from tests.kubernetes.dashboard import RATE, ROWS
from tests.kubernetes.monitoring import MISSING, Monitored
from tests.kubernetes.rules import alerts
from tests.store.harness import Bench
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.xdist_group("alerts"),
    pytest.mark.timeout(150),
]

QUIET, QUIET_SAMPLES = "12s", 20
"""As long as every alert waits but that of the slow budget burn; of 24 evaluations some may come late."""
UNEXPECTED = "LoopErrors"
FIRED: set[str] = set()


class Scene(Monitored):
    """The deployment, which notes what has fired."""

    def fires(self, alert: str, timeout: float = 30.0, **labels: str) -> None:
        """Waits for it, and notes it."""
        self.wait_for(alert, timeout, **labels)
        FIRED.add(alert)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Two coordinators and a worker with five calls, watched; no hold is on."""
    made = Scene()
    try:
        made.start_coordinators()
        made.start_workers("steady:call-1,call-2,call-3,call-4,call-5")
        made.start_workers("spare:")
        made.watch()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def lonely(scene: Scene) -> Process:
    """A worker of a pool of its own was killed with its three calls; nobody reads there."""
    worker = scene.start_workers("lonely-1:call-a,call-b,call-c", POOL="lonely")
    worker.send(signal.SIGKILL)
    return worker


def test_all_is_well(scene: Scene) -> None:
    """Nothing but the watchdog fires, for longer than nearly every alert waits, while calls are served and nothing is wrong."""

    def quiet() -> bool:
        rows = scene.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{QUIET}])')
        fired = {row["metric"]["alertname"]: int(row["value"][1]) for row in rows}
        return set(fired) == {"Watchdog"} and fired["Watchdog"] >= QUIET_SAMPLES

    wait_until(lambda: scene.query("sum(recovery_sessions) == 10"), 20, "both coordinators count five calls")
    wait_until(quiet, 60, "nothing fires")
    assert scene.query("partition:recovery_redis_unowned_sessions:max == 0"), "the exporter's script runs"
    FIRED.add("Watchdog")


def test_orphans_that_nobody_takes(scene: Scene, lonely: Process) -> None:
    """Calls of a killed worker without an heir: SessionsOrphaned, once for both coordinators, with their number."""
    scene.fires("SessionsOrphaned", partition="0")
    assert len(scene.firing()["SessionsOrphaned"]) == 1
    assert scene.query("max(recovery_orphaned_sessions) == 3")
    assert "OrphansUnseen" not in scene.firing(), "coordinators report them"


def test_a_full_pool(scene: Scene, lonely: Process) -> None:
    """A pool without a free slot: NoHeadroom with its name, until a second worker has room."""
    scene.start_workers("small-1:call-s1,call-s2", POOL="small", CAPACITY="2")
    scene.fires("NoHeadroom", pool="small")
    scene.start_workers("small-2:", POOL="small", CAPACITY="20")
    scene.wait_for_end("NoHeadroom")


def test_a_drain_that_nobody_takes(scene: Scene, lonely: Process) -> None:
    """A drain near its end with calls left: DrainOverrun, also when it is over; it ends some time after."""
    worker = scene.start_workers("alone-1:call-d1,call-d2", POOL="alone", DRAIN_TIMEOUT="6s")
    instance = worker.told("ready")[0]["instance"]
    told = subprocess.run(
        [sys.executable, "-m", "coordinator", "drain", instance],
        env={**os.environ, "COORDINATOR_REDIS_URL": scene.server.url},
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    scene.fires("DrainOverrun")
    assert scene.query("max(recovery_drain_sessions_remaining) == 2"), "it fires before the drain is over"
    wait_until(lambda: scene.query('sum(recovery_orphans_total{cause="left"}) == 2'), 20, "the rest was given up")
    assert "DrainOverrun" in scene.firing()
    scene.start_workers("alone-2:", POOL="alone").wait_for("adopted", 2)
    scene.wait_for_end("DrainOverrun")


def test_a_call_that_everybody_gives_back(scene: Scene, lonely: Process) -> None:
    """A call that is released more than MAX_RECOVERIES times is a dead letter: SessionsLost."""
    worker = scene.start_workers("poison-1:call-p", mode="poison", POOL="poison")
    wait_until(lambda: scene.query('sum(recovery_dead_letters_total{reason="max_recoveries"}) == 1'), 20, "given up on")
    scene.fires("SessionsLost")
    worker.close()


@contextmanager
def writing_from_the_grave(scene: Scene) -> Iterator[None]:
    """A program with a bug: its instance is dead, and it writes on, five times a second."""
    client = scene.server.client()
    bench = Bench(client)
    bench.join("zombie~1")
    epoch = bench.open("call-z", "zombie~1").int("epoch")
    bench.certify("zombie~1")
    over = threading.Event()
    refused: list[str] = []

    def write() -> None:
        while not over.wait(0.2):
            refused.append(bench.checkpoint("call-z", "zombie~1", epoch, 1, b"from the grave").word)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        client.close()
    assert set(refused) == {"FENCED"}


def test_a_fenced_writer(scene: Scene, lonely: Process) -> None:
    """A dead instance that goes on writing: FencedWrites with the operation."""
    with writing_from_the_grave(scene):
        scene.fires("FencedWrites", operation="checkpoint")


def test_what_does_not_parse(scene: Scene, lonely: Process) -> None:
    """A field of a living instance is no number: RecordsQuarantined, and nothing else changes."""
    client = scene.server.client()
    key = next(iter(client.scan_iter("{recovery:0}:instance:small-2*")))
    client.hset(key, "capacity", "many")
    scene.fires("RecordsQuarantined")
    client.close()


def test_redis_stands_still(scene: Scene, lonely: Process) -> None:
    """SIGSTOP of Redis: StoreUnreachable, then ScanStalled; gauges vanish instead of repeating; it goes on: all end."""
    scene.server.pause()
    try:
        scene.fires("StoreUnreachable")
        for gauge in ("orphaned_sessions", "fullest_instance_sessions", "drain_sessions_remaining"):
            wait_until(lambda: not scene.query(f"recovery_{gauge}"), description="nothing old is repeated")  # noqa: B023
        scene.fires("ScanStalled", partition="0")
    finally:
        scene.server.resume()
    scene.wait_for_end("StoreUnreachable", "ScanStalled")


def test_an_orphan_of_more_than_a_minute(scene: Scene, lonely: Process) -> None:
    """OrphanStuck, until an heir comes at last; then TakeoverSlow and ErrorBudgetBurn tell how long it was."""
    scene.fires("OrphanStuck", 90, partition="0")
    scene.start_workers("lonely-2:", POOL="lonely").wait_for("adopted", 3)
    scene.wait_for_end("OrphanStuck", "SessionsOrphaned")
    scene.fires("ErrorBudgetBurn", window="1h")
    scene.fires("TakeoverSlow")
    scene.fires("ErrorBudgetBurn", 60, window="6h")
    assert float(scene.query("namespace:recovery_error_budget:remaining_30d")[0]["value"][1]) < 0
    scene.wait_for_end("TakeoverSlow")


def test_what_is_over_is_forgotten(scene: Scene) -> None:
    """Some time after the last dead letter, refused write and broken record their alerts do not fire any more."""
    over = ("SessionsLost", "FencedWrites", "RecordsQuarantined")
    assert FIRED.issuperset(over)
    scene.wait_for_end(*over)


def test_many_die_at_once(scene: Scene) -> None:
    """Most workers killed at once, and no room for their calls: BreakerOpen, until workers come that have room."""
    crowd = scene.start_workers(*(f"crowd-{n}:call-m{n}" for n in range(12)), POOL="crowd")
    crowd.send(signal.SIGKILL)
    scene.fires("BreakerOpen", partition="0")
    assert scene.query("max(recovery_orphaned_sessions) == 0"), "nobody was declared dead"
    scene.start_workers("crowd-heir:", POOL="crowd").wait_for("adopted", 12)
    scene.wait_for_end("BreakerOpen", "SessionsOrphaned")


def test_no_coordinator_is_left(scene: Scene) -> None:
    """All coordinators killed: CoordinatorDown; then a worker dies: OrphansUnseen, by what Redis itself shows.

    The coordinators that come next have another DEAD_AFTER than the workers, and so a long hold after the gap: HoldActive. With
    the right setting the dead worker is found, and its calls go on.
    """
    worker = scene.start_workers("last-1:call-l1,call-l2", POOL="last")
    heir = scene.start_workers("last-2:", POOL="last")
    scene.kill_coordinators()
    scene.fires("CoordinatorDown")
    worker.send(signal.SIGKILL)
    scene.fires("OrphansUnseen", partition="0")
    assert scene.query('redis_script_values{key="recovery_expired_sessions:0"} == 2')
    scene.start_coordinators(COORDINATOR_DEAD_AFTER="8s")
    scene.fires("HoldActive", partition="0")
    scene.kill_coordinators()
    scene.start_coordinators()
    heir.wait_for("adopted", 2, timeout=40)
    scene.wait_for_end("CoordinatorDown", "HoldActive", "OrphansUnseen")


def test_the_dashboard_shows_it(scene: Scene) -> None:
    """Each expression of each panel has something to show of the last minutes, but for errors that nobody knows of yet."""
    empty = {
        panel.title
        for row in ROWS.values()
        for panel in row
        for expression in panel.queries
        if not scene.history(expression.replace(RATE, "20s").replace("$namespace", ".*").replace("$partition", ".*"))
    }
    assert empty == {"Loop errors"}


def test_redis_ends(scene: Scene) -> None:
    """Redis killed: StoreUnreachable, until it is started again, though it is empty."""
    scene.server.kill()
    scene.fires("StoreUnreachable")
    scene.server.start()
    scene.wait_for_end("StoreUnreachable")


def test_every_alert_has_fired(scene: Scene) -> None:
    """No alert is left for which no real fault made it fire, but the one for errors that nobody knows of yet."""
    assert set(alerts()) - FIRED == {UNEXPECTED}
