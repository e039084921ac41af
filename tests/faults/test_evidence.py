"""Each kind of evidence ends in a death by its own cause, and in an offer; short forms without a bound on time."""

from __future__ import annotations

import signal

from tests.faults.deployment import Deployment
from tests.faults.evidence import certificates, kills, over_a_line
from tests.waiting import wait_until


def test_certificates_are_seen_at_once() -> None:
    """A certified exit is claimed by an event, not by the next look."""
    lag = certificates(20)
    assert lag.count == 20
    assert lag.causes == {"exited"}


def test_a_killed_process_loses_its_connection() -> None:
    """SIGKILL is noticed by the presence connection."""
    assert kills(2, {}).causes == {"lost_connection"}


def test_with_an_exit_watcher_a_killed_worker_is_certified() -> None:
    """SIGKILL of a worker that nothing else watches is a certificate."""
    assert kills(2, {}, watched=True).causes == {"exited"}


def test_the_end_of_a_line_is_a_certificate() -> None:
    """SIGKILL of a worker that holds a line to a sidecar, which sees nothing else of it."""
    assert over_a_line(2).causes == {"exited"}


def test_without_connections_silence_tells() -> None:
    """Switched off, lost connections do not count."""
    assert kills(1, {"lost_connection_after": 0}).causes == {"silence"}


def test_a_successor_buries_its_predecessor() -> None:
    """Killed and started again under the same name: succession, as soon as the trust window is over."""
    assert kills(2, {}, again=True).causes <= {"succession", "lost_connection"}


def test_a_wedged_worker_fences_itself() -> None:
    """Its event loop stands still for longer than wedged_after: it is dead by that cause, and others have its calls."""
    with Deployment(settings={"wedged_after": 1}) as d:
        d.expect_death_of(1)
        d.workers[1].send(signal.SIGUSR1)
        wait_until(lambda: "wedged" in d.causes().values(), 20, "it fenced itself")
        assert d.causes() == {d.ids[1][0]: "wedged"}
        assert d.finish() == []


def test_a_worker_that_is_frozen_for_too_long_is_declared_and_fenced() -> None:
    """No proof of life can exist: it is dead, its calls are served by others, and it may do nothing when it continues."""
    with Deployment() as d:
        d.expect_death_of(1)
        d.workers[1].send(signal.SIGSTOP)
        wait_until(lambda: d.ids[1][0] in d.causes(), 20, "it is declared")
        assert d.causes() == {d.ids[1][0]: "silence"}
        wait_until(lambda: all(owner not in d.ids[1] for _, owner in d.owners().values()), 20, "others have its calls")
        d.workers[1].send(signal.SIGCONT)
        assert d.finish() == []
