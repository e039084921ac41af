"""The example workers and real faults: never two speak for a call, each call is served again or closed, and no worker ends."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.sidecar.example_site import HASTY, Site, site


def sidecar_killed(seconds: float) -> Callable[[Site], None]:
    """SIGKILL of the sidecar alone; it is started again after a while."""

    def fault(site: Site) -> None:
        site.sidecar.send(signal.SIGKILL)
        site.stay(seconds)
        site.start_sidecar()

    return fault


def sidecar_stopped(seconds: float) -> Callable[[Site], None]:
    """The sidecar stands still."""

    def fault(site: Site) -> None:
        site.sidecar.send(signal.SIGSTOP)
        site.stay(seconds)
        site.sidecar.send(signal.SIGCONT)

    return fault


def workers_stopped(seconds: float) -> Callable[[Site], None]:
    """The workers stand still; what their sidecar says meanwhile waits for them."""

    def fault(site: Site) -> None:
        for worker in site.front.values():
            worker.send(signal.SIGSTOP)
        site.stay(seconds)
        for worker in site.front.values():
            worker.send(signal.SIGCONT)

    return fault


def redis_stands_still(seconds: float) -> Callable[[Site], None]:
    """The store does not answer."""

    def fault(site: Site) -> None:
        site.server.pause()
        site.stay(seconds)
        site.server.resume()

    return fault


def sidecar_killed_without_redis(site: Site) -> None:
    """The sidecar is killed and started again while the store does not answer."""
    site.server.pause()
    site.stay(1.5)
    site.sidecar.send(signal.SIGKILL)
    site.stay(1.5)
    site.server.resume()
    site.start_sidecar()


FAULTS = {
    "its sidecar is killed, and away for 2 s": (sidecar_killed(2), ()),
    "its sidecar is killed, and away for 12 s": (sidecar_killed(12), ()),
    "its sidecar is killed, and away for too long": (sidecar_killed(6), HASTY),
    "its sidecar stands still for 6 s": (sidecar_stopped(6), ()),
    "its sidecar stands still for too long": (sidecar_stopped(6), HASTY),
    "it stands still for 3 s": (workers_stopped(3), ()),
    "it stands still for 7 s": (workers_stopped(7), ()),
    "Redis stands still for 10 s": (redis_stands_still(10), ()),
    "its sidecar is killed while Redis stands still": (sidecar_killed_without_redis, ()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: str) -> None:
    """Workers in three languages come through it: one voice for each call, and each call is served in the end."""
    cause, settings = FAULTS[fault]
    with site(*settings) as here:
        cause(here)
        here.wait_until_served()


def test_a_call_that_ends_while_the_sidecar_is_away() -> None:
    """The caller hangs up meanwhile: the call is closed when the sidecar is back, and nobody speaks for it any more."""
    with site() as here:
        here.sidecar.send(signal.SIGKILL)
        here.wait(lambda worker: worker.told("detached"), here.front, "it is without its sidecar")
        ended = [calls[0] for calls in here.calls.values()]
        for worker, call in zip(here.front.values(), ended, strict=True):
            assert worker.hang_up(call) == 200
            assert call not in worker.speaks_for()
        here.start_sidecar()
        here.wait_until_served(*ended)
        for worker, call in zip(here.front.values(), ended, strict=True):
            assert [line["session"] for line in worker.told("closed")] == [call]


def test_a_planned_restart_of_the_sidecar() -> None:
    """SIGTERM: each call goes to its heir when its owner has stopped to speak; the workers start over behind the next sidecar."""
    with site() as here:
        here.sidecar.send(signal.SIGTERM)
        for lang, calls in here.calls.items():
            here.back[lang].wait_for("adopted", len(calls))
        here.wait(lambda worker: worker.told("over"), here.front, "its instance is over")
        here.start_sidecar()
        here.wait_until_served()
        assert {line["reason"].partition(" to ")[0] for w in here.front.values() for line in w.told("lost")} == {
            "handed over"
        }
