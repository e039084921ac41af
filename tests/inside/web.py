"""Inside what serves HTTP: the web's listeners, the sidecar, and the metrics that they export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.sidecar.proof import HealthCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client.metrics import MetricWrapperBase

    from coordinator.web.accepting import Acceptor
    from coordinator.web.connections import BoundedProtocol, Connections
    from tests.inside.spots import Spot

__all__ = [
    "cannot_accept",
    "has_addresses",
    "health_question_spot",
    "is_given_up",
    "labels_of",
    "late_for_the_sweep",
    "open_connections",
    "sweep",
]


def sweep(connections: Connections) -> None:
    """The look for those whose time is over, now and not when it is due; it is due again afterwards."""
    connections._sweep()


def late_for_the_sweep(connections: Connections, seconds: float) -> None:
    """As if the next look were so late: the process would have to stand still for it."""
    connections._next_sweep -= seconds


def open_connections(connections: Connections) -> Sequence[BoundedProtocol]:
    """Those that are open; their number is all that is told of them."""
    return list(connections._open)


def has_addresses(connections: Connections) -> bool:
    """Whether any address is remembered; none may be once its connections are gone, or a flood would fill the memory."""
    return bool(connections._addresses)


def is_given_up(connection: BoundedProtocol) -> bool:
    """Whether it is being closed by this side: its client sees the end later."""
    return connection._given_up


def cannot_accept(acceptor: Acceptor, error: OSError) -> None:
    """What an acceptor does with an error of its listener, which only a machine without files gives."""
    acceptor._rest(error)


def health_question_spot() -> Spot:
    """One question of a health check; another one answers without a server, and takes as long as it likes."""
    return HealthCheck, "_ask"


def labels_of(metric: MetricWrapperBase) -> Sequence[str]:
    """Names of a metric's labels; those without a value yet are in nothing that prometheus_client shows."""
    names: Sequence[str] = metric._labelnames
    return names
